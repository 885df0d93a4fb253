"""What the loss is, and which way its gradient leads."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import texalign as ta
from host_network import TINY
from loss_parts import (
    GRADIENT_ROUNDING,
    Fixed,
    encoder,
    gradient_of,
    loss_of,
    pixels_to_metres,
    relative,
    seeded,
    significantly_positive,
)

# --- what comes back ---------------------------------------------------------


def test_a_scalar_and_its_reductions(surface, photographs):
    vertices, camera, image = photographs(3)
    each = loss_of(surface, reduction="none")(vertices, camera, image, generator=seeded())
    assert each.shape == (3,) and each.dtype == torch.float32
    mean, total = (
        loss_of(surface, reduction=name)(vertices, camera, image, generator=seeded()) for name in ("mean", "sum")
    )
    assert mean.shape == total.shape == ()
    torch.testing.assert_close(mean, each.mean())
    torch.testing.assert_close(total, each.sum())
    assert (each.abs() < 6).all()


def test_the_mean_is_over_the_samples_that_are_kept(surface, photographs):
    vertices, camera, image = photographs(3)
    vertices[1, 0, 0] = torch.nan
    each = loss_of(surface, reduction="none")(vertices, camera, image, generator=seeded())
    assert each[1] == 0
    mean, details = loss_of(surface)(vertices, camera, image, generator=seeded(), return_details=True)
    assert details.skipped.tolist() == [False, True, False]
    torch.testing.assert_close(mean, (each[0] + each[2]) / 2)


def size_of(details):
    """(B,): the hand's size in pixels, by its mesh or by the evidence for it, whichever is larger."""
    speaking = (details.evidence < 0).sum(dim=(1, 2, 3))
    return torch.maximum(speaking, details.coverage.sum(dim=(1, 2, 3)))


def test_details(surface, photographs):
    vertices, camera, image = photographs(2)
    leaf = vertices.requires_grad_()
    loss, details = loss_of(surface, prior=encoder(surface))(leaf, camera, image, return_details=True)
    shapes = {
        "per_sample": (2,),
        "texture": (2, 3, 32, 32),
        "fitted": (2, 3, 48, 48),
        "residual": (2, 3, 48, 48),
        "evidence": (2, 1, 48, 48),
        "coverage": (2, 1, 48, 48),
        "skipped": (2,),
    }
    assert {field.name for field in fields(details)} == {*shapes, "rendering"}
    for name, shape in shapes.items():
        tensor = getattr(details, name)
        assert tensor.shape == shape, name
        assert tensor.requires_grad == (name == "per_sample"), name
    assert details.rendering.image.requires_grad
    torch.testing.assert_close(details.per_sample.mean(), loss)
    torch.testing.assert_close(details.residual, (details.fitted - image).abs())
    assert torch.equal(details.coverage, details.rendering.coverage.detach())
    assert details.evidence.abs().max() <= 6
    by_hand = (details.coverage * details.evidence).sum(dim=(1, 2, 3)) / size_of(details)
    # Of terms up to 6 in size, 48² of them over at least as many covered ones: 6 × 48² × 2⁻²⁴ at the worst order.
    torch.testing.assert_close(by_hand, details.per_sample.detach(), rtol=0, atol=1e-3)
    assert not details.skipped.any()


def test_evidence_tells_hand_from_background_and_stops_at_the_wrist(surface, photographs):
    vertices, camera, image = photographs(3, 64)
    _, details = loss_of(surface, 64)(vertices, camera, image, return_details=True)
    inside, outside = details.coverage > 0.99, details.coverage == 0
    judged = details.evidence != 0
    assert details.evidence[inside & judged].mean() < -4
    # Beyond the carried colours of the outline, hand and background are both known.
    assert details.evidence[outside & judged].mean() > 3
    wrist = max(surface.boundary_loops, key=len)
    middle = camera.project(vertices[:, list(wrist)]).mean(dim=1)
    away = middle - camera.project(vertices).mean(dim=1)
    beyond = (middle + 4 * away / away.norm(dim=1, keepdim=True)).long().clamp(0, 63)
    for sample in range(3):
        assert details.evidence[sample, 0, beyond[sample, 1], beyond[sample, 0]] == 0


def test_a_closed_wrist_has_nothing_beyond_it(surface, photographs):
    vertices, camera, image = photographs(2)
    _, details = loss_of(surface.closed_wrist())(vertices, camera, image, return_details=True)
    _, opened = loss_of(surface)(vertices, camera, image, return_details=True)
    assert (details.evidence != 0).float().mean() > 0.99 > (opened.evidence != 0).float().mean()


def test_the_observations_are_a_constant_and_as_many_as_asked_for(surface, photographs):
    vertices, camera, image = photographs(2)
    for train_texture in (False, True):
        loss_fn = loss_of(surface, token_count=100, train_texture=train_texture)
        loss_fn(vertices.clone().requires_grad_(), camera, image.clone().requires_grad_())
        seen = loss_fn.encoder.seen
        assert seen.valid.shape == (2, 100)
        assert not seen.uv.requires_grad and not seen.rgb.requires_grad


def test_image_size_matters_little(surface, photographs):
    results = []
    for size in (48, 96):
        vertices, camera, image = photographs(6, size, noise=0.0)
        vertices = vertices + torch.tensor([0.01, 0.0, 0.0])
        value, gradient = gradient_of(loss_of(surface, size, reduction="none"), vertices, camera, image)
        results.append((value, gradient.sum(dim=1)[:, 0]))
    (small, small_push), (large, large_push) = results
    assert (small - large).abs().max() < 0.6
    assert (small - large).mean().abs() < 0.3
    assert 0.7 < (small_push.sum() / large_push.sum()) < 1.4


# --- which way the gradient leads ------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "metres"), [((3, 0), 0), ((-3, 0), 0), ((0, 3), 0), ((0, -3), 0), ((0, 0), 0.03), ((0, 0), -0.03)]
)
def test_a_step_down_the_gradient_leads_home(surface, photographs, pixels, metres):
    vertices, camera, image = photographs(12, 64)
    shift = torch.tensor([*(pixels_to_metres(camera, each) for each in pixels), metres])
    loss_fn = loss_of(surface, 64, reduction="none")
    there, gradient = gradient_of(loss_fn, vertices + shift, camera, image)
    along = gradient.sum(dim=1) @ shift.sign()
    assert significantly_positive(along)
    if not metres:  # 6 % nearer or farther changes the value less than the sampling of pixels does
        assert significantly_positive(there - loss_fn(vertices, camera, image))


def test_the_gradient_is_roughly_that_of_the_value(surface, photographs, smooth_texture):
    """Scale, colour fit and background are constants of a step, so only sign and magnitude can agree."""
    vertices, camera, image = photographs(8, 64, texture=smooth_texture)
    vertices = vertices + torch.tensor([pixels_to_metres(camera, 2), pixels_to_metres(camera, -2), 0.0])
    loss_fn = loss_of(surface, 64, Fixed(smooth_texture), reduction="none")

    def total(move):
        """The area is a constant of the step too, or growing would pay by diluting the worst pixels."""
        _, details = loss_fn(vertices + move, camera, image, generator=seeded(), return_details=True)
        return (details.per_sample * size_of(details)).detach()

    _, details = loss_fn(vertices, camera, image, generator=seeded(), return_details=True)
    _, gradient = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
    step = pixels_to_metres(camera, 0.5)
    for axis, size in ((0, step), (1, step), (2, 10 * step)):
        move = torch.zeros(3)
        move[axis] = size
        numeric = (total(move) - total(-move)) / (2 * size) / size_of(details)
        analytic = gradient.sum(dim=1)[:, axis]
        # Over the hands; vectors of 8 that have nothing to do with each other have 0 ± 0.35.
        assert torch.cosine_similarity(analytic, numeric, dim=0) > 0.7, axis
        assert 0.4 < analytic.abs().sum() / numeric.abs().sum() < 2.5, axis


# --- who gets a gradient ----------------------------------------------------------


def test_the_prior_learns_only_when_asked_and_the_vertices_do_not_notice(surface, photographs):
    vertices, camera, image = photographs(2)
    gradients = []
    for train_texture in (False, True):
        prior = encoder(surface)
        loss_fn = loss_of(surface, prior=prior, train_texture=train_texture)
        leaf = vertices.clone().requires_grad_()
        loss_fn(leaf, camera, image, generator=seeded()).backward()
        gradients.append(leaf.grad)
        got = [parameter.grad is not None for parameter in prior.parameters()]
        assert all(got) if train_texture else not any(got)
        if train_texture:
            assert prior.decoder.head.weight.grad.abs().max() > 0
            assert all(torch.isfinite(parameter.grad).all() for parameter in prior.parameters())
    assert relative(gradients[1], gradients[0]) < GRADIENT_ROUNDING


# --- the bound ------------------------------------------------------------------


def test_each_samples_gradient_is_bounded_in_length_not_in_direction(surface, photographs):
    vertices, camera, image = photographs(3)
    vertices = vertices + torch.tensor([pixels_to_metres(camera, 3), 0.0, 0.0])

    def gradient(bound):
        loss_fn = loss_of(surface, max_grad=bound, reduction="sum")
        return gradient_of(loss_fn, vertices, camera, image, generator=seeded())[1].flatten(1)

    free = gradient(1e9)
    assert torch.equal(gradient(float(2 * free.norm(dim=1).max())), free)  # inactive below
    assert torch.equal(gradient(500.0), free)  # the default only catches what is out of the ordinary
    bound = float(free.norm(dim=1).median())
    held = gradient(bound)
    assert held.norm(dim=1).max() <= bound * (1 + 1e-4)  # 2334 squares in any order: 2334 × 2⁻²⁴
    expected = free * (bound / free.norm(dim=1, keepdim=True)).clamp(max=1)
    assert relative(held, expected) < 1e-4


@pytest.mark.parametrize("weight", [2.0**-10, 2.0**17])  # powers of two: they round nothing
@pytest.mark.parametrize("bound", [1.0, 500.0])
def test_the_bound_comes_before_the_mean_and_the_callers_weight(surface, photographs, weight, bound):
    vertices, camera, image = photographs(2)
    _, plain = gradient_of(
        loss_of(surface, max_grad=bound, reduction="sum"), vertices, camera, image, generator=seeded()
    )
    mean = loss_of(surface, max_grad=bound)
    _, weighted = gradient_of(lambda *args: weight * mean(*args, generator=seeded()), vertices, camera, image)
    assert relative(2 * weighted / weight, plain) < 1e-4  # norms of 2334 squares in any order


# --- how it is made -----------------------------------------------------------------


def test_in_one_call(surface, photographs):
    """The bundled prior on MANO's topology, with whatever else the constructor takes."""
    vertices, camera, image = photographs(2)
    made = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=48, reduction="none", token_count=100)
    by_hand = loss_of(surface, prior=ta.UVTextureEncoder.from_pretrained(), reduction="none", token_count=100)
    values = [loss_fn(vertices, camera, image, generator=seeded()) for loss_fn in (made, by_hand)]
    assert values[0].shape == (2,) and torch.equal(*values)
    wide = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=(24, 48)).renderer
    assert (wide.height, wide.width) == (24, 48)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        ta.DenseTextureAlignmentLoss.from_pretrained(colour=1)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(reduction="average"), "expected reduction mean, sum or none, got 'average'"),
        (dict(token_count=0), "expected a whole token_count > 0, got 0"),
        (dict(max_grad=0.0), "expected max_grad > 0, got 0.0"),
        (dict(max_grad=float("nan")), "expected max_grad > 0, got nan"),
        (dict(residual_cost="laplace"), "expected residual_cost to be a function, got str"),
    ],
)
def test_settings_that_make_no_sense_are_refused(surface, change, message):
    with pytest.raises((TypeError, ValueError), match=rf"^DenseTextureAlignmentLoss: {message}"):
        loss_of(surface, 32, **change)


def test_parts_that_do_not_fit_are_refused(surface):
    who = "^DenseTextureAlignmentLoss: "
    with pytest.raises(TypeError, match=who + "expected renderer to be a TexturedHandRenderer, got HandSurface"):
        ta.DenseTextureAlignmentLoss(surface, encoder(surface))
    other = ta.UVTextureEncoder(ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces), **TINY)
    with pytest.raises(ValueError, match=who + f".*atlas {surface.atlas_id}.*{other.atlas_id}"):
        loss_of(surface, 32, other)

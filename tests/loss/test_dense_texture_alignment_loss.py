from __future__ import annotations

import copy
import pickle
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import texalign as ta
from host_network import TINY, tiny_encoder
from texalign.loss import LossInputs

SKIN = torch.tensor([0.8, 0.55, 0.45])
WALL = torch.tensor([0.2, 0.35, 0.5])
PLAIN = SKIN[None, :, None, None].expand(1, 3, 16, 16)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])
# The terms that are off by default: what holds without them must hold with them.


class MeanColour(nn.Module):
    """A prior that sees one colour: the mean of the valid observations. Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.seen, self.group = None, None

    def forward(self, observations, group=None):
        self.seen, self.group = observations, group
        weight = observations.valid[..., None].float()
        mean = (observations.rgb * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return mean[:, :, None, None].expand(-1, -1, 16, 16)


class Fixed(nn.Module):
    """A prior that knows the texture."""

    def __init__(self, texture):
        super().__init__()
        self.texture = nn.Parameter(texture)

    def forward(self, observations, group=None):
        return self.texture.expand(len(observations.valid), -1, -1, -1)


def encoder(surface, seed=0):
    return tiny_encoder(surface, seed, spread=0.3)


def loss_of(surface, size=48, prior=None, **kwargs):
    draw = ta.TexturedHandRenderer(surface, size, backend="torch")
    return ta.DenseTextureAlignmentLoss(draw, MeanColour() if prior is None else prior, **kwargs)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photographs(surface, scene):
    """A function: count, size, seed → vertices, camera, image of skin-coloured hands before a bluish wall."""

    def make(count=2, size=48, seed=0, texture=PLAIN, noise=0.02):
        vertices, camera = scene(count, size, seed=seed)
        camera = ta.PinholeCamera(camera.focal * 0.7, camera.principal)  # room to move
        out = ta.TexturedHandRenderer(surface, size, backend="torch")(vertices, camera, texture)
        image = out.image + (1 - out.coverage) * WALL[:, None, None]
        image = image + noise * torch.randn(image.shape, generator=seeded(seed))
        return vertices, camera, image.clamp(0, 1)

    return make


def pixels_to_metres(camera, pixels, distance=0.5):
    return float(pixels * distance / camera.focal[0, 0])


def gradient_of(loss_fn, vertices, *args, **kwargs):
    """Value or values, and the gradient of their sum."""
    leaf = vertices.clone().requires_grad_()
    value = loss_fn(leaf, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def significantly_positive(values):
    """Of independent hands: the mean is more than four standard errors above 0, whichever hands were sampled."""
    return bool(values.mean() > 4 * values.std() / len(values) ** 0.5)


def relative(found, expected):
    """How far off, in L2 norm: rounding gives 1e-6, a pixel that changes sides of a threshold 1e-3, a mistake 0.1."""
    return float((found - expected).norm() / expected.norm())


def picked(camera, index):
    return ta.PinholeCamera(camera.focal[index], camera.principal[index])


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


# --- independence of batch and image size -------------------------------------


def test_a_batch_is_its_samples(surface, photographs):
    vertices, camera, image = photographs(3, 64)
    mask = (torch.rand(3, 1, 64, 64, generator=seeded()) > 0.2).float()
    # Every pixel is observed: nothing to draw.
    loss_fn = loss_of(surface, 64, token_count=64 * 64, reduction="none")
    values, gradient = gradient_of(loss_fn, vertices, camera, image, mask)
    for sample in range(3):
        one = slice(sample, sample + 1)
        value, own = gradient_of(loss_fn, vertices[one], picked(camera, one), image[one], mask[one])
        # One pixel of a hand of about 300 that changes sides of a threshold: 1/300 of a value up to 6.
        torch.testing.assert_close(value, values[one], atol=2e-2, rtol=0)
        assert relative(own, gradient[one]) < 1e-2


def test_image_size_matters_little(surface, photographs):
    results = []
    for size in (48, 96):
        vertices, camera, image = photographs(6, size, noise=0.0)
        vertices = vertices + torch.tensor([0.01, 0.0, 0.0])
        value, gradient = gradient_of(loss_of(surface, size, reduction="none"), vertices, camera, image)
        results.append((value, gradient.sum(dim=1)[:, 0]))
    (small, small_pull), (large, large_pull) = results
    assert (small - large).abs().max() < 0.6
    assert (small - large).mean().abs() < 0.3
    assert 0.7 < (small_pull.sum() / large_pull.sum()) < 1.4


# --- which way it pulls --------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_pulls_home(surface, photographs, axis, sign):
    vertices, camera, image = photographs(12, 64)
    loss_fn = loss_of(surface, 64, reduction="none")
    shift = torch.zeros(3)
    shift[axis] = sign * pixels_to_metres(camera, 3)
    there, gradient = gradient_of(loss_fn, vertices + shift, camera, image)
    assert significantly_positive(there - loss_fn(vertices, camera, image))
    assert significantly_positive(gradient.sum(dim=1)[:, axis] * sign)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_pulls_home_in_depth(surface, photographs, sign):
    vertices, camera, image = photographs(12, 64)
    shift = torch.tensor([0.0, 0.0, sign * 0.03])
    _, gradient = gradient_of(loss_of(surface, 64, reduction="none"), vertices + shift, camera, image)
    assert significantly_positive(gradient.sum(dim=1)[:, 2] * sign)


def test_a_few_steps_down_bring_the_hand_home(surface, photographs):
    vertices, camera, image = photographs(2, 64)
    shift = torch.tensor([pixels_to_metres(camera, 3), -pixels_to_metres(camera, 2), 0.0]).expand(2, 1, 3)
    offset = shift.clone().requires_grad_()
    loss_fn, optimizer = loss_of(surface, 64), torch.optim.Adam([offset], lr=1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss_fn(vertices + offset, camera, image, generator=seeded()).backward()
        optimizer.step()
    assert (offset.detach()[..., :2].norm(dim=-1) < 0.35 * shift[..., :2].norm(dim=-1)).all()


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


# --- left hands, masks, groups --------------------------------------------------


def test_a_left_sample_is_the_mirror_image_of_a_right_one(surface, photographs):
    vertices, camera, image = photographs(2, 48)
    camera = ta.PinholeCamera(camera.focal, camera.principal + torch.tensor([3.0, 1.0]))
    mask = (torch.rand(2, 1, 48, 48, generator=seeded()) > 0.3).float()
    valid = (torch.arange(48) < 30).float().expand(2, 1, 48, 48)
    loss_fn = loss_of(surface, prior=encoder(surface), reduction="none")
    value, gradient = gradient_of(loss_fn, vertices, camera, image, mask, valid, generator=seeded())
    # The second sample as a left hand; the first stays.
    mirrored = camera.mirrored(48)
    mixed = ta.PinholeCamera(camera.focal, torch.stack([camera.principal[0], mirrored.principal[1]]))
    sides = {
        "is_right": torch.tensor([True, False]),
        "vertices": torch.stack([vertices[0], vertices[1] * MIRROR]),
        "image": torch.stack([image[0], image[1].flip(-1)]),
        "mask": torch.stack([mask[0], mask[1].flip(-1)]),
        "valid": torch.stack([valid[0], valid[1].flip(-1)]),
    }
    pictures = sides["image"], sides["mask"], sides["valid"]
    left_value, left_gradient = gradient_of(
        loss_fn, sides["vertices"], mixed, *pictures, is_right=sides["is_right"], generator=seeded()
    )
    torch.testing.assert_close(left_value, value, rtol=0, atol=1e-3)
    assert relative(left_gradient[0], gradient[0]) < 1e-2
    assert relative(left_gradient[1] * MIRROR, gradient[1]) < 1e-2
    assert gradient[1].abs().max() > 0.1


def test_all_right_is_the_default_and_mirroring_twice_is_nothing(surface, photographs):
    vertices, camera, image = photographs(2)
    loss_fn = loss_of(surface)
    right = torch.ones(2, dtype=torch.bool)
    plain = loss_fn(vertices, camera, image, generator=seeded())
    assert torch.equal(loss_fn(vertices, camera, image, is_right=right, generator=seeded()), plain)
    inputs = LossInputs(vertices, camera, image)
    once = inputs.mirrored(right)
    assert torch.equal(once.vertices, vertices * MIRROR) and torch.equal(once.image, image.flip(-1))
    assert once.mask is None and once.valid is None
    twice = once.mirrored(right)
    assert torch.equal(twice.vertices, vertices) and torch.equal(twice.image, image)
    torch.testing.assert_close(twice.camera.principal, camera.principal)
    none = inputs.mirrored(~right)
    assert torch.equal(none.vertices, vertices) and torch.equal(none.camera.principal, camera.principal)


def test_skin_never_repels_and_what_is_not_skin_never_attracts(surface, photographs):
    vertices, camera, image = photographs(2)
    vertices = vertices + torch.tensor([pixels_to_metres(camera, 3), 0.0, 0.0])
    loss_fn = loss_of(surface, prior=Fixed(PLAIN))
    _, plain = loss_fn(vertices, camera, image, return_details=True)
    assert (plain.evidence > 1).any() and (plain.evidence < -1).any()
    mask = torch.zeros(2, 1, 48, 48)
    mask[..., :24] = 1
    _, masked = loss_fn(vertices, camera, image, mask, return_details=True)
    assert (masked.evidence[..., :24] <= 0).all() and (masked.evidence[..., :24] < -1).any()
    assert (masked.evidence[..., 24:] >= 0).all() and (masked.evidence[..., 24:] > 1).any()


def test_a_mask_of_ones_is_no_segmentation(surface, photographs):
    """What loaders put where they have none; beside a sample that has one, and when only padding is cut out of it."""
    vertices, camera, image = photographs(2)
    vertices = vertices + torch.tensor([pixels_to_metres(camera, 3), 0.0, 0.0])
    loss_fn = loss_of(surface, prior=Fixed(PLAIN), reduction="none")
    plain, plain_gradient = gradient_of(loss_fn, vertices, camera, image)
    mask = torch.ones(2, 1, 48, 48)
    mask[0, :, :, :24] = 0
    masked, gradient = gradient_of(loss_fn, vertices, camera, image, mask)
    torch.testing.assert_close(masked[1], plain[1], rtol=0, atol=1e-3)
    assert relative(gradient[1], plain_gradient[1]) < 1e-2
    assert (masked[0] - plain[0]).abs() > 0.1
    valid = (torch.arange(48) >= 6).float().expand(2, 1, 48, 48)
    padded = gradient_of(loss_fn, vertices, camera, image, valid.clone(), valid)
    unknown = gradient_of(loss_fn, vertices, camera, image, None, valid)
    torch.testing.assert_close(padded[0], unknown[0], rtol=0, atol=1e-3)
    assert relative(padded[1], unknown[1]) < 1e-2


def test_padding_is_neither_hand_nor_background(surface, photographs):
    """A crop that cuts a hand: what lies in the padding changes nothing, and the hand is not pushed out of it."""
    vertices, camera, image = photographs(2)
    cut = float(camera.project(vertices)[..., 0].mean())
    valid = (torch.arange(48) + 0.5 < cut).float().expand(2, 1, 48, 48)
    loss_fn = loss_of(surface)
    results = []
    for filling in (torch.zeros(3), torch.tensor([0.1, 0.9, 0.1]), SKIN):
        padded = torch.where(valid > 0, image, filling[:, None, None])
        value, gradient = gradient_of(loss_fn, vertices, camera, padded, None, valid, generator=seeded())
        seen = loss_fn.encoder.seen
        assert seen.valid.any(dim=1).all() and (seen.rgb[seen.valid] - SKIN).abs().max() < 0.25
        results.append((value, gradient))
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])
    _, details = loss_fn(vertices, camera, padded, None, valid, return_details=True)
    assert (details.evidence * (1 - valid) == 0).all() and (details.evidence * valid < -1).any()
    outside = (camera.project(vertices)[..., 0] > cut + 2)[..., None].expand(-1, -1, 3)
    assert (results[0][1][outside] == 0).all() and results[0][1].abs().max() > 0.1
    black = torch.where(valid > 0, image, 0)
    _, unaware = gradient_of(loss_fn, vertices, camera, black, generator=seeded())
    assert unaware[outside].abs().max() > 0.1  # without it, black borders push the hand away


def test_a_hand_all_in_the_padding_is_skipped(surface, photographs):
    vertices, camera, image = photographs(2)
    valid = torch.ones(2, 1, 48, 48)
    valid[1] = 0
    _, details = loss_of(surface)(vertices, camera, image, None, valid, return_details=True)
    assert details.skipped.tolist() == [False, True]


@pytest.fixture(scope="module")
def occluded(surface, photographs):
    """A thing of its own colour on the middle of the hands: vertices, camera, image, its place (B, 1, H, W) bool."""
    vertices, camera, image = photographs(2, 64)
    out = ta.TexturedHandRenderer(surface, 64, backend="torch")(vertices, camera, PLAIN)
    centre = camera.project(vertices).mean(dim=1)[:, :, None, None]
    x, y = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="xy")
    near = (torch.stack([x, y]) - centre).norm(dim=1, keepdim=True) < 4
    thing = near & (out.coverage > 0.99)
    assert (thing.sum(dim=(1, 2, 3)) > 20).all()
    return vertices, camera, torch.where(thing, torch.tensor([0.1, 0.9, 0.1])[:, None, None], image), thing


def test_masked_pixels_are_not_observed(surface, occluded):
    vertices, camera, image, thing = occluded
    loss_fn = loss_of(surface, 64)
    loss_fn(vertices, camera, image, (~thing).float())
    seen = loss_fn.encoder.seen
    assert (seen.rgb[seen.valid] - SKIN).abs().max() < 0.25
    loss_fn(vertices, camera, image)
    seen = loss_fn.encoder.seen
    assert (seen.rgb[seen.valid] - SKIN).abs().max() > 0.5


def test_masked_pixels_have_no_say_in_the_colour_fit(surface, occluded):
    vertices, camera, image, thing = occluded
    repainted = torch.where(thing, torch.tensor([0.9, 0.0, 0.9])[:, None, None], image)
    loss_fn = loss_of(surface, 64, token_count=64 * 64)
    fits = [
        loss_fn(vertices, camera, picture, (~thing).float(), return_details=True)[1].fitted
        for picture in (image, repainted)
    ]
    torch.testing.assert_close(fits[0], fits[1], atol=1e-4, rtol=0)


def test_under_an_occluder_a_hand_may_lie_but_not_before_the_background(surface, occluded, photographs):
    """Masked out, unlike the hand: if unlike the background as well, it hides something, and says nothing."""
    vertices, camera, image, thing = occluded
    loss_fn = loss_of(surface, 64)
    _, details = loss_fn(vertices, camera, image, (~thing).float(), return_details=True)
    hole = torch.where(thing, WALL[:, None, None], image)
    _, through = loss_fn(vertices, camera, hole, (~thing).float(), return_details=True)
    judged = thing & (through.evidence != 0)
    assert through.evidence[judged].mean() > 2
    assert details.evidence[judged].mean() < 0.5


def test_groups_reach_the_prior(surface, photographs):
    vertices, camera, image = photographs(3)
    ids = torch.tensor([7, 7, 3])
    loss_fn = loss_of(surface)
    loss_fn(vertices, camera, image, group=ids)
    assert torch.equal(loss_fn.encoder.group, ids)
    loss_fn(vertices, camera, image)
    assert loss_fn.encoder.group is None
    _, details = loss_of(surface, prior=encoder(surface))(vertices, camera, image, group=ids, return_details=True)
    torch.testing.assert_close(details.texture[0], details.texture[1], rtol=0, atol=1e-6)  # 8 ulps of 1
    assert not torch.equal(details.texture[0], details.texture[2])


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
    assert relative(gradients[1], gradients[0]) < 1e-2


def test_no_gradient_is_recorded_where_none_is_wanted(surface, photographs):
    vertices, camera, image = photographs(1)
    loss_fn = loss_of(surface, prior=encoder(surface), train_texture=True)
    with torch.no_grad():
        assert not loss_fn(vertices.clone().requires_grad_(), camera, image).requires_grad
    assert not loss_of(surface)(vertices, camera, image).requires_grad
    leaf = image.clone().requires_grad_()
    loss = loss_of(surface)(vertices.clone().requires_grad_(), camera, leaf)
    assert torch.autograd.grad(loss, leaf, allow_unused=True)[0] is None


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
def test_the_bound_comes_before_the_callers_weight(surface, photographs, weight):
    vertices, camera, image = photographs(2)
    for bound in (1.0, 500.0):
        loss_fn = loss_of(surface, max_grad=bound)
        _, plain = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
        _, weighted = gradient_of(lambda *args: weight * loss_fn(*args, generator=seeded()), vertices, camera, image)  # noqa: B023
        assert relative(weighted / weight, plain) < 1e-4  # norms of 2334 squares in any order


def test_the_bound_comes_before_the_mean(surface, photographs):
    vertices, camera, image = photographs(3)
    gradients = [
        gradient_of(loss_of(surface, max_grad=1.0, reduction=name), vertices, camera, image, generator=seeded())[1]
        for name in ("sum", "mean")
    ]
    assert relative(gradients[1] * 3, gradients[0]) < 1e-4  # norms of 2334 squares in any order


def test_a_gradient_scaler_changes_nothing(surface, photographs):
    vertices, camera, image = photographs(2)
    steps = []
    for enabled in (False, True):
        offset = nn.Parameter(torch.tensor([0.01, 0.0, 0.0]))
        optimizer = torch.optim.SGD([offset], lr=1e-4)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, enabled=enabled)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(surface)(vertices + offset, camera, image, generator=seeded())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append(offset.detach() - torch.tensor([0.01, 0.0, 0.0]))
    assert steps[0].abs().max() > 1e-5
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-8)


# --- precision, compilation, copies ----------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_geometry_alone(surface, photographs, dtype):
    vertices, camera, image = photographs(2)
    for prior, tolerance in ((MeanColour(), 0.0), (encoder(surface), 1e-2)):
        loss_fn = loss_of(surface, prior=prior)
        plain, gradient = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
        with torch.autocast("cpu", dtype=dtype):
            cast, cast_gradient = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
        assert cast.dtype == torch.float32 and cast_gradient.dtype == torch.float32
        assert (cast - plain).abs() <= tolerance
        assert (cast_gradient - gradient).norm() <= 10 * tolerance * gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_come_back_in_the_callers_dtype(surface, photographs, dtype):
    vertices, camera, image = photographs(2)
    expected = loss_of(surface)(vertices.to(dtype), camera, image, generator=seeded())
    value, gradient = gradient_of(
        loss_of(surface),
        vertices.to(dtype),
        camera.to(dtype=dtype).to(dtype=torch.float32) if dtype != torch.float64 else camera.to(dtype=dtype),
        image.to(dtype),
        torch.ones(2, 1, 48, 48, dtype=dtype) if dtype == torch.float64 else None,
        generator=seeded(),
    )
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    assert abs(float(value) - float(expected)) < 0.5


def test_compile(surface, photographs):
    vertices, camera, image = photographs(1, 32)
    loss_fn = loss_of(surface, 32, encoder(surface))

    def step(leaf):
        right = torch.tensor([False])
        return loss_fn(leaf * 1.0, camera, image, is_right=right, generator=seeded()) * 2

    leaf = (vertices * MIRROR).requires_grad_()
    expected = step(leaf)
    (wanted,) = torch.autograd.grad(expected, leaf)
    torch._dynamo.reset()
    actual = torch.compile(step, backend="aot_eager")(leaf)
    (gradient,) = torch.autograd.grad(actual, leaf)
    # The compiler takes operators apart, so sums and products round otherwise.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2)
    assert relative(gradient, wanted) < 1e-2


def test_module_life(surface, photographs):
    vertices, camera, image = photographs(1)
    loss_fn = loss_of(surface, prior=encoder(surface))
    expected = loss_fn(vertices, camera, image, generator=seeded())
    for clone in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn)), copy.deepcopy(loss_fn).to("cpu")):
        assert torch.equal(clone(vertices, camera, image, generator=seeded()), expected)
    weights = loss_fn.state_dict()
    assert set(weights) == {"encoder." + name for name in loss_fn.encoder.state_dict()}
    other = loss_of(surface, prior=encoder(surface, seed=1))
    assert not torch.equal(other(vertices, camera, image, generator=seeded()), expected)
    other.load_state_dict(weights)
    assert torch.equal(other(vertices, camera, image, generator=seeded()), expected)
    assert "token_count=512, max_grad=500, reduction='mean'" in repr(loss_fn)


def test_deterministic(surface, photographs):
    vertices, camera, image = photographs(2)
    loss_fn = loss_of(surface, prior=encoder(surface), token_count=64)
    first, second = (gradient_of(loss_fn, vertices, camera, image, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    torch.manual_seed(0)
    loss_fn(vertices, camera, image, generator=seeded())
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)  # with a generator of its own it leaves torch's alone


# --- degenerate input -------------------------------------------------------------


def spoil(name, vertices, focal, principal, mask):
    if name == "out of frame":
        vertices[1] += torch.tensor([5.0, 0.0, 0.0])
    elif name == "behind the camera":
        vertices[1, :, 2] -= 2.0
    elif name == "far away":
        vertices[1, :, 2] += 500.0
    elif name == "nan vertex":
        vertices[1, 5, 0] = torch.nan
    elif name == "infinite vertex":
        vertices[1, 5, 1] = torch.inf
    elif name == "focal 0":
        focal[1] = 0.0
    elif name == "nan principal point":
        principal[1, 0] = torch.nan
    elif name == "empty mask":
        mask[1] = 0.0
    elif name == "one point":
        vertices[1] = vertices[1, :1].clone()
    elif name == "enormous":
        vertices[1] *= 1e30


@pytest.mark.parametrize(
    "name",
    [
        "out of frame",
        "behind the camera",
        "far away",
        "nan vertex",
        "infinite vertex",
        "focal 0",
        "nan principal point",
        "empty mask",
        "one point",
        "enormous",
    ],
)
def test_a_degenerate_sample_is_skipped_flagged_and_harmless(surface, photographs, name):
    vertices, camera, image = photographs(2, 64)
    mask = torch.ones(2, 1, 64, 64)
    loss_fn = loss_of(surface, 64, token_count=64 * 64)
    one = slice(0, 1)
    alone, expected = gradient_of(loss_fn, vertices[one], picked(camera, one), image[one], mask[one])
    focal, principal = camera.focal.clone(), camera.principal.clone()
    spoil(name, vertices, focal, principal, mask)
    leaf = vertices.requires_grad_()
    loss, details = loss_fn(leaf, ta.PinholeCamera(focal, principal), image, mask, return_details=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert details.skipped.tolist() == [False, True]
    assert details.per_sample[1] == 0
    assert (gradient[1] == 0).all()
    torch.testing.assert_close(loss.detach(), alone, atol=2e-2, rtol=0)  # as for a batch and its samples
    assert relative(gradient[:1], expected) < 1e-2
    for field in fields(details):
        tensor = getattr(details, field.name)
        if isinstance(tensor, torch.Tensor):
            assert torch.isfinite(tensor).all(), field.name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channel", [0, 2])
def test_an_image_that_is_not_finite_harms_only_its_own_sample(surface, photographs, channel, value):
    vertices, camera, image = photographs(2)
    image[1, channel, 20:28, 20:28] = value
    leaf = vertices.requires_grad_()
    loss, details = loss_of(surface)(leaf, camera, image, return_details=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(details.per_sample).all() and torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert not details.skipped[0]
    assert gradient[0].abs().max() > 0


@pytest.mark.parametrize("name", ["mask", "valid"])
def test_a_mask_that_is_not_finite_harms_only_its_own_sample(surface, photographs, name):
    vertices, camera, image = photographs(2)
    mask = torch.ones(2, 1, 48, 48)
    mask[1, 0, 20:28, 20:28] = torch.nan
    loss_fn = loss_of(surface, reduction="none")
    values, gradient = gradient_of(loss_fn, vertices, camera, image, **{name: mask})
    assert torch.isfinite(values).all() and torch.isfinite(gradient).all()
    assert values[0] < -1 and gradient[0].abs().max() > 0


@pytest.mark.parametrize("count", [1, 2])
def test_all_skipped_is_a_zero_in_the_graph(surface, photographs, count):
    vertices, camera, image = photographs(count)
    for reduction in ("mean", "sum", "none"):
        value, gradient = gradient_of(
            loss_of(surface, reduction=reduction), vertices + torch.tensor([0.0, 0.0, -3.0]), camera, image
        )
        assert (value == 0).all() and (gradient == 0).all()


def test_empty_batch(surface, photographs):
    vertices, camera, image = photographs(1)
    none = ta.PinholeCamera(camera.focal[:0], camera.principal[:0])
    for prior in (MeanColour(), encoder(surface)):
        for reduction, shape in (("mean", ()), ("sum", ()), ("none", (0,))):
            leaf = vertices[:0].clone().requires_grad_()
            loss_fn = loss_of(surface, prior=prior, reduction=reduction)
            value, details = loss_fn(leaf, none, image[:0], image[:0, :1], return_details=True)
            assert value.shape == shape and details.skipped.shape == (0,)
            value.sum().backward()
            assert value.sum() == 0 and leaf.grad.shape == (0, 778, 3)


def small_masks(name):
    mask = torch.zeros(2, 1, 32, 32)
    if name == "full":
        mask += 1
    elif name == "tiny":
        mask[..., 15:17, 15:17] = 1
    elif name == "soft":
        mask = torch.rand(2, 1, 32, 32, generator=seeded())
    return None if name == "none" else mask


def pictures(name, seed=0):
    noise = torch.rand(2, 3, 32, 32, generator=seeded(seed))
    fill = {"black": 0.0, "white": 1.0, "grey": 0.5}
    if name in fill:
        return torch.full((2, 3, 32, 32), fill[name])
    return noise.round() if name == "saturated" else noise


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    zoom=st.floats(-1.5, 2),
    shift=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    crop=st.tuples(*[st.floats(-40, 70)] * 2),
    mask=st.sampled_from(["none", "empty", "full", "tiny", "soft"]),
    picture=st.sampled_from(["black", "white", "grey", "noise", "saturated"]),
    left=st.booleans(),
    learned=st.booleans(),
)
def test_any_pose_camera_mask_and_image_is_finite(
    surface, scene, seed, zoom, shift, crop, mask, picture, left, learned
):
    vertices, camera = scene(2, 32, seed=seed)
    vertices[1] += torch.tensor(shift)
    camera = ta.PinholeCamera(camera.focal * 10**zoom, torch.tensor([[16.0, 16.0], crop]))
    loss_fn = loss_of(
        surface,
        32,
        encoder(surface) if learned else None,
        token_count=64,
        train_texture=learned,
    )
    leaf = vertices.requires_grad_()
    value, details = loss_fn(
        leaf,
        camera,
        pictures(picture, seed),
        small_masks(mask),
        is_right=torch.tensor([True, not left]),
        generator=seeded(seed),
        return_details=True,
    )
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad.flatten(1).norm(dim=1) <= 501).all()
    assert (leaf.grad[details.skipped] == 0).all()
    for tensor in (value, details.per_sample, details.fitted, details.residual, details.evidence):
        assert torch.isfinite(tensor).all()
    rounding = 1e-3  # 32² terms up to 6 in size: 6 × 32² × 2⁻²⁴ at the worst order
    assert (details.per_sample >= -6 - rounding).all()
    assert (details.per_sample <= 6 + rounding).all()
    assert details.skipped.all() == (mask == "empty") or mask != "empty"
    for parameter in loss_fn.encoder.parameters():
        assert torch.isfinite(parameter.grad).all()


# --- bad input --------------------------------------------------------------------

WHO = "DenseTextureAlignmentLoss"


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(vertices=torch.zeros(8, 21, 3)), ValueError, r"expected vertices \(B, 778, 3\), got \(8, 21, 3\)"),
        (dict(vertices=torch.zeros(2, 778, 3).long()), ValueError, "vertices of a floating dtype, got torch.int64"),
        (dict(vertices=[[0.0]]), TypeError, "expected vertices to be a torch.Tensor, got list"),
        (dict(vertices=torch.zeros(3, 778, 3)), ValueError, "expected 3 cameras, one for each sample, got 2"),
        (dict(camera=torch.eye(3)), TypeError, "expected camera to be a PinholeCamera, got Tensor"),
        (dict(image=torch.zeros(2, 3, 64, 64)), ValueError, r"image \(2, 3, 32, 32\), got \(2, 3, 64, 64\)"),
        (dict(image=torch.zeros(2, 32, 32, 3)), ValueError, r"image \(2, 3, 32, 32\), got \(2, 32, 32, 3\)"),
        (
            dict(image=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
            ValueError,
            "expected image of a floating dtype, got torch.uint8",
        ),
        (dict(mask=torch.zeros(2, 1, 16, 16)), ValueError, r"mask \(2, 1, 32, 32\), got \(2, 1, 16, 16\)"),
        (dict(mask=torch.zeros(2, 32, 32)), ValueError, r"mask \(2, 1, 32, 32\), got \(2, 32, 32\)"),
        (dict(valid=torch.zeros(2, 32, 32)), ValueError, r"valid \(2, 1, 32, 32\), got \(2, 32, 32\)"),
        (dict(image=torch.zeros(2, 3, 32, 32, device="meta")), ValueError, "expected image on the device of vertices"),
        (dict(is_right=torch.ones(2)), ValueError, r"is_right \(2,\) bool, got \(2,\) torch.float32"),
        (dict(is_right=torch.ones(2, dtype=torch.int64)), ValueError, r"is_right \(2,\) bool, got \(2,\) torch.int64"),
        (dict(is_right=torch.ones(3, dtype=torch.bool)), ValueError, r"is_right \(2,\) bool, got \(3,\) torch.bool"),
        (
            dict(is_right=torch.ones(2, dtype=torch.bool, device="meta")),
            ValueError,
            "expected is_right on the device of vertices",
        ),
        (dict(is_right=True), TypeError, "expected is_right to be a torch.Tensor, got bool"),
    ],
)
def test_calls_that_do_not_fit_are_refused(surface, photographs, change, error, message):
    vertices, camera, image = photographs(2, 32)
    arguments = {"vertices": vertices, "camera": camera, "image": image} | change
    with pytest.raises(error, match=rf"^{WHO}: .*{message}"):
        loss_of(surface, 32)(**arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(reduction="average"), "expected reduction mean, sum or none, got 'average'"),
        (dict(token_count=0), "expected token_count > 0, got 0"),
        (dict(max_grad=0.0), "expected max_grad > 0, got 0.0"),
        (dict(max_grad=float("nan")), "expected max_grad > 0, got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(surface, change, message):
    with pytest.raises(ValueError, match=rf"^{WHO}: {message}"):
        loss_of(surface, 32, **change)


def test_a_left_surface_mirrors_the_right_hands(surface, photographs):
    vertices, camera, image = photographs(2)
    plain = loss_of(surface, reduction="none", token_count=48 * 48)(vertices, camera, image)
    is_right = torch.tensor([True, False])
    left = ~is_right[:, None, None]
    principal = torch.where(left[:, 0], camera.mirrored(48).principal, camera.principal)
    both = (
        torch.where(left, vertices * MIRROR, vertices),
        ta.PinholeCamera(camera.focal, principal),
        torch.where(left[..., None], image.flip(-1), image),
    )
    for one in (surface, surface.mirrored()):
        loss = loss_of(one, reduction="none", token_count=48 * 48)(*both, is_right=is_right)
        # Mirrored coordinates round otherwise; a pixel in 300 that changes sides matters 6/300.
        torch.testing.assert_close(loss, plain, atol=2e-2, rtol=0)


def test_the_renderer_must_be_one(surface):
    with pytest.raises(TypeError, match=f"^{WHO}: expected renderer to be a TexturedHandRenderer, got HandSurface"):
        ta.DenseTextureAlignmentLoss(surface, MeanColour())


def test_a_prior_for_another_atlas_is_refused(surface):
    other = ta.UVTextureEncoder(ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces), **TINY)
    with pytest.raises(ValueError, match=f"^{WHO}: .*atlas {surface.atlas_id}.*{other.atlas_id}"):
        loss_of(surface, 32, other)


@pytest.mark.parametrize(
    "alter, message",
    [
        (lambda image: image * 255, r"image in \[0, 1\]"),
        (lambda image: image - 0.5, r"image in \[0, 1\]"),
        (lambda image: image + torch.nan, r"image in \[0, 1\]"),
        (
            lambda image: (
                (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
                / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
            ),
            "ImageNet-normalised",
        ),
    ],
)
def test_validate_looks_at_the_image(surface, photographs, alter, message):
    vertices, camera, image = photographs(2, 32)
    loss_of(surface, 32, validate=True)(vertices, camera, image)
    with pytest.raises(ValueError, match=message):
        loss_of(surface, 32, validate=True)(vertices, camera, alter(image))


def test_validate_names_the_sample_of_a_vertex_that_is_no_number(surface, photographs):
    vertices, camera, image = photographs(2, 32)
    vertices[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"finite vertices, got sample 1: nan at index \(3, 2\)"):
        loss_of(surface, 32, validate=True)(vertices, camera, image)


@pytest.mark.parametrize("value", [255.0, -1.0, torch.nan])
@pytest.mark.parametrize("name", ["mask", "valid"])
def test_validate_looks_at_the_mask(surface, photographs, value, name):
    vertices, camera, image = photographs(2, 32)
    mask = torch.zeros(2, 1, 32, 32)
    loss_of(surface, 32, validate=True)(vertices, camera, image, **{name: mask})
    mask[1, 0, 8:20] = value
    with pytest.raises(ValueError, match=name + r" in \[0, 1\]"):
        loss_of(surface, 32, validate=True)(vertices, camera, image, **{name: mask})

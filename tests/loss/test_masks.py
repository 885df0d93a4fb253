"""Left hands, masks, padding, occluders and groups."""

from __future__ import annotations

import pytest
import torch

import texalign as ta
from loss_parts import (
    GRADIENT_ROUNDING,
    MIRROR,
    PLAIN,
    ROUNDING,
    SKIN,
    WALL,
    Fixed,
    encoder,
    gradient_of,
    loss_of,
    pixels_to_metres,
    relative,
    seeded,
)


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
    torch.testing.assert_close(left_value, value, **ROUNDING)
    assert relative(left_gradient[0], gradient[0]) < GRADIENT_ROUNDING
    assert relative(left_gradient[1] * MIRROR, gradient[1]) < GRADIENT_ROUNDING
    assert gradient[1].abs().max() > 0.1


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
    torch.testing.assert_close(masked[1], plain[1], **ROUNDING)
    assert relative(gradient[1], plain_gradient[1]) < GRADIENT_ROUNDING
    assert (masked[0] - plain[0]).abs() > 0.1
    valid = (torch.arange(48) >= 6).float().expand(2, 1, 48, 48)
    padded = gradient_of(loss_fn, vertices, camera, image, valid.clone(), valid)
    unknown = gradient_of(loss_fn, vertices, camera, image, None, valid)
    torch.testing.assert_close(padded[0], unknown[0], **ROUNDING)
    assert relative(padded[1], unknown[1]) < GRADIENT_ROUNDING


def test_padding_is_neither_hand_nor_background(surface, photographs):
    """A crop that cuts a hand: what lies in the padding changes nothing, and the hand is not repelled from it."""
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
    assert unaware[outside].abs().max() > 0.1  # without it, black borders repel the hand


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
        torch.testing.assert_close(loss, plain, **ROUNDING)

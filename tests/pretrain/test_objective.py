from __future__ import annotations

import math

import pytest
import torch

import texalign as ta
from texalign.pretrain import PretrainSettings, objective


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_side_is_dropped_in_half_of_the_samples():
    draws = generator()
    valid = torch.rand(400, 60, generator=draws) > 0.2
    seen = ta.UVObservations(torch.rand(400, 60, 2, generator=draws), torch.rand(400, 60, 3, generator=draws), valid)
    left = objective.drop_a_side(seen, draws)
    assert left.uv is seen.uv and left.rgb is seen.rgb
    assert not (left.valid & ~valid).any() and left.valid.any(dim=1).all()
    whole = (left.valid == valid).all(dim=1)
    assert 0.375 < whole.float().mean() < 0.625  # five standard deviations of 400 coins
    # What is kept and what is dropped lie on two sides of a line; angles are tried in steps of half a degree.
    angle = torch.linspace(0, 2 * math.pi, 721)
    direction = torch.stack([angle.cos(), angle.sin()])
    for sample in (~whole).nonzero()[:20, 0]:
        along = seen.uv[sample] @ direction
        kept, dropped = left.valid[sample], valid[sample] & ~left.valid[sample]
        assert (along[dropped].amin(dim=0) - along[kept].amax(dim=0)).max() > -0.02


def test_some_samples_show_nothing():
    valid = torch.rand(2000, 3, generator=generator(1)) > 0.3
    seen = ta.UVObservations(torch.zeros(2000, 3, 2), torch.zeros(2000, 3, 3), valid)
    left = objective.forget_some(seen, 0.2, generator())
    gone = ~left.valid.any(dim=1) & valid.any(dim=1)
    assert gone.float().mean().item() == pytest.approx(0.2, abs=0.045)  # five standard deviations of 2000
    assert torch.equal(left.valid[~gone], valid[~gone])


def test_reading_a_texture_is_what_the_renderer_draws(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    renderer = ta.TexturedHandRenderer(surface, 64, backend="torch")
    seen = renderer.observe(vertices, camera, renderer(vertices, camera, smooth_texture).image)
    read = objective.read_texture(smooth_texture.expand(2, -1, -1, -1), seen.uv, surface)
    assert read.shape == seen.rgb.shape and seen.valid.sum() > 200
    error = (read - seen.rgb).abs()[seen.valid]
    # Exact, but beside folds too flat to count as edges, which are antialiased.
    assert (error > 1e-4).float().mean() < 0.05 and error.max() < 0.1


def test_the_priors_loss_by_hand(surface):
    texture = torch.full((1, 3, 16, 16), 0.5)
    log_variance = torch.full((1, 1, 16, 16), 2 * math.log(0.2))
    uv = surface.uv[surface.uv_faces[:3]].mean(dim=1)[None]
    rgb = torch.tensor([[[0.5, 0.6, 0.8], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]])

    def losses(valid, counts):
        targets = ta.UVObservations(uv, rgb, torch.tensor([valid]))
        found = objective.prior_loss(texture, log_variance, targets, torch.tensor([counts]), surface)
        return [value.item() for value in found]

    first = 0.4 / 3
    expected = [first / 2, first / 0.2 / 2 + math.log(0.2)]
    assert losses([True, True, False], [1.0, 1.0, 1.0]) == pytest.approx(expected, rel=1e-4)
    # What counts three times as much has three times the weight in the mean; what is not valid has none.
    assert losses([True, True, False], [3.0, 1.0, 5.0])[0] == pytest.approx(0.75 * first, rel=1e-4)
    assert losses([False, False, False], [1.0, 1.0, 1.0]) == [0.0, 0.0]


def test_the_other_view_of_a_hand_is_a_target_too_and_counts_less():
    number = torch.arange(4.0)[:, None, None]
    valid = torch.tensor([True, False, True, True])[:, None].expand(4, 5)
    targets = ta.UVObservations(number.expand(4, 5, 2) / 10, number.expand(4, 5, 3) / 5, valid)
    # The last pair shows two hands: what one looks like says nothing about the other.
    both, counts = objective.with_other_view(targets, torch.tensor([0, 0, 2, 3]))
    for name in ("uv", "rgb", "valid"):
        given = getattr(targets, name)
        assert torch.equal(getattr(both, name), torch.cat([given, given[[1, 0, 3, 2]]], dim=1)), name
    share = torch.tensor([objective.OTHER_VIEW_SHARE, objective.OTHER_VIEW_SHARE, 0, 0])[:, None].expand(4, 5)
    torch.testing.assert_close(counts, torch.cat([torch.ones(4, 5), share], dim=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size to be a multiple of 2, the images of a hand, got 3"),
        ({"image_size": 8}, "image_size >= 16, got 8"),
        ({"rate": math.nan}, "rate > 0, got nan"),
        ({"photograph_share": 1.5}, r"photograph_share in \[0, 1\], got 1.5"),
        ({"photograph_share": 0.01}, "photograph_share that makes at least one pair of 12 images, got 0.01"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=f"PretrainSettings: expected .*{message}"):
        PretrainSettings(**change)


def test_the_share_of_photographs_is_rounded_to_pairs():
    pairs = {share: PretrainSettings(photograph_share=share).photographed_pairs for share in (0.0, 0.1, 0.5, 0.6, 1.0)}
    assert pairs == {0.0: 0, 0.1: 1, 0.5: 3, 0.6: 4, 1.0: 6}

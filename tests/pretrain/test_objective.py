from __future__ import annotations

import math

import pytest
import torch

import texalign as ta
from texalign.pretrain import PretrainSettings, objective


def test_a_side_is_dropped_in_half_of_the_samples():
    generator = torch.Generator().manual_seed(0)
    count, tokens = 400, 60
    valid = torch.rand(count, tokens, generator=generator) > 0.2
    seen = ta.UVObservations(
        torch.rand(count, tokens, 2, generator=generator), torch.rand(count, tokens, 3, generator=generator), valid
    )
    left = objective.drop_a_side(seen, generator)
    assert left.uv is seen.uv and left.rgb is seen.rgb
    assert not (left.valid & ~valid).any()
    whole = (left.valid == valid).all(dim=1)
    assert 0.375 < whole.float().mean() < 0.625  # five standard deviations of 400 coins
    assert left.valid.any(dim=1).all()
    share = left.valid.sum(dim=1) / valid.sum(dim=1)
    assert 0.1 < share[~whole].mean() < 0.8
    # What is kept and what is dropped lie on two sides of a line.
    angle = torch.linspace(0, 2 * math.pi, 721)
    direction = torch.stack([angle.cos(), angle.sin()])
    for sample in (~whole).nonzero()[:20, 0]:
        along = seen.uv[sample] @ direction
        kept, dropped = left.valid[sample], valid[sample] & ~left.valid[sample]
        gap = along[dropped].amin(dim=0) - along[kept].amax(dim=0)
        assert gap.max() > -0.02


def test_nothing_to_drop_stays_nothing():
    for shape in ((0, 5), (2, 5)):
        empty = ta.UVObservations(torch.zeros(*shape, 2), torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.bool))
        left = objective.drop_a_side(empty, torch.Generator().manual_seed(0))
        assert left.valid.shape == shape and not left.valid.any()


def test_some_samples_show_nothing():
    valid = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    seen = ta.UVObservations(torch.zeros(2000, 3, 2), torch.zeros(2000, 3, 3), valid)
    left = objective.forget_some(seen, 0.2, torch.Generator().manual_seed(0))
    gone = ~left.valid.any(dim=1) & valid.any(dim=1)
    assert gone.float().mean().item() == pytest.approx(0.2, abs=0.045)  # five standard deviations of 2000
    assert torch.equal(left.valid[~gone], valid[~gone])
    assert torch.equal(objective.forget_some(seen, 0.0, torch.Generator()).valid, valid)
    assert not objective.forget_some(seen, 1.0, torch.Generator()).valid.any()


def test_reading_a_texture_is_what_the_renderer_draws(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    renderer = ta.TexturedHandRenderer(surface, 64, backend="torch")
    image = renderer(vertices, camera, smooth_texture).image
    seen = renderer.observe(vertices, camera, image)
    read = objective.read_texture(smooth_texture.expand(2, -1, -1, -1), seen.uv, surface)
    assert read.shape == seen.rgb.shape and seen.valid.sum() > 200
    error = (read - seen.rgb).abs()[seen.valid]
    # Exact, but beside folds too flat to count as edges, which are antialiased.
    assert (error > 1e-4).float().mean() < 0.05 and error.max() < 0.1
    pair = objective.read_texture(
        torch.cat([smooth_texture, -smooth_texture], dim=1).expand(2, -1, -1, -1), seen.uv, surface
    )
    torch.testing.assert_close(pair[..., 3:], -pair[..., :3])


def test_the_priors_loss_by_hand(surface):
    texture = torch.full((1, 3, 16, 16), 0.5)
    log_variance = torch.full((1, 1, 16, 16), 2 * math.log(0.2))
    uv = surface.uv[surface.uv_faces[:2]].mean(dim=1)[None]
    targets = ta.UVObservations(
        torch.cat([uv, uv[:, :1]], dim=1),
        torch.tensor([[[0.5, 0.6, 0.8], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]]),
        torch.tensor([[True, True, False]]),
    )
    ones = torch.ones(1, 3)
    error, likelihood = objective.prior_loss(texture, log_variance, targets, ones, surface)
    first = 0.4 / 3
    assert error.item() == pytest.approx(first / 2, rel=1e-4)
    assert likelihood.item() == pytest.approx(first / 0.2 / 2 + math.log(0.2), rel=1e-4)
    # What counts three times as much has three times the weight in the mean; what is not valid has none.
    error, _ = objective.prior_loss(texture, log_variance, targets, torch.tensor([[3.0, 1.0, 5.0]]), surface)
    assert error.item() == pytest.approx(0.75 * first, rel=1e-4)
    none = ta.UVObservations(targets.uv, targets.rgb, torch.zeros(1, 3, dtype=torch.bool))
    assert [value.item() for value in objective.prior_loss(texture, log_variance, none, ones, surface)] == [0.0, 0.0]


def test_the_other_view_of_a_hand_is_a_target_too_and_counts_less():
    targets = ta.UVObservations(
        torch.arange(4.0)[:, None, None].expand(4, 5, 2) / 10,
        torch.arange(4.0)[:, None, None].expand(4, 5, 3) / 10 + 0.5,
        torch.tensor([True, False, True, True])[:, None].expand(4, 5),
    )
    both, counts = objective.with_other_view(targets, torch.tensor([0, 0, 2, 3]))
    share = pytest.approx(objective.OTHER_VIEW_SHARE)
    for row, (own, other) in enumerate([(0, 1), (1, 0), (2, 3), (3, 2)]):
        for name in ("uv", "rgb", "valid"):
            given, made = getattr(targets, name), getattr(both, name)
            assert torch.equal(made[row], torch.cat([given[own], given[other]])), name
        # The last pair shows two hands: what one looks like says nothing about the other.
        assert counts[row, :5].tolist() == [1] * 5
        assert counts[row, 5:].tolist() == [share if row < 2 else 0] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size to be a multiple of 2, the images of a hand, got 3"),
        ({"batch_size": 0}, "batch_size to be a multiple of 2, the images of a hand, got 0"),
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"image_size": 8}, "image_size >= 16, got 8"),
        ({"token_count": 2.5}, "token_count >= 1, got 2.5"),
        ({"target_count": 0}, "target_count >= 1, got 0"),
        ({"rate": 0.0}, "rate > 0, got 0.0"),
        ({"rate": math.nan}, "rate > 0, got nan"),
        ({"seed": -1}, r"seed in \[0, 2\*\*63\), got -1"),
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

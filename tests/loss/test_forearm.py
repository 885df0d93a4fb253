from __future__ import annotations

import pytest
import torch

from texalign.loss import forearm


def pixels(height, width):
    """Centres of pixels, (H, W) each."""
    return torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")


def test_the_region_by_hand():
    """A wrist 8 pixels wide at row 12 of a hand above it: a frame that opens downwards, from 1.4 pixels above it."""
    wrist = torch.tensor([[[12.0, 12.0], [16.0, 11.5], [20.0, 12.0], [16.0, 12.5]]])
    beyond = forearm.beyond_wrist(wrist, torch.tensor([[16.0, 4.0]]), 32, 32)
    assert beyond.shape == (1, 1, 32, 32)
    x, y = pixels(32, 32)
    along, aside = y - 12, (x - 16).abs()
    expected = (along > -0.35 * 4) & (aside < 2 * 4 + 0.3 * along.clamp(min=0))
    assert torch.equal(beyond[0, 0] > 0, expected)
    assert set(beyond.unique().tolist()) == {0.0, 1.0}
    assert beyond[0, 0, :10].sum() == 0 and beyond[0, 0, 31, 16] == 1 and beyond[0, 0, 31, 0] == 0


def test_it_turns_with_the_hand_and_keeps_samples_apart():
    wrist = torch.tensor([[[12.0, 12.0], [20.0, 12.0]]])
    centre = torch.tensor([[16.0, 4.0]])
    down = forearm.beyond_wrist(wrist, centre, 32, 32)
    right = forearm.beyond_wrist(wrist.flip(-1), centre.flip(-1), 32, 32)
    assert torch.equal(right, down.transpose(2, 3))
    up = forearm.beyond_wrist(32 - wrist, 32 - centre, 32, 32)
    assert torch.equal(up, down.flip(2, 3))
    both = forearm.beyond_wrist(torch.cat([wrist, wrist.flip(-1)]), torch.cat([centre, centre.flip(-1)]), 24, 32)
    assert torch.equal(both, torch.cat([down, right])[:, :, :24])


@pytest.mark.parametrize(
    "wrist, centre",
    [
        (torch.full((2, 16, 2), 7.0), torch.full((2, 2), 7.0)),  # all in one point
        (torch.zeros(2, 1, 2), torch.ones(2, 2)),
        (torch.full((2, 16, 2), 1e12), torch.full((2, 2), -1e12)),  # a point near the camera's plane
        (torch.full((2, 16, 2), torch.nan), torch.zeros(2, 2)),
        (torch.full((2, 16, 2), torch.inf), torch.zeros(2, 2)),
    ],
)
def test_a_degenerate_wrist_gives_zeros_and_ones(wrist, centre):
    beyond = forearm.beyond_wrist(wrist, centre, 16, 8)
    assert beyond.shape == (2, 1, 16, 8)
    assert ((beyond == 0) | (beyond == 1)).all()

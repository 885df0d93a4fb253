from __future__ import annotations

import pytest
import torch

from texalign._internal import Draws
from texalign.synthetic.lighting import draw_light
from texalign.synthetic.shadow import cast_shadow

SIZE, COUNT = 64, 96


@pytest.fixture(scope="module")
def shadows():
    """Of discs under lamps at the right, on white walls: what of the light is lost, (B, S, S)."""
    draws = Draws(COUNT, torch.Generator().manual_seed(0), torch.device("cpu"))
    lamp = torch.tensor([0.8, 0.0, -0.6]).expand(COUNT, 2, 3)
    light = draw_light(draws)._replace(towards=lamp)
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    disc = (line.square()[:, None] + line.square() < 12**2).float().expand(COUNT, 1, -1, -1)
    return 1 - cast_shadow(draws, torch.ones(COUNT, 3, SIZE, SIZE), disc, light)


def test_a_third_of_the_walls_have_a_shadow_that_is_never_black(shadows):
    deepest = shadows.amax(dim=(1, 2, 3))
    # Three standard deviations of a share of 0.33 among 96.
    assert abs((deepest > 0.1).float().mean() - 0.33) < 3 * (0.33 * 0.67 / COUNT) ** 0.5
    assert shadows.min() >= -1e-6
    assert deepest.max() <= 0.85 + 1e-6


def test_it_lies_away_from_the_lamp_and_at_its_height(shadows):
    dark = shadows[shadows.amax(dim=(1, 2, 3)) > 0.1][:, 0]
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    total = dark.sum(dim=(1, 2))
    across, down = (dark * line).sum(dim=(1, 2)) / total, (dark * line[:, None]).sum(dim=(1, 2)) / total
    assert (across < 0).all()
    assert down.abs().max() < 0.5

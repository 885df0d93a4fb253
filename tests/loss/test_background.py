from __future__ import annotations

import math

import pytest
import torch

from loss_parts import close, random
from texalign.loss import background


def background_reference(image, outside, uniform):
    """The same density, with loops: a count of cells, blurred by (¼, ½, ¼) each way, read trilinearly."""
    bins = background.BINS
    cube = torch.zeros(bins, bins, bins, dtype=torch.float64)
    colours = image[0].flatten(1).T.double()
    for colour, weight in zip(colours, outside.flatten()):
        cell = (colour * bins).long().clamp(max=bins - 1)
        for step in torch.cartesian_prod(*[torch.arange(-1, 2)] * 3):
            place = cell + step
            if ((place >= 0) & (place < bins)).all():
                cube[tuple(place)] += weight * 0.5**3 * 0.5 ** step.abs().sum()
    cube = cube * bins**3 / cube.sum()
    read = []
    for colour in colours:
        position = (colour * bins - 0.5).clamp(0, bins - 1)
        low = position.floor().long().clamp(max=bins - 2)
        part = position - low
        total = 0.0
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            total += cube[tuple(low + corner)] * torch.where(corner == 1, part, 1 - part).prod()
        read.append(total)
    return -((1 - uniform) * torch.stack(read) + uniform).log().reshape(image.shape[2:]).float()


def test_it_is_a_smoothed_histogram_read_linearly():
    image = 0.3 + 0.3 * random(1, 3, 6, 6)
    image[0, :, 0, :3] = torch.tensor([0.0, 1.0, 0.97])[:, None]  # at the cube's border
    outside = random(1, 1, 6, 6, seed=1)
    actual = background.background_cost(image, outside, uniform=0.2)
    torch.testing.assert_close(actual[0, 0], background_reference(image, outside, 0.2), rtol=0, atol=1e-4)


def test_background_colours_are_cheap_and_others_cost_the_uniform_share():
    palette = torch.tensor([[0.1, 0.2, 0.8], [0.9, 0.8, 0.1]])
    image = palette[torch.arange(16) // 2 % 2].T.reshape(1, 3, 1, 16).expand(1, 3, 16, 16).clone()
    image[..., 5:9, 5:9] = torch.tensor([0.9, 0.1, 0.5])[:, None, None]
    outside = torch.ones(1, 1, 16, 16)
    outside[..., 5:9, 5:9] = 0
    for uniform in (0.1, 0.3):
        cost = background.background_cost(image, outside, uniform)
        close(cost[outside == 0], torch.full((16,), -math.log(uniform)))
        # Half of a 4096-cell cube's mass within the reach of a few cells: a density in the hundreds.
        assert cost[outside > 0].max() < -math.log((1 - uniform) * 50)


def test_the_density_integrates_to_one():
    image = 0.2 + 0.6 * random(1, 3, 16, 16)
    line = (torch.arange(32) + 0.5) / 32
    cube = torch.cartesian_prod(line, line, line).T.reshape(1, 3, 128, 256)
    both = torch.cat([torch.nn.functional.pad(image, (0, 240)), cube], dim=2)
    outside = torch.zeros(1, 1, 144, 256)
    outside[..., :16, :16] = 1
    cost = background.background_cost(both, outside)[:, :, 16:]
    assert torch.exp(-cost).mean().item() == pytest.approx(1, abs=0.01)


def test_channels_keep_their_order_and_samples_keep_apart():
    colours = torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1], [0.5, 0.9, 0.1]])
    image = colours[:, :, None, None].expand(3, 3, 4, 4).clone()
    image[:, :, 0] = colours.roll(1, 0)[:, :, None]
    outside = torch.ones(3, 1, 4, 4)
    outside[:, :, 0] = 0
    cost = background.background_cost(image, outside)
    assert (cost[:, :, 1:] < -3).all()
    close(cost[:, :, 0], torch.full((3, 1, 4), -math.log(0.1)))


@pytest.mark.parametrize("fill", [0.0, 1.0, 0.5, -1.0, 7.0])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_it_is_finite_without_background_and_for_any_finite_colour(fill, share):
    image = torch.full((2, 3, 4, 4), fill)
    cost = background.background_cost(image, torch.full((2, 1, 4, 4), share))
    assert cost.shape == (2, 1, 4, 4) and torch.isfinite(cost).all()
    if not share:
        close(cost, torch.full((2, 1, 4, 4), -math.log(0.1)))


def test_it_is_detached():
    image = random(1, 3, 4, 4).requires_grad_()
    assert not background.background_cost(image, random(1, 1, 4, 4).requires_grad_()).requires_grad


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_colour_that_is_no_number_stays_where_it_is(channel):
    """Else one pixel would index outside the histogram: an exception on the CPU, a lost context on a GPU."""
    image = random(2, 3, 4, 4)
    clean = background.background_cost(image, torch.ones(2, 1, 4, 4))
    image[0, channel, 1, 1] = torch.nan
    cost = background.background_cost(image, torch.ones(2, 1, 4, 4))
    assert torch.equal(cost[1], clean[1])

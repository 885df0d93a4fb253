from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from texalign._internal import box_blur
from texalign.loss import background, colour_fit, forearm, likelihoods


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(height, width):
    """Centres of pixels, (H, W) each."""
    return torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")


# --- blur, extension ---------------------------------------------------------


def test_box_blur_is_the_mean_of_the_window_within_the_frame():
    image = random(2, 3, 7, 5)
    for radius in (1, 2):
        blurred = box_blur(image, radius)
        for row in range(7):
            for column in range(5):
                rows = slice(max(row - radius, 0), row + radius + 1)
                columns = slice(max(column - radius, 0), column + radius + 1)
                close(blurred[:, :, row, column], image[:, :, rows, columns].mean(dim=(2, 3)))


def test_colours_are_kept_inside_and_carried_to_the_pixels_near():
    coverage = torch.zeros(1, 1, 9, 9)
    coverage[..., 2:5, 2:5] = 1
    coverage[..., 5, 2:5] = 0.25
    colour = random(1, 3, 9, 9)
    image = colour * coverage  # premultiplied
    radius = 2
    extended = colour_fit.extend_colours(image, coverage, radius)
    for row in range(9):
        for column in range(9):
            window = (slice(None), slice(None), slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3))
            if coverage[0, 0, row, column] > 0.5:
                expected = colour[:, :, row, column]
            elif coverage[window].sum() > 0:
                expected = image[window].sum(dim=(2, 3)) / coverage[window].sum()
            else:
                expected = torch.zeros(1, 3)
            close(extended[:, :, row, column], expected)


@pytest.mark.parametrize("value", [0.0, 1e-6, 1.0])
def test_extension_and_its_gradient_are_finite_whatever_is_covered(value):
    coverage = torch.full((2, 1, 6, 6), value, requires_grad=True)
    image = (random(2, 3, 6, 6) * value).requires_grad_()
    extended = colour_fit.extend_colours(image, coverage, 1)
    assert torch.isfinite(extended).all()
    assert extended.min() >= 0 and extended.max() <= 1 + 1e-5
    for gradient in torch.autograd.grad(extended.square().sum(), (image, coverage)):
        assert torch.isfinite(gradient).all()


# --- colour fit --------------------------------------------------------------


def test_a_known_gain_and_offset_are_found():
    rendered = random(2, 3, 12, 12)
    gain = torch.tensor([[0.6, 1.0, 1.5], [1.2, 0.8, 2.0]])[:, :, None, None]
    offset = torch.tensor([[0.2, 0.0, -0.3], [-0.1, 0.1, 0.0]])[:, :, None, None]
    found = colour_fit.fit_colour(rendered, gain * rendered + offset, torch.ones(2, 1, 12, 12), strength=1e-4)
    # Variances of 1/12 are differences of squares near 1/3; the ridge adds strength² · 12 = 1e-7.
    close(found[0], gain, atol=1e-3)
    close(found[1], offset, atol=1e-3)
    ridge = colour_fit.fit_colour(rendered, gain * rendered + offset, torch.ones(2, 1, 12, 12))
    assert ((ridge[0] - 1).abs() <= (gain - 1).abs() + 1e-5).all()  # the default is drawn towards 1, a little
    close(ridge[0], gain, atol=0.05)


def test_the_fit_is_the_ridge_regression():
    rendered, weight = random(1, 3, 8, 8), random(1, 1, 8, 8, seed=2)
    observed = 0.7 * rendered + 0.2 * random(1, 3, 8, 8, seed=1)
    strength = 0.2
    gain, offset = colour_fit.fit_colour(rendered, observed, weight, strength)
    r, o, w = rendered[0].flatten(1), observed[0].flatten(1), (weight / weight.sum()).flatten()
    for channel in range(3):
        # Minimise Σ w (g r + b − o)² + strength² (g − 1)²: two normal equations.
        a, b = r[channel], o[channel]
        system = torch.tensor([[(w * a * a).sum() + strength**2, (w * a).sum()], [(w * a).sum(), 1.0]])
        solution = torch.linalg.solve(system, torch.stack([(w * a * b).sum() + strength**2, (w * b).sum()]))
        close(torch.stack([gain[0, channel, 0, 0], offset[0, channel, 0, 0]]), solution)


def test_a_hand_of_one_colour_keeps_gain_one():
    rendered = torch.full((1, 3, 8, 8), 0.5)
    observed = 0.3 + 0.1 * random(1, 3, 8, 8)
    gain, offset = colour_fit.fit_colour(rendered, observed, torch.ones(1, 1, 8, 8))
    close(gain, torch.ones(1, 3, 1, 1))
    close(offset, observed.mean(dim=(2, 3), keepdim=True) - 0.5)


def test_pixels_of_no_weight_are_not_fitted():
    rendered, observed = random(2, 3, 8, 8), random(2, 3, 8, 8, seed=1)
    weight = (random(2, 1, 8, 8, seed=2) > 0.5).float()
    spoilt = torch.where(weight > 0, observed, 100.0)
    for actual, expected in zip(
        colour_fit.fit_colour(rendered, spoilt, weight), colour_fit.fit_colour(rendered, observed, weight)
    ):
        close(actual, expected)


def test_nothing_to_fit_is_the_identity_and_extremes_are_bounded():
    gain, offset = colour_fit.fit_colour(random(1, 3, 4, 4), random(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    close(gain, torch.ones(1, 3, 1, 1))
    close(offset, torch.zeros(1, 3, 1, 1))
    rendered = random(1, 3, 8, 8)
    for factor, bound in ((-3.0, 0.25), (40.0, 4.0)):
        gain, _ = colour_fit.fit_colour(rendered, factor * rendered, torch.ones(1, 1, 8, 8))
        close(gain, torch.full((1, 3, 1, 1), bound))


# --- the hand's law ----------------------------------------------------------


def test_scale_is_the_median_over_ln_2():
    residual = torch.tensor([0.05, 0.1, 0.2, 9.0, 9.0]).reshape(1, 1, 1, 5).expand(2, 3, 1, 5)
    weight = torch.tensor([[1.0, 1, 1, 0, 0], [1.0, 0, 1, 1, 0.2]]).reshape(2, 1, 1, 5)
    scale = likelihoods.laplace_scale(residual, weight)
    assert scale.shape == (2, 1, 1, 1)
    close(scale.flatten(), [0.1 / math.log(2), 0.2 / math.log(2)], atol=1e-4)


def test_scale_of_a_laplace_sample_is_its_scale():
    law = torch.distributions.Laplace(0.0, 0.1)
    torch.manual_seed(0)
    residual = law.sample((1, 1, 100, 100)).abs().expand(1, 3, 100, 100)
    # A median of n exponential draws has the standard error scale / √n; five of them, over ln 2.
    close(likelihoods.laplace_scale(residual, torch.ones(1, 1, 100, 100)).flatten(), [0.1], atol=5 * 1e-3 / math.log(2))


def test_scale_is_finite_and_bounded_when_nothing_or_one_pixel_is_inside():
    residual = 0.3 * random(1, 3, 4, 4)
    empty = likelihoods.laplace_scale(residual, torch.zeros(1, 1, 4, 4))
    assert 0.02 <= empty.item() <= 0.5
    one = torch.zeros(1, 1, 4, 4)
    one[..., 1, 2] = 1
    close(likelihoods.laplace_scale(residual, one).flatten(), [residual[0, :, 1, 2].mean() / math.log(2)], atol=1e-3)
    assert likelihoods.laplace_scale(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)).item() == pytest.approx(0.02)
    assert likelihoods.laplace_scale(torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("unexplained", [None, 0.0, 0.3])
def test_the_hand_costs_what_a_laplace_law_mixed_with_a_uniform_share_says(unexplained):
    difference = random(2, 3, 5, 5) - 0.5
    scale = torch.tensor([0.05, 0.3]).reshape(2, 1, 1, 1)
    # In float64: e^−30 and what its logarithm is are far from underflow.
    law = torch.distributions.Laplace(torch.zeros((), dtype=torch.float64), scale.double())
    density = law.log_prob(difference).sum(dim=1, keepdim=True).exp()
    share = 0.1 if unexplained is None else unexplained
    expected = -((1 - share) * density + share).log()
    given_share = {} if unexplained is None else {"outlier_share": unexplained}
    close(likelihoods.hand_cost(difference.abs(), scale, **given_share), expected, atol=1e-4)


def test_without_an_unexplained_share_the_law_is_laplaces_to_its_far_end():
    """Where the density itself is 0 in float32 (e^−150), its logarithm is not, and slopes like every other."""
    residual = torch.tensor([0.0, 0.1, 1.0]).reshape(3, 1, 1, 1).expand(3, 3, 1, 1).clone().requires_grad_()
    cost = likelihoods.hand_cost(residual, torch.full((3, 1, 1, 1), 0.02), outlier_share=0.0)
    close(cost.flatten(), [3 * (each / 0.02 + math.log(0.04)) for each in (0.0, 0.1, 1.0)], atol=1e-4)
    close(torch.autograd.grad(cost.sum(), residual)[0], torch.full((3, 3, 1, 1), 50.0), atol=1e-3)


@pytest.mark.parametrize("unexplained", [0.05, 0.1, 0.5])
def test_what_no_texture_predicts_costs_its_share_and_does_not_pull(unexplained):
    residual = torch.linspace(0, 1, 101).expand(1, 3, 1, 101).clone().requires_grad_()
    cost = likelihoods.hand_cost(residual, torch.full((1, 1, 1, 1), 0.02), unexplained)
    (pull,) = torch.autograd.grad(cost.sum(), residual)
    bound = -math.log(unexplained)
    assert cost.max() <= bound + 4e-6  # eight ulps of a logarithm between 2 and 4
    close(cost[..., 50:], torch.full((1, 1, 1, 51), bound))
    assert (cost.diff(dim=-1) >= -4e-6).all() and (pull >= 0).all()  # worse never costs less
    # Well explained, the share matters little and the law pulls as Laplace's; the gross pull less than a millionth.
    close(pull[..., 0], torch.full((1, 3, 1), 1 / 0.02), atol=0.01)
    assert pull[..., 50:].max() < 1e-6 * pull[..., 0].max()


@pytest.mark.parametrize("unexplained", [0.0, 0.1])
def test_the_hands_cost_has_the_gradient_of_its_value(unexplained):
    residual = (0.02 + 0.5 * random(2, 3, 3, 2)).double().requires_grad_()
    scale = torch.tensor([0.1, 0.4], dtype=torch.float64).reshape(2, 1, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(likelihoods.hand_cost, (residual, scale, unexplained))


@pytest.mark.parametrize("unexplained", [0.0, 0.1, 0.3])
def test_the_hands_density_integrates_to_the_share_that_is_explained(unexplained):
    line = torch.linspace(-3, 3, 60_001)
    scale = torch.full((1, 1, 1, 1), 0.1)
    residual = torch.zeros(1, 3, 1, len(line))
    residual[0, 0, 0] = line.abs()
    density = torch.exp(-likelihoods.hand_cost(residual, scale, unexplained))[0, 0, 0]
    # The other two channels stay at their mode, where each has density 1 / (2 scale).
    total = torch.trapezoid(density - unexplained, line) * (2 * 0.1) ** 2
    assert total.item() == pytest.approx(1 - unexplained, abs=1e-3)


# --- the background's law ----------------------------------------------------


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


def test_background_cost_is_a_smoothed_histogram_read_linearly():
    image = 0.3 + 0.3 * random(1, 3, 6, 6)
    image[0, :, 0, :3] = torch.tensor([0.0, 1.0, 0.97])[:, None]  # at the cube's border
    outside = random(1, 1, 6, 6, seed=1)
    actual = background.background_cost(image, outside, uniform=0.2)
    torch.testing.assert_close(actual[0, 0], background_reference(image, outside, 0.2), rtol=0, atol=1e-4)


def test_the_backgrounds_own_colours_are_cheap_and_unseen_ones_cost_the_uniform_share():
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


def test_the_backgrounds_density_integrates_to_one():
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
def test_background_cost_is_finite_without_background_and_for_any_finite_colour(fill, share):
    image = torch.full((2, 3, 4, 4), fill)
    cost = background.background_cost(image, torch.full((2, 1, 4, 4), share))
    assert cost.shape == (2, 1, 4, 4) and torch.isfinite(cost).all()
    if not share:
        close(cost, torch.full((2, 1, 4, 4), -math.log(0.1)))


def test_background_cost_is_detached():
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


# --- beyond the wrist --------------------------------------------------------


def test_beyond_the_wrist_by_hand():
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


def test_beyond_the_wrist_turns_with_the_hand_and_keeps_samples_apart():
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


# --- all of them -------------------------------------------------------------


@given(seed=st.integers(0, 10_000), covered=st.sampled_from([0.0, 0.02, 0.5, 1.0]), flat=st.booleans())
def test_costs_are_finite_for_any_image(seed, covered, flat):
    image = random(1, 3, 8, 8, seed=seed)
    image = image.round() if flat else image
    coverage = (random(1, 1, 8, 8, seed=seed + 1) < covered).float() * random(1, 1, 8, 8, seed=seed + 2)
    colour = colour_fit.extend_colours(random(1, 3, 8, 8, seed=seed + 3) * coverage, coverage, 1)
    inside = (coverage > 0.5).float()
    gain, offset = colour_fit.fit_colour(colour, image, inside)
    residual = (gain * colour + offset - image).abs()
    cost = likelihoods.hand_cost(residual, likelihoods.laplace_scale(residual, inside))
    for tensor in (colour, gain, offset, cost, background.background_cost(image, 1 - coverage)):
        assert torch.isfinite(tensor).all()


def test_empty_batch():
    image, coverage = torch.zeros(0, 3, 8, 8), torch.zeros(0, 1, 8, 8)
    assert colour_fit.extend_colours(image, coverage, 1).shape == (0, 3, 8, 8)
    assert colour_fit.fit_colour(image, image, coverage)[0].shape == (0, 3, 1, 1)
    scale = likelihoods.laplace_scale(image, coverage)
    assert scale.shape == (0, 1, 1, 1)
    assert likelihoods.hand_cost(image, scale).shape == (0, 1, 8, 8)
    assert background.background_cost(image, coverage).shape == (0, 1, 8, 8)
    assert forearm.beyond_wrist(torch.zeros(0, 16, 2), torch.zeros(0, 2), 8, 8).shape == (0, 1, 8, 8)

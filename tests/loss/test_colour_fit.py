from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_parts import close, random
from texalign.loss import background, colour_fit, likelihoods


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
def test_extension_is_finite_whatever_is_covered(value):
    coverage = torch.full((2, 1, 6, 6), value)
    extended = colour_fit.extend_colours(random(2, 3, 6, 6) * value, coverage, 1)
    assert torch.isfinite(extended).all()
    assert extended.min() >= 0 and extended.max() <= 1 + 1e-5


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

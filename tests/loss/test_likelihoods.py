from __future__ import annotations

import math

import pytest
import torch

from loss_parts import close, random
from texalign.loss import likelihoods


def test_scale_is_the_median_over_ln_2():
    residual = torch.tensor([0.05, 0.1, 0.2, 9.0, 9.0]).reshape(1, 1, 1, 5).expand(2, 3, 1, 5)
    weight = torch.tensor([[1.0, 1, 1, 0, 0], [1.0, 0, 1, 1, 0.2]]).reshape(2, 1, 1, 5)
    scale = likelihoods.laplace_scale(residual, weight)
    assert scale.shape == (2, 1, 1, 1)
    close(scale.flatten(), [0.1 / math.log(2), 0.2 / math.log(2)], atol=1e-4)


def test_scale_of_a_laplace_sample_is_its_scale():
    distribution = torch.distributions.Laplace(0.0, 0.1)
    torch.manual_seed(0)
    residual = distribution.sample((1, 1, 100, 100)).abs().expand(1, 3, 100, 100)
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


@pytest.mark.parametrize("outlier_share", [None, 0.0, 0.3])
def test_the_density_is_laplaces_mixed_with_a_uniform_outlier_component(outlier_share):
    difference = random(2, 3, 5, 5) - 0.5
    scale = torch.tensor([0.05, 0.3]).reshape(2, 1, 1, 1)
    # In float64: e^−30 and what its logarithm is are far from underflow.
    distribution = torch.distributions.Laplace(torch.zeros((), dtype=torch.float64), scale.double())
    density = distribution.log_prob(difference).sum(dim=1, keepdim=True).exp()
    share = 0.1 if outlier_share is None else outlier_share
    expected = -((1 - share) * density + share).log()
    given_share = {} if outlier_share is None else {"outlier_share": outlier_share}
    close(likelihoods.hand_cost(difference.abs(), scale, **given_share), expected, atol=1e-4)


def test_without_outliers_it_is_laplaces_to_its_far_end():
    """Where the density itself is 0 in float32 (e^−150), its logarithm is not, and slopes like every other."""
    residual = torch.tensor([0.0, 0.1, 1.0]).reshape(3, 1, 1, 1).expand(3, 3, 1, 1).clone().requires_grad_()
    cost = likelihoods.hand_cost(residual, torch.full((3, 1, 1, 1), 0.02), outlier_share=0.0)
    close(cost.flatten(), [3 * (each / 0.02 + math.log(0.04)) for each in (0.0, 0.1, 1.0)], atol=1e-4)
    close(torch.autograd.grad(cost.sum(), residual)[0], torch.full((3, 3, 1, 1), 50.0), atol=1e-3)


@pytest.mark.parametrize("outlier_share", [0.05, 0.1, 0.5])
def test_an_outliers_cost_is_bounded_and_its_gradient_vanishes(outlier_share):
    residual = torch.linspace(0, 1, 101).expand(1, 3, 1, 101).clone().requires_grad_()
    cost = likelihoods.hand_cost(residual, torch.full((1, 1, 1, 1), 0.02), outlier_share)
    (slope,) = torch.autograd.grad(cost.sum(), residual)
    bound = -math.log(outlier_share)
    assert cost.max() <= bound + 4e-6  # eight ulps of a logarithm between 2 and 4
    close(cost[..., 50:], torch.full((1, 1, 1, 51), bound))
    assert (cost.diff(dim=-1) >= -4e-6).all() and (slope >= 0).all()  # worse never costs less
    # A small residual has Laplace's slope, a gross one less than a millionth of it.
    close(slope[..., 0], torch.full((1, 3, 1), 1 / 0.02), atol=0.01)
    assert slope[..., 50:].max() < 1e-6 * slope[..., 0].max()


@pytest.mark.parametrize("outlier_share", [0.0, 0.1])
def test_gradients_are_those_of_the_value(outlier_share):
    residual = (0.02 + 0.5 * random(2, 3, 3, 2)).double().requires_grad_()
    scale = torch.tensor([0.1, 0.4], dtype=torch.float64).reshape(2, 1, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(likelihoods.hand_cost, (residual, scale, outlier_share))


@pytest.mark.parametrize("outlier_share", [0.0, 0.1, 0.3])
def test_the_density_integrates_to_the_share_of_inliers(outlier_share):
    line = torch.linspace(-3, 3, 60_001)
    scale = torch.full((1, 1, 1, 1), 0.1)
    residual = torch.zeros(1, 3, 1, len(line))
    residual[0, 0, 0] = line.abs()
    density = torch.exp(-likelihoods.hand_cost(residual, scale, outlier_share))[0, 0, 0]
    # The other two channels stay at their mode, where each has density 1 / (2 scale).
    total = torch.trapezoid(density - outlier_share, line) * (2 * 0.1) ** 2
    assert total.item() == pytest.approx(1 - outlier_share, abs=1e-3)

from __future__ import annotations

import pytest
import torch

from loss_parts import close, random
from texalign.loss.residual import InteriorResidual

SHARE = 0.6


def interior_residual(rendered, coverage, image, gain, offset, near):
    """The same with plain operators, and all of autograd's bookkeeping."""
    inside = (coverage > 0.5).to(image.dtype)
    colour = torch.where(coverage > 0.5, rendered / coverage.clamp(min=1e-4), near)
    fitted = gain * colour + offset
    fitted = fitted.detach() + SHARE * inside * (fitted - fitted.detach())
    return (fitted - image).abs(), fitted.detach()


@pytest.fixture
def colours():
    """Rendered (premultiplied), coverage, image, gain, offset and what was carried past the outline; in float64."""
    coverage = random(2, 1, 5, 4, seed=1).double()
    coverage[0, 0, 0] = torch.tensor([0.0, 1.0, 0.5, 1e-6])
    rendered = random(2, 3, 5, 4).double() * coverage
    gain, offset = 0.5 + random(2, 3, 1, 1, seed=2).double(), 0.1 * random(2, 3, 1, 1, seed=3).double()
    return rendered, coverage, random(2, 3, 5, 4, seed=4).double(), gain, offset, random(2, 3, 5, 4, seed=5).double()


@pytest.mark.parametrize("interleaved", [False, True], ids=["planes", "as the renderer gives them"])
def test_value_and_gradients_are_those_of_the_plain_operators(colours, interleaved):
    rendered, coverage, *rest = colours
    if interleaved:
        layers = torch.cat([rendered, coverage], dim=1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        rendered, coverage = layers[:, :3], layers[:, 3:]
    leaves = rendered.requires_grad_(), coverage.requires_grad_()
    expected, fitted = interior_residual(*leaves, *rest)
    image, gain = rest[:2]
    residual = InteriorResidual.apply(*leaves, fitted, image, gain, SHARE)
    assert torch.equal(residual, expected)
    weight = random(2, 3, 5, 4, seed=6).double()
    for upstream in (weight, weight[:, :1, :1, :1].expand_as(weight)):  # a sum's gradient is an expanded view
        found = torch.autograd.grad(residual, leaves, upstream, retain_graph=True)
        for actual, right in zip(found, torch.autograd.grad(expected, leaves, upstream, retain_graph=True)):
            torch.testing.assert_close(actual, right)
            assert (actual[coverage.expand_as(actual) <= 0.5] == 0).all() and (actual != 0).any()


def test_a_share_of_the_true_gradient_is_passed_on(colours):
    """By finite differences of the fitted colours, inside the outline and away from a residual of 0."""
    rendered, coverage, image, gain, offset, _ = colours
    coverage = 0.6 + 0.4 * coverage

    def residual(rendered, coverage):
        fitted = (gain * rendered / coverage + offset).detach()
        return InteriorResidual.apply(rendered, coverage, fitted, image, gain, 1.0)

    assert torch.autograd.gradcheck(residual, (rendered.requires_grad_(), coverage.requires_grad_()))


def test_one_input_alone_may_need_a_gradient(colours):
    rendered, coverage, image, gain, offset, near = colours
    _, fitted = interior_residual(rendered, coverage, image, gain, offset, near)
    for number in (0, 1):
        leaves = [rendered.clone(), coverage.clone()]
        leaves[number].requires_grad_()
        InteriorResidual.apply(*leaves, fitted, image, gain, SHARE).sum().backward()
        assert leaves[number].grad is not None and leaves[1 - number].grad is None
    close(InteriorResidual.apply(rendered, coverage, fitted, image, gain, SHARE), (fitted - image).abs())

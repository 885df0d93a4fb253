from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class InteriorResidual(Function):
    """|fitted − image| (B, 3, H, W), with the gradient that the rendered hand has inside its outline.

    There `fitted` is gain · rendered / coverage + offset, and a `share` of that gradient is passed on; past the
    outline the colours are only copies, whose slope means nothing. Reference: `interior_residual` in
    tests/loss/test_residual.py.
    """

    @staticmethod
    def forward(
        ctx: Any, rendered: Tensor, coverage: Tensor, fitted: Tensor, image: Tensor, gain: Tensor, share: float
    ) -> Tensor:
        """The residual."""
        ctx.save_for_backward(rendered, coverage, fitted, image, gain)
        ctx.share = share
        return (fitted - image).abs_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """Gradients at `rendered` and `coverage`."""
        rendered, coverage, fitted, image, gain = ctx.saved_tensors
        slope = torch.where(coverage > 0.5, ctx.share / coverage, 0)
        # Not in place on `grad`: it may be an expanded view.
        at_rendered = (fitted - image).sign_().mul_(grad).mul_(gain).mul_(slope)
        at_coverage = -(at_rendered * rendered).sum(dim=1, keepdim=True).mul_(slope / ctx.share)
        return at_rendered, at_coverage, None, None, None, None

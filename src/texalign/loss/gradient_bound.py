"""A bound on each sample's own gradient, whatever weight, mean or loss scale is applied to the loss afterwards."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nan_to_num
from torch.autograd import Function


class GradientBound:
    """Bounds the gradient that a value (B,) sends back to an input (B, …), sample by sample.

    `enter` marks the input, `leave` the value. The backward pass comes through `leave` first and leaves word there of
    the factor the caller put on each value; `enter` then scales the sample's gradient down to an L2 norm of `limit`
    times that factor. Non-finite entries become 0.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.factor: Tensor | None = None

    def enter(self, values: Tensor) -> Tensor:
        """The input itself."""
        bounded: Tensor = _Enter.apply(values, self)
        return bounded

    def leave(self, values: Tensor) -> Tensor:
        """The value itself, (B,)."""
        noted: Tensor = _Leave.apply(values, self)
        return noted


class _Leave(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: GradientBound) -> Tensor:
        ctx.bound = bound
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.bound.factor = grad.detach().abs()
        return grad, None


class _Enter(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bound: GradientBound) -> Tensor:
        ctx.bound = bound
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        bound = ctx.bound
        grad = nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
        if bound.factor is not None:  # else the gradient came by another way: a detail the caller used
            norm = grad.flatten(1).norm(dim=1).clamp(min=1e-30)
            shrink = (bound.limit * bound.factor / norm).clamp(max=1)
            grad = grad * shrink.reshape(-1, *[1] * (grad.dim() - 1))
            bound.factor = None
        return grad, None

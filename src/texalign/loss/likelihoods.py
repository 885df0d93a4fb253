from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (residual (B, 3, H, W) >= 0, scale (B, 1, 1, 1) > 0) → negative log density of the residual's three channels together
# (B, 1, H, W). Must be differentiable in the residual.
ResidualCost = Callable[[Tensor, Tensor], Tensor]


def laplace_cost(residual: Tensor, scale: Tensor) -> Tensor:
    """Negative log density (B, 1, H, W) of absolute residuals under a Laplace distribution a channel.

    Args:
        residual: (B, 3, H, W) absolute differences of colours.
        scale: (B, 1, 1, 1) of the distribution.

    Example:
        >>> laplace_cost(torch.full((1, 3, 1, 1), 0.1), scale=torch.full((1, 1, 1, 1), 0.5))
        tensor([[[[0.6000]]]])
    """
    return residual.sum(dim=1, keepdim=True) / scale + residual.shape[1] * torch.log(2 * scale)


def laplace_scale(residual: Tensor, weight: Tensor) -> Tensor:
    """(B, 1, 1, 1): the median absolute residual where weight > 0.5, over ln 2 (the scale of a Laplace density)."""
    magnitude = residual.mean(dim=1).flatten(1)
    median = torch.where(weight.flatten(1) > 0.5, magnitude, torch.nan).nanmedian(dim=1, keepdim=True).values
    median = torch.where(torch.isfinite(median), median, 0.1)
    return (median / 0.6931).clamp(0.02, 0.5)[:, :, None, None]


def hand_cost(
    residual: Tensor, scale: Tensor, outlier_share: float = 0.1, residual_cost: ResidualCost = laplace_cost
) -> Tensor:
    """(B, 1, H, W): negative log density of a pixel's residual if it shows the hand.

    The residual's distribution is mixed with a uniform outlier component: a shadow, a ring or an occluder, which no
    texture predicts, costs at most −ln(outlier_share), so its gradient vanishes.

    Args:
        residual: (B, 3, H, W) absolute differences of colours in [0, 1].
        scale: (B, 1, 1, 1) of the residual's distribution.
        outlier_share: weight of the uniform component, in [0, 1].
        residual_cost: the residual's negative log density; see `ResidualCost`.

    Example:
        >>> hand_cost(torch.ones(1, 3, 1, 1), scale=torch.full((1, 1, 1, 1), 0.05))  # an occluder: −ln 0.1
        tensor([[[[2.3026]]]])
    """
    inlier = -residual_cost(residual, scale)
    share = inlier.new_full((), outlier_share)
    # In logarithms, or a gross residual's density would underflow: infinite, and NaN backwards, without the share.
    return -torch.logaddexp(inlier + torch.log1p(-share), torch.log(share))

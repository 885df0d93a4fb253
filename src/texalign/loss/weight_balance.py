from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import expect

WHO = "balanced_weight"


def balanced_weight(
    texture_loss: Tensor, other_losses: Tensor, at: Tensor | Sequence[Tensor], ratio: float = 0.5
) -> Tensor:
    """The weight at which the texture's gradient is `ratio` times as strong as the other losses'.

    Strength is the median, over the samples, of the gradient's L2 norm at `at`. Samples in which the texture has no
    gradient (skipped hands) are left out. The graph is kept for the step's own ``backward()``; nothing is computed
    forward again.

    Take the median over the first 20 batches, then keep it fixed: a weight that follows the losses changes what is
    minimised.

    Args:
        texture_loss: what `DenseTextureAlignmentLoss` returned, a scalar or (B,), before any weight.
        other_losses: all the other terms with their own weights, reduced over the batch in the same way (both means or
            both sums), a scalar or (B,).
        at: a tensor (B, …), or several, that both depend on: predicted pose and camera, vertices, or a feature.
        ratio: of the texture's strength to the others', > 0.

    Returns:
        A finite scalar ≥ 0 without a gradient; 0 where no sample has a texture gradient and finite gradients of both.

    Raises:
        ValueError: `ratio` is not positive, `at` is empty, of different batch sizes, or has no gradient of one of the
            losses.

    Example:
        >>> pose = torch.ones(4, 3, requires_grad=True)
        >>> balanced_weight(2 * pose.sum(), 8 * pose.sum(), at=pose, ratio=0.5)
        tensor(2.)
    """
    tensors = (at,) if isinstance(at, Tensor) else tuple(at)
    expect(0 < ratio < math.inf, WHO, "a finite ratio > 0", ratio)
    expect(len(tensors) > 0, WHO, "at least one tensor in at", "none")
    shapes = [tuple(tensor.shape) for tensor in tensors]
    expect(
        all(len(shape) > 1 and shape[0] == shapes[0][0] for shape in shapes), WHO, "at of one batch size (B, …)", shapes
    )
    texture = _strength(texture_loss, tensors, "texture_loss")
    others = _strength(other_losses, tensors, "other_losses")
    counted = torch.isfinite(texture) & torch.isfinite(others) & (texture > 0)
    medians = [torch.where(counted, norm, torch.nan).nanquantile(0.5) for norm in (others, texture)]
    return torch.nan_to_num(ratio * medians[0] / medians[1], nan=0.0, posinf=0.0)


def _strength(loss: Tensor, at: Sequence[Tensor], name: str) -> Tensor:
    """(B,) float32 L2 norms of a loss's gradient."""
    expect(loss.requires_grad, WHO, f"{name} with a gradient", "one without")
    expect(all(tensor.requires_grad for tensor in at), WHO, "at with a gradient", "a tensor without")
    gradients = torch.autograd.grad(loss.sum(), at, retain_graph=True, allow_unused=True)
    parts = [gradient.detach().float().flatten(1) for gradient in gradients if gradient is not None]
    expect(len(parts) > 0, WHO, f"{name} that depends on at", "one that does not")
    return torch.cat(parts, dim=1).norm(dim=1)

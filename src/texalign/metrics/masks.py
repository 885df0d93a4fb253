"""How well masks agree: by area, and by outline."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from texalign.metrics.pairs import same_shape


def mask_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) intersection over union of masks (B, 1, H, W) at one half; 1 where both are empty.

    Example:
        >>> left, top = torch.zeros(2, 1, 1, 4, 4).unbind()
        >>> left[..., :2], top[..., :2, :] = 1, 1
        >>> mask_iou(left, top)
        tensor([0.3333])
    """
    same_shape("mask_iou", predicted, true, ("B", 1, "H", "W"))
    first, second = predicted > 0.5, true > 0.5
    both, either = (first & second).sum(dim=(1, 2, 3)), (first | second).sum(dim=(1, 2, 3))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def boundary_f_score(predicted: Tensor, true: Tensor, tolerance: float = 0.008) -> Tensor:
    """(B,) in [0, 1]: how well the outlines of masks (B, 1, H, W) at one half agree (Martin et al., 2004).

    The harmonic mean of the share of the predicted outline's pixels that lie within a tolerance of the true outline,
    and the other way round. 1 where neither mask has an outline, 0 where one has none. Equal to F in the evaluation of
    DAVIS 2017. An outline pixel differs from its right, lower or lower right neighbour; the frame's edge is no outline.

    Args:
        predicted: (B, 1, H, W) in [0, 1] or bool.
        true: (B, 1, H, W) in [0, 1] or bool.
        tolerance: as a share of the frame's diagonal, rounded up to whole pixels: 3 px at 256 × 256.

    Raises:
        ValueError: the shapes or devices do not fit.

    Example:
        >>> mask = torch.zeros(1, 1, 64, 64)
        >>> mask[..., 16:48, 16:48] = 1
        >>> boundary_f_score(mask.roll(1, dims=-1), mask)  # one pixel off, as the tolerance at this size
        tensor([1.])
    """
    same_shape("boundary_f_score", predicted, true, ("B", 1, "H", "W"))
    radius = math.ceil(tolerance * math.hypot(*true.shape[-2:]))
    first, second = _outline(predicted > 0.5), _outline(true > 0.5)
    near_first, near_second = _within(first, radius), _within(second, radius)
    sizes = first.sum(dim=(1, 2, 3)), second.sum(dim=(1, 2, 3))
    # Where there is no outline, nothing of it is wrong.
    precision = torch.where(sizes[0] > 0, (first & near_second).sum(dim=(1, 2, 3)) / sizes[0], 1.0)
    recall = torch.where(sizes[1] > 0, (second & near_first).sum(dim=(1, 2, 3)) / sizes[1], 1.0)
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total, 0.0)


def _outline(mask: Tensor) -> Tensor:
    """(B, 1, H, W) bool: pixels that differ from the one to the right, below, or both."""
    padded = functional.pad(mask.float(), (0, 1, 0, 1), mode="replicate") > 0.5
    right, below, both = padded[..., :-1, 1:], padded[..., 1:, :-1], padded[..., 1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ both)


def _within(outline: Tensor, radius: int) -> Tensor:
    """(B, 1, H, W) bool: pixels whose centre is not farther than `radius` pixels from that of an outline pixel."""
    offset = torch.arange(-radius, radius + 1, device=outline.device)
    disc = (offset[:, None].square() + offset.square() <= radius**2).float()
    with torch.autocast(outline.device.type, enabled=False):
        return functional.conv2d(outline.float(), disc[None, None], padding=radius) > 0.5

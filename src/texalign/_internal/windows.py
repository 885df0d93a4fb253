from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def box_sum(image: Tensor, radius: int) -> Tensor:
    """Sum over a (2 radius + 1)² window; what lies outside the frame counts as 0. Not differentiable.

    Windows of 1, 2, 4, … pixels are doubled, and those that make up the side are added: ⌈2 log₂ side⌉ additions an
    axis, and nothing is ever subtracted. So the relative error of a sum of numbers ≥ 0 is at most 2⁻²⁴ (float32) for
    each addition on a number's way, and a window of zeros has the sum 0. Differences of running sums need as long, and
    err by as much as the whole image's sum: at 1080p by the colours of a window that just touches the hand.
    """
    for axis in (-1, -2):
        image = _doubled(image, radius, axis, torch.add, 0.0)
    return image


@torch.no_grad()
def dilate(image: Tensor, radius: int) -> Tensor:
    """Maximum over a (2 radius + 1)² window within the frame. Not differentiable."""
    for axis in (-1, -2):
        image = _doubled(image, radius, axis, torch.maximum, -torch.inf)
    return image


def _doubled(image: Tensor, radius: int, axis: int, join: Callable[..., Tensor], border: float) -> Tensor:
    """`join` over a window of 2 radius + 1 pixels along an axis, from windows of 1, 2, 4, … pixels."""
    count, side = image.shape[axis], 2 * radius + 1
    window = functional.pad(image, (radius, radius) if axis == -1 else (0, 0, radius, radius), value=border)
    found = window.narrow(axis, 0, count).clone()
    spare, width, covered = torch.empty_like(window), 1, 1
    while 2 * width <= side:
        length = window.shape[axis] - width
        # Back and forth between two buffers: a processor spends longer on fetching new memory than on sums.
        longer = spare.narrow(axis, 0, length)
        join(window.narrow(axis, 0, length), window.narrow(axis, width, length), out=longer)
        window, spare, width = longer, window, 2 * width
        if side & width:
            join(found, window.narrow(axis, covered, count), out=found)
            covered += width
    return found

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


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


def dilate(image: Tensor, radius: int) -> Tensor:
    """Maximum over a (2 radius + 1)² window within the frame. Not differentiable."""
    for axis in (-1, -2):
        image = _doubled(image, radius, axis, torch.maximum, -torch.inf)
    return image


def _doubled(image: Tensor, radius: int, axis: int, join: Callable[[Tensor, Tensor], Tensor], border: float) -> Tensor:
    """`join` over a window of 2 radius + 1 pixels along an axis, from windows of 1, 2, 4, … pixels."""
    count, side = image.shape[axis], 2 * radius + 1
    window = functional.pad(image, (radius, radius) if axis == -1 else (0, 0, radius, radius), value=border)
    width, found, covered = 1, window.narrow(axis, 0, count), 1
    while 2 * width <= side:
        length = window.shape[axis] - width
        window = join(window.narrow(axis, 0, length), window.narrow(axis, width, length))
        width *= 2
        if side & width:
            found = join(found, window.narrow(axis, covered, count))
            covered += width
    return found

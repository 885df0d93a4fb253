from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import box_sum


@torch.no_grad()
def extend_colours(image: Tensor, coverage: Tensor, radius: int) -> Tensor:
    """The hand's colour carried past its outline, without a gradient.

    Inside, premultiplied `image` (B, 3, H, W) over `coverage` (B, 1, H, W); outside, the coverage-weighted mean colour
    within `radius` pixels (0 farther away).
    """
    covered = coverage[:, 0]
    inside = covered > 0.5
    rows, columns = (box_sum(torch.ones_like(each), radius) for each in (covered[:1, :, :1], covered[:1, :1]))
    # Sums of one window, so that its size cancels; a mean coverage below 1e-4 counts as 1e-4.
    near = torch.maximum(box_sum(covered, radius), 1e-4 * rows * columns)
    weight = torch.where(inside, covered, near)
    # By channel, in a third of the memory.
    return torch.stack(
        [torch.where(inside, each, box_sum(each, radius)).div_(weight) for each in image.unbind(1)], dim=1
    )


@torch.no_grad()
def fit_colour(rendered: Tensor, observed: Tensor, weight: Tensor, strength: float = 0.05) -> tuple[Tensor, Tensor]:
    """Per-image, per-channel gain and offset (B, 3, 1, 1) that bring rendered colours to observed ones.

    Weighted least squares of gain · rendered + offset, the gain drawn towards 1 by a ridge of `strength`² on the
    variance of the colours, so that a hand of one colour, whose gain is undetermined, keeps gain 1. Closed form,
    without a gradient.
    """
    total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    mean_rendered, mean_observed = (
        (colours * weight).sum(dim=(2, 3), keepdim=True) / total for colours in (rendered, observed)
    )
    # Centred first: differences of raw moments would err by more than the variance of a hand of one colour.
    r = rendered - mean_rendered
    weighted = r * weight
    variance = r.mul_(weighted).sum(dim=(2, 3), keepdim=True) / total
    covariance = weighted.mul_(observed - mean_observed).sum(dim=(2, 3), keepdim=True) / total
    ridge = strength**2
    gain = ((covariance + ridge) / (variance + ridge)).clamp(0.25, 4)
    return gain, mean_observed - gain * mean_rendered

from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import box_sum


def extend_colours(image: Tensor, coverage: Tensor, radius: int) -> Tensor:
    """The hand's colour carried past its outline.

    Inside, premultiplied `image` (B, 3, H, W) over `coverage` (B, 1, H, W); outside, the coverage-weighted mean colour
    within `radius` pixels (0 farther away), without a gradient.
    """
    inside = coverage > 0.5
    with torch.no_grad():
        # Of one window, colour over coverage; a mean coverage below 1e-4 counts as 1e-4.
        near = box_sum(torch.cat([image, coverage], dim=1), radius)
        rows, columns = (
            box_sum(torch.ones_like(each), radius) for each in (coverage[:1, :, :, :1], coverage[:1, :, :1])
        )
        least = 1e-4 * rows * columns
    colour = torch.where(inside, image, near[:, :-1])
    return colour / torch.where(inside, coverage, torch.maximum(near[:, -1:], least))


def fit_colour(rendered: Tensor, observed: Tensor, weight: Tensor, strength: float = 0.05) -> tuple[Tensor, Tensor]:
    """Per-image, per-channel gain and offset (B, 3, 1, 1) that bring rendered colours to observed ones.

    Weighted least squares of gain · rendered + offset, the gain drawn towards 1 by a ridge of `strength`² on the
    variance of the colours, so that a hand of one colour, whose gain is undetermined, keeps gain 1. Closed form.
    """
    total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    mean_rendered = (rendered * weight).sum(dim=(2, 3), keepdim=True) / total
    mean_observed = (observed * weight).sum(dim=(2, 3), keepdim=True) / total
    # Centred first: differences of raw moments would err by more than the variance of a hand of one colour.
    r = rendered - mean_rendered
    weighted = r * weight
    covariance = (weighted * (observed - mean_observed)).sum(dim=(2, 3), keepdim=True) / total
    variance = (weighted * r).sum(dim=(2, 3), keepdim=True) / total
    ridge = strength**2
    gain = ((covariance + ridge) / (variance + ridge)).clamp(0.25, 4)
    return gain, mean_observed - gain * mean_rendered

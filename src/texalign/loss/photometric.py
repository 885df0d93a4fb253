"""Colour evidence, as pure functions on images: colour fit, hand against background, what lies beyond the wrist."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from texalign._internal import box_blur

# Colours are counted in cells of a sixteenth of the range each way: fine enough to tell a shirt from skin, coarse
# enough to be filled by a crop's few thousand background pixels.
BINS = 16


def extend_colours(image: Tensor, coverage: Tensor, radius: int) -> Tensor:
    """The hand's colour carried past its outline.

    Inside, premultiplied `image` (B, 3, H, W) over `coverage` (B, 1, H, W); outside, the coverage-weighted mean colour
    within `radius` pixels (0 farther away), without a gradient.
    """
    with torch.no_grad():
        near = box_blur(image, radius) / box_blur(coverage, radius).clamp(min=1e-4)
    inside = image / coverage.clamp(min=1e-4)
    return torch.where(coverage > 0.5, inside, near)


def fit_colour(rendered: Tensor, observed: Tensor, weight: Tensor, strength: float = 0.05) -> tuple[Tensor, Tensor]:
    """Per-image, per-channel gain and offset (B, 3, 1, 1) that bring rendered colours to observed ones.

    Weighted least squares of gain · rendered + offset, the gain drawn towards 1 by a ridge of `strength`² on the
    variance of the colours, so that a hand of one colour, whose gain is undetermined, keeps gain 1. Closed form.
    """
    total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    mean_rendered = (rendered * weight).sum(dim=(2, 3), keepdim=True) / total
    mean_observed = (observed * weight).sum(dim=(2, 3), keepdim=True) / total
    r, o = rendered - mean_rendered, observed - mean_observed
    covariance = (r * o * weight).sum(dim=(2, 3), keepdim=True) / total
    variance = (r * r * weight).sum(dim=(2, 3), keepdim=True) / total
    ridge = strength**2
    gain = ((covariance + ridge) / (variance + ridge)).clamp(0.25, 4)
    return gain, mean_observed - gain * mean_rendered


def laplace_scale(residual: Tensor, weight: Tensor) -> Tensor:
    """(B, 1, 1, 1): the median absolute residual where weight > 0.5, over ln 2 (the scale of a Laplace density)."""
    magnitude = residual.mean(dim=1).flatten(1)
    median = torch.where(weight.flatten(1) > 0.5, magnitude, torch.nan).nanmedian(dim=1, keepdim=True).values
    median = torch.where(torch.isfinite(median), median, 0.1)
    return (median / 0.6931).clamp(0.02, 0.5)[:, :, None, None]


def hand_cost(residual: Tensor, scale: Tensor, unexplained: float = 0.1) -> Tensor:
    """(B, 1, H, W): negative log density of absolute residuals (B, 3, H, W) under a Laplace law a channel.

    The law is mixed with an `unexplained` share of all colours evenly: a shadow, a ring or an occluder, which no
    texture predicts, costs −ln(unexplained) and no more, and loses its pull.
    """
    laplace = -(residual / scale + torch.log(2 * scale)).sum(dim=1, keepdim=True)
    share = laplace.new_full((), unexplained)
    # In logarithms, or a gross residual's density would underflow: infinite, and NaN backwards, without the share.
    return -torch.logaddexp(laplace + torch.log1p(-share), torch.log(share))


def structural_similarity(first: Tensor, second: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """SSIM (Wang et al., 2004), by channel, of images (B, C, H, W) in [0, 1]; `mean` averages over each window."""
    mean_first, mean_second = mean(first), mean(second)
    variance_first = mean(first * first) - mean_first * mean_first
    variance_second = mean(second * second) - mean_second * mean_second
    covariance = mean(first * second) - mean_first * mean_second
    luminance = (2 * mean_first * mean_second + 1e-4) / (mean_first.square() + mean_second.square() + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_first + variance_second + 9e-4)
    return luminance * structure


def dissimilarity(first: Tensor, second: Tensor, radius: int = 3) -> Tensor:
    """(B, 1, H, W) in [0, 1]: (1 − SSIM) / 2 over square windows, mean over channels."""
    similarity = structural_similarity(first, second, lambda image: box_blur(image, radius))
    return ((1 - similarity) / 2).clamp(0, 1).mean(dim=1, keepdim=True)


def background_cost(image: Tensor, outside: Tensor, uniform: float = 0.1) -> Tensor:
    """(B, 1, H, W): negative log density of each pixel's colour among the image's own background colours.

    The density is a smoothed histogram of the pixels where `outside` (B, 1, H, W) is 1, mixed with a `uniform` share,
    so that a colour never seen in the background costs −ln(uniform). Detached.
    """
    with torch.no_grad():
        batch = image.shape[0]
        colour = image.clamp(0, 1)
        cell = (colour * BINS).long().clamp(0, BINS - 1)
        index = (cell[:, 0] * BINS + cell[:, 1]) * BINS + cell[:, 2]
        weight = outside[:, 0].flatten(1)
        counts = colour.new_zeros(batch, BINS**3).scatter_add(1, index.flatten(1), weight)
        cube = counts.reshape(batch, 1, BINS, BINS, BINS)
        kernel = colour.new_full((3,), 0.25)
        kernel[1:2].fill_(0.5)  # not new_tensor: a copy to the device that the host waits for
        for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
            padding = tuple(side // 2 for side in shape)
            cube = functional.conv3d(cube, kernel.reshape(1, 1, *shape), padding=padding)
        density = cube * BINS**3 / cube.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-6)
        # grid_sample's last coordinate is the first axis of the cube.
        place = (2 * colour - 1).permute(0, 2, 3, 1).flip(-1)[:, None]
        seen = functional.grid_sample(density, place, padding_mode="border", align_corners=False)[:, :, 0]
        return -torch.log((1 - uniform) * seen + uniform)


def beyond_wrist(wrist: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W): 1 where the image shows, or may show, the forearm, else 0.

    Everything past the wrist's opening and up to twice its width to the sides. The forearm looks like the hand: whether
    a pixel there is hand cannot be told from colour, so nobody may pull at it.

    Args:
        wrist: (B, N, 2) pixels, the boundary loop of the open wrist.
        centre: (B, 2) pixels, the middle of the hand.
        height: H.
        width: W.
    """
    middle = wrist.mean(dim=1)
    direction = functional.normalize(middle - centre, dim=-1)
    across = torch.stack([-direction[:, 1], direction[:, 0]], dim=-1)
    offset = wrist - middle[:, None]
    half_width = (offset * across[:, None]).sum(dim=-1).abs().amax(dim=1)
    y = torch.arange(height, device=wrist.device, dtype=wrist.dtype) + 0.5
    x = torch.arange(width, device=wrist.device, dtype=wrist.dtype) + 0.5
    pixel = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    relative = pixel[None] - middle[:, None, None]
    along = (relative * direction[:, None, None]).sum(dim=-1)
    aside = (relative * across[:, None, None]).sum(dim=-1).abs()
    half_width = half_width[:, None, None]
    inside = (along > -0.35 * half_width) & (aside < 2 * half_width + 0.3 * along.clamp(min=0))
    return inside[:, None].to(wrist.dtype)

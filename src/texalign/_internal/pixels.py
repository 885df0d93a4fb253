from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal.checks import expect

# Files count whole pixels at their centres, as OpenCV, COCO and FreiHAND do; here those lie at half integers.
PIXEL_CENTRE = 0.5
# Pixels. The longer side of a box around a hand's known keypoints, and coordinates that stay below are no pixels.
SMALLEST_HAND, NORMALISED = 4.0, 2.0
# Fewer known keypoints do not place a hand.
FEWEST_KEYPOINTS = 4


def expect_pixels(points: Tensor, size: Sequence[int] | None, who: str) -> None:
    """Refuse keypoints (N, 21, 2), NaN where missing, of which most hands do not lie in pixels of an image (H, W)."""
    known = points.isfinite().all(dim=-1)
    enough = known.sum(dim=1) >= FEWEST_KEYPOINTS
    points, known = points[enough].detach(), known[enough]
    if not len(points):
        return
    low, high = (float(limit) - PIXEL_CENTRE for limit in points[known].aminmax())
    got = f"normalised ones, from {low:.2f} to {high:.2f}: multiply them by the image's width and height"
    expect(max(-low, high) > NORMALISED, who, "keypoints in pixels", got)
    middle = len(points) // 2
    extent = float(hand_extent(points).sort().values[middle])
    expect(extent >= SMALLEST_HAND, who, f"keypoints over at least {SMALLEST_HAND:g} pixels", f"over {extent:.2g}")
    if size is not None:
        height, width = size
        inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(dim=-1)
        share = float((inside.sum(dim=1) / known.sum(dim=1)).sort().values[middle])
        wanted = f"keypoints on the upright image of {width} × {height}"
        expect(share >= 0.5, who, wanted, f"{share:.0%} of them there; they run from {low:.1f} to {high:.1f}")


def hand_extent(points: Tensor) -> Tensor:
    """The longer side (N,) of the box around every hand's known keypoints (N, 21, 2)."""
    known = points.isfinite().all(dim=-1, keepdim=True)
    low = torch.where(known, points, torch.inf).amin(dim=1)
    high = torch.where(known, points, -torch.inf).amax(dim=1)
    return (high - low).amax(dim=1).clamp(min=0)

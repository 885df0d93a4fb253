"""Helpers that every package here shares; nothing of it is public."""

from texalign._internal.assets import hand_asset
from texalign._internal.checks import (
    expect,
    expect_flags,
    expect_floating,
    expect_same_device,
    expect_shape,
    expect_tensor,
    finite_samples,
)
from texalign._internal.compile import Unscriptable, opaque
from texalign._internal.constants import computes_constants
from texalign._internal.draws import Draws, per_sample
from texalign._internal.extras import DEMO_EXTRA_MISSING, MissingExtraError
from texalign._internal.files import write_whole
from texalign._internal.graphs import makes_gradients
from texalign._internal.mirror import flipped_images, mirrored_points
from texalign._internal.pixels import FEWEST_KEYPOINTS, PIXEL_CENTRE, SMALLEST_HAND, expect_pixels, hand_extent
from texalign._internal.windows import box_sum, dilate

__all__ = [
    "DEMO_EXTRA_MISSING",
    "FEWEST_KEYPOINTS",
    "PIXEL_CENTRE",
    "SMALLEST_HAND",
    "Draws",
    "MissingExtraError",
    "Unscriptable",
    "box_sum",
    "computes_constants",
    "dilate",
    "expect",
    "expect_flags",
    "expect_floating",
    "expect_pixels",
    "expect_same_device",
    "expect_shape",
    "expect_tensor",
    "finite_samples",
    "flipped_images",
    "hand_asset",
    "hand_extent",
    "makes_gradients",
    "mirrored_points",
    "opaque",
    "per_sample",
    "write_whole",
]

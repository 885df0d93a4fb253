from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from loss_parts import random
from texalign._internal import box_sum, dilate


def box_sum_reference(image, radius):
    side = 2 * radius + 1
    return functional.avg_pool2d(image, side, 1, radius, count_include_pad=True) * side**2


def dilate_reference(image, radius):
    return functional.max_pool2d(image, 2 * radius + 1, 1, radius)


@pytest.mark.parametrize(
    "shape", [(2, 3, 7, 5), (1, 1, 1, 9), (2, 1, 9, 1), (1, 1, 1, 1), (0, 3, 6, 6), (1, 2, 40, 30)]
)
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 6, 13])
def test_sum_and_maximum_of_the_window_within_the_frame(shape, radius):
    """Every make-up of a side by powers of two, and windows larger than the image."""
    image = random(*shape).double()
    padded = functional.pad(image, [radius] * 4)  # avg_pool2d refuses windows far larger than the image
    expected = box_sum_reference(padded, radius)[..., radius : radius + shape[2], radius : radius + shape[3]]
    torch.testing.assert_close(box_sum(image, radius), expected)
    expected = dilate_reference(padded, radius)[..., radius : radius + shape[2], radius : radius + shape[3]]
    assert torch.equal(dilate(image, radius), expected)


def test_the_maximum_of_negative_numbers_does_not_see_the_frame():
    assert (dilate(torch.full((1, 1, 4, 4), -2.0), 2) == -2).all()


@pytest.mark.parametrize("side", ["high", "wide"])
def test_sums_in_float32_err_by_the_window_not_by_the_image(side):
    """A strip as long as a 4K image, bright but for its last pixels, where a window holds next to nothing."""
    image = random(1, 1, 3, 2160)
    image[..., 1900:] = 0
    image[..., -10:] = 1e-4 * random(1, 1, 3, 10, seed=1)
    image = image.transpose(2, 3) if side == "high" else image
    radius = 27
    exact = box_sum(image.double(), radius)
    # Numbers >= 0, each of which goes through at most 2 log2(55) < 12 additions an axis.
    assert ((box_sum(image, radius) - exact).abs() <= 24 * 2**-24 * exact).all()
    assert (box_sum(image, radius)[exact == 0] == 0).all() and (exact == 0).any()

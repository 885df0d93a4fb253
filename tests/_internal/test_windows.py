from __future__ import annotations

import pytest
import torch

from loss_parts import close, random
from texalign._internal import box_blur, dilate


@pytest.mark.parametrize("radius", [1, 2])
def test_mean_and_maximum_of_the_window_within_the_frame(radius):
    image = random(2, 3, 7, 5)
    blurred, dilated = box_blur(image, radius), dilate(image, radius)
    for row in range(7):
        for column in range(5):
            rows = slice(max(row - radius, 0), row + radius + 1)
            columns = slice(max(column - radius, 0), column + radius + 1)
            window = image[:, :, rows, columns]
            close(blurred[:, :, row, column], window.mean(dim=(2, 3)))
            assert torch.equal(dilated[:, :, row, column], window.amax(dim=(2, 3)))

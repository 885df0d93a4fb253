from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Mean over a (2 radius + 1)² window, counting only what lies inside the frame."""
    side = 2 * radius + 1
    rows = functional.avg_pool2d(image, (1, side), stride=1, padding=(0, radius), count_include_pad=False)
    return functional.avg_pool2d(rows, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)


def dilate(image: Tensor, radius: int) -> Tensor:
    """Maximum over a (2 radius + 1)² window."""
    side = 2 * radius + 1
    rows = functional.max_pool2d(image, (1, side), stride=1, padding=(0, radius))
    return functional.max_pool2d(rows, (side, 1), stride=1, padding=(radius, 0))

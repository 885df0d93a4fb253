from __future__ import annotations

import torch
from torch import Tensor

# Colours are counted in cells of a sixteenth of the range each way: fine enough to tell a shirt from skin, coarse
# enough to be filled by a crop's few thousand background pixels.
BINS = 16


def background_cost(image: Tensor, outside: Tensor, uniform: float = 0.1) -> Tensor:
    """(B, 1, H, W): negative log density of each pixel's colour among the image's own background colours.

    The density is a smoothed histogram of the pixels where `outside` (B, 1, H, W) is 1, mixed with a `uniform` share,
    so that a colour never seen in the background costs −ln(uniform). Detached.

    Example:
        >>> image, outside = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
        >>> image[..., 4, 4], outside[..., 4, 4] = 1, 0  # a white hand of one pixel before a black background
        >>> background_cost(image, outside)[0, 0, 4, 4]  # −ln 0.1
        tensor(2.3026)
    """
    with torch.no_grad():
        position = image.clamp(0, 1).mul_(BINS)
        cells = _number(position.floor().clamp_(max=BINS - 1)).clamp_(0, BINS**3 - 1)
        counts = image.new_zeros(len(image), BINS**3).scatter_add_(1, cells, outside.flatten(1))
        cube = counts.reshape(-1, BINS, BINS, BINS)
        for axis in (1, 2, 3):  # by (1/4, 1/2, 1/4), with zeros beyond the border
            rim = torch.zeros_like(cube.narrow(axis, 0, 1))
            padded = torch.cat([rim, cube, rim], dim=axis)
            cube = 0.25 * (padded.narrow(axis, 0, BINS) + padded.narrow(axis, 2, BINS)) + 0.5 * cube
        density = cube.flatten(1) * (BINS**3 / cube.sum(dim=(1, 2, 3)).clamp(min=1e-6))[:, None]
        return _read((1 - uniform) * density + uniform, position).log_().neg_().reshape(outside.shape)


def _number(cell: Tensor) -> Tensor:
    """Cells (B, 3, H, W) of the three channels, whole numbers → their number in the flat cube (B, H·W) int64."""
    red, green, blue = cell.unbind(1)
    return torch.add(blue, torch.add(green, red, alpha=BINS), alpha=BINS).flatten(1).long()


def _read(table: Tensor, position: Tensor) -> Tensor:
    """Trilinear interpolation (B, H·W) in flat cubes (B, 16³) whose cells have their centres at 0.5, 1.5, …

    Overwrites `position` (B, 3, H, W).
    """
    position.sub_(0.5).clamp_(0, BINS - 1)
    low = position.floor().clamp_(max=BINS - 2)
    red, green, blue = position.sub_(low).flatten(2).unbind(1)
    # A colour that is not a number must not index outside the table.
    first = _number(low).clamp_(0, BINS**3 - BINS**2 - BINS - 2)

    def along_blue(cell: int) -> Tensor:
        left, right = (table[:, start:].gather(1, first) for start in (cell, cell + 1))
        return torch.lerp(left, right, blue)

    near, far = (torch.lerp(along_blue(start), along_blue(start + BINS), green) for start in (0, BINS**2))
    return torch.lerp(near, far, red)

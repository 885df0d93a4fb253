from __future__ import annotations

import torch
from torch import Tensor

from texalign.viz.sheets import written


def uv_checker(texture_size: int = 512, cells: int = 16, labels: bool = True) -> Tensor:
    """A texture that shows where in the atlas a point lies: hue follows u, lightness v; cells bear their name.

    Args:
        texture_size: T.
        cells: squares along each side.
        labels: write column letter and row number into each, A1 at (u, v) = (0, 0). Needs pillow.

    Returns:
        texture (1, 3, T, T).

    Example:
        >>> uv_checker(texture_size=256).shape
        torch.Size([1, 3, 256, 256])
    """
    step = torch.arange(texture_size) * cells // texture_size
    row, column = torch.meshgrid(step, step, indexing="ij")
    hue = column / cells * 2 * torch.pi
    wheel = torch.stack([0.5 + 0.5 * torch.cos(hue - phase * 2 * torch.pi / 3) for phase in range(3)])
    colour = (0.30 + 0.70 * wheel) * (1.0 - 0.45 * row / cells)
    texture = torch.where(((row + column) % 2).bool(), colour, 0.35 * colour + 0.65)
    side = texture_size // cells
    for i, j in ((i, j) for i in range(cells) for j in range(cells) if labels and side >= 16):
        top, left = -(-i * texture_size // cells), -(-j * texture_size // cells)
        name = f"{chr(ord('A') + j % 26)}{i + 1}"
        texture[:, top : top + side, left : left + side] *= written(name, side, side, int(side * 0.5))
    return texture[None]

from __future__ import annotations

from typing import NamedTuple

from einops import rearrange

from texalign.surface import HandSurface


class AtlasCells(NamedTuple):
    """All that an encoder depends on of a surface: its atlas, and which cells of a grid over it touch a chart."""

    atlas_id: str
    cells: tuple[int, ...]

    @classmethod
    def of(cls, surface: HandSurface, grid: int) -> AtlasCells:
        """Cells (row · grid + column) of a grid over the atlas in which at least one texel centre lies in a chart."""
        texels_a_side = max(256 // grid, 1)
        inside = surface.texel_map(grid * texels_a_side).face_index >= 0
        cell = rearrange(inside, "(row y) (column x) -> (row column) (y x)", y=texels_a_side, x=texels_a_side)
        return cls(surface.atlas_id, tuple(cell.any(dim=1).nonzero()[:, 0].tolist()))

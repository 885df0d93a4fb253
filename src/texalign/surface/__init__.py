"""A hand's topology and its UV atlas."""

from texalign.surface.hand_surface import SEAM, SEAM_EXPECTED, HandSurface, TexelMap, vertex_normals
from texalign.surface.topology import relative_winding, twin_edges

__all__ = [
    "SEAM",
    "SEAM_EXPECTED",
    "HandSurface",
    "TexelMap",
    "relative_winding",
    "twin_edges",
    "vertex_normals",
]

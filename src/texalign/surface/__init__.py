"""A hand's topology and its UV atlas."""

from texalign.surface.hand_surface import SEAM, SEAM_EXPECTED, HandSurface, TexelMap, vertex_normals
from texalign.surface.topology import relative_winding, same_atlas, twin_edges

__all__ = [
    "SEAM",
    "SEAM_EXPECTED",
    "HandSurface",
    "TexelMap",
    "relative_winding",
    "same_atlas",
    "twin_edges",
    "vertex_normals",
]

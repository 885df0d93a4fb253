"""Pictures of hands, textures and what the loss sees."""

from texalign.viz.checker import uv_checker
from texalign.viz.drawing import mark, outline, overlay
from texalign.viz.files import save_gif, save_png, to_uint8
from texalign.viz.loss_sheet import RESIDUAL_GAIN, alignment_sheet, residual_heat, texture_picture
from texalign.viz.mesh_files import save_mesh
from texalign.viz.sheets import contact_sheet

__all__ = [
    "RESIDUAL_GAIN",
    "alignment_sheet",
    "contact_sheet",
    "mark",
    "outline",
    "overlay",
    "residual_heat",
    "save_gif",
    "save_mesh",
    "save_png",
    "texture_picture",
    "to_uint8",
    "uv_checker",
]

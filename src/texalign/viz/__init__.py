"""Pictures of hands, textures and what the loss sees."""

from texalign.viz.drawing import (
    contact_sheet,
    mark,
    outline,
    overlay,
    save_gif,
    save_png,
    shade,
    skin_texture,
    to_uint8,
    uv_checker,
)
from texalign.viz.loss_sheet import RESIDUAL_GAIN, alignment_sheet, residual_heat, texture_picture

__all__ = [
    "RESIDUAL_GAIN",
    "alignment_sheet",
    "contact_sheet",
    "mark",
    "outline",
    "overlay",
    "residual_heat",
    "save_gif",
    "save_png",
    "shade",
    "skin_texture",
    "texture_picture",
    "to_uint8",
    "uv_checker",
]

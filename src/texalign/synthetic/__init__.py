"""Images of hands with everything known, made to cover what cameras see rather than to look pretty."""

from texalign.synthetic.colour import linear_to_srgb
from texalign.synthetic.generation import SyntheticBatch, generate
from texalign.synthetic.skin import skin_textures

__all__ = ["SyntheticBatch", "generate", "linear_to_srgb", "skin_textures"]

"""The texture prior: from what an image shows of a hand to its whole texture."""

from texalign.prior.hub import from_hub, push_to_hub
from texalign.prior.uv_texture_encoder import UVTextureEncoder

__all__ = ["UVTextureEncoder", "from_hub", "push_to_hub"]

"""Skin and light for the documentation's figures: the renderer itself knows no light."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from texalign import HandSurface, synthetic
from texalign.surface import vertex_normals

# Seeds of `skin` whose hands have natural skin without decoration.
FAIR, DEEP = 3, 17


def skin(texture_size: int = 256, seed: int = FAIR) -> Tensor:
    """(1, 3, T, T): the texture of a synthetic hand, without light."""
    generator = torch.Generator().manual_seed(seed)
    return synthetic.generate(1, 16, generator, texture_size=texture_size, left_share=0.0).texture


def lit(surface: HandSurface, vertices: Tensor, texture: Tensor) -> Tensor:
    """Textures (B, 3, T, T) for these vertices (B, V, 3): lit diffusely from the upper left of the camera."""
    texels = surface.texel_map(texture.shape[-1])
    corners = surface.faces[texels.face_index.clamp(min=0)]
    normals = vertex_normals(vertices, surface.faces)
    normal = normalize((normals[:, corners] * texels.barycentric[..., None]).sum(dim=-2), dim=-1)
    light = normalize(vertices.new_tensor([-0.35, -0.5, -0.8]), dim=0)
    brightness = surface.dilated((0.35 + 0.75 * (normal @ light).clamp(min=0))[:, None])
    return (texture * brightness).clamp(0, 1)

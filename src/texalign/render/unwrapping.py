from __future__ import annotations

import torch
from torch import Tensor

from texalign.surface import HandSurface


def unwrap_image(
    surface: HandSurface, vertices: Tensor, points: Tensor, image: Tensor, clean: Tensor, depth: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Look every texel's point up in the image, if the camera sees it there.

    Args:
        surface: the hand's topology and atlas.
        vertices: (B, V, 3) metres.
        points: (B, V, 3) the same, in homogeneous pixels.
        image: (B, 3, H, W).
        clean: (B, H, W) bool of `clean_pixels`.
        depth: (B, H, W) metres.
        size: T.

    Returns:
        texture (B, 3, T, T), 0 where not visible, differentiable in image and vertices; and visibility (B, 1, T, T).
    """
    batch, height, width = clean.shape
    texels = surface.texel_map(size)
    inside = (texels.face_index.reshape(-1) >= 0).nonzero()[:, 0]
    face = texels.face_index.reshape(-1)[inside]
    barycentric = texels.barycentric.reshape(-1, 3)[inside].to(points.dtype)
    texel_points = (points[:, surface.faces[face]] * barycentric[None, :, :, None]).sum(dim=2)
    texel_depth = texel_points[..., 2]
    pixel = texel_points[..., :2] / texel_depth.clamp(min=1e-6)[..., None]
    with torch.no_grad():
        column, row = pixel.floor().clamp(-1e6, 1e6).to(torch.int64).unbind(-1)
        in_frame = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (texel_depth > 0)
        index = row.clamp(0, max(height - 1, 0)) * width + column.clamp(0, max(width - 1, 0))
        seen_depth = depth.flatten(1).gather(1, index)
        seen_clean = clean.flatten(1).gather(1, index)
        corner = vertices[:, surface.faces[face]]
        normal = torch.linalg.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0])
        facing = (normal * corner.mean(dim=2)).sum(dim=-1) < 0
        visible = in_frame & seen_clean & facing & ((texel_depth - seen_depth).abs() < 0.005)
    place = torch.stack([pixel[..., 0] * (2 / width), pixel[..., 1] * (2 / height)], dim=-1) - 1
    # Texels out of sight may project anywhere, even to infinity: look nothing up for them.
    grid = torch.where(visible[..., None], place, torch.zeros_like(pixel))
    colour = torch.nn.functional.grid_sample(
        image, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )[:, :, 0]
    values = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1) * visible[:, None]
    dense = values.new_zeros(batch, 4, size * size).index_copy(2, inside, values).reshape(batch, 4, size, size)
    return dense[:, :3], dense[:, 3:].detach()

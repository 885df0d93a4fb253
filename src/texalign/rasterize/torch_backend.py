"""The portable backend: plain torch, on any device, in float32 or float64, deterministic on the CPU.

Every list here is compact: (face, row) spans, then covered pixels, then silhouette pairs. Next to nothing is done on
background pixels, and there is no loop over images, faces or pixels.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from texalign.rasterize.antialiasing import antialias
from texalign.rasterize.functions import Barycentrics, Bilinear, ToImage
from texalign.rasterize.nearest import nearest_faces

__all__ = ["antialias", "interpolate", "name", "rasterize", "sample_texture"]

name = "torch"


class TorchRasterization:
    """A `Rasterization` that keeps lists of the N covered pixels.

    Attributes:
        face_index, nearness, barycentric: of `Rasterization`; nearness is the inverse depth.
        pixels: (N,) int64, flat index into B·H·W of the covered pixels, ascending.
        pixel_faces, pixel_samples: (N,) int64, their faces, and their images in the batch.
        pixel_barycentric: (N, 3), their barycentrics.
    """

    def __init__(
        self, face_index: Tensor, inverse_depth: Tensor, face_count: int, points: Tensor, faces: Tensor
    ) -> None:
        self.face_index = face_index
        self.nearness = inverse_depth.reshape(face_index.shape)
        height, width = face_index.shape[1:]
        self.pixels = (face_index.reshape(-1) >= 0).nonzero()[:, 0]
        self.pixel_faces = face_index.reshape(-1).index_select(0, self.pixels)
        self.pixel_samples = self.pixels.div(height * width, rounding_mode="floor") if height * width else self.pixels
        corner_rows = self.pixel_samples * face_count + self.pixel_faces
        offset = self.pixels - self.pixel_samples * (height * width)
        row = offset.div(max(width, 1), rounding_mode="floor")
        column = offset - row * width
        self.pixel_barycentric: Tensor = Barycentrics.apply(
            points[:, faces].reshape(-1, 9), corner_rows, column.to(points.dtype) + 0.5, row.to(points.dtype) + 0.5
        )

    @cached_property
    def barycentric(self) -> Tensor:
        """(B, H, W, 3), 0 on the background."""
        return self.to_image(self.pixel_barycentric)

    def to_image(self, values: Tensor) -> Tensor:
        """Values (N, C) of the covered pixels → (B, H, W, C), zero on the background."""
        dense: Tensor = ToImage.apply(values, self.pixels, self.face_index.numel())
        return dense.reshape(*self.face_index.shape, values.shape[-1])

    def from_image(self, image: Tensor) -> Tensor:
        """(B, H, W, C) → (N, C), the covered pixels."""
        return image.reshape(-1, image.shape[-1]).index_select(0, self.pixels)


def rasterize(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> TorchRasterization:
    """See `Backend.rasterize`. Float32 or float64; a corner so large that products overflow counts as not finite.

    Memory: at most `nearest.MAX_CANDIDATES` (pixel, face) pairs are held at once, whatever the batch, some 200 MB; the
    rest is proportional to B·H·W.
    """
    with torch.no_grad():
        face_index, inverse_depth = nearest_faces(points.detach(), faces, height, width, near)
    return TorchRasterization(face_index, inverse_depth, faces.shape[0], points, faces)


def interpolate(attributes: Tensor, attribute_faces: Tensor, rasterization: TorchRasterization) -> Tensor:
    """See `Backend.interpolate`."""
    corners = attribute_faces.index_select(0, rasterization.pixel_faces)
    if attributes.shape[0] > 1:
        corners = corners + rasterization.pixel_samples[:, None] * attributes.shape[1]
    rows = attributes.reshape(-1, attributes.shape[-1])
    # Three scaled sums: reducing a short inner dimension is several times slower.
    first, second, third = (
        rows.index_select(0, corner) * weight[:, None]
        for corner, weight in zip(corners.unbind(1), rasterization.pixel_barycentric.unbind(1))
    )
    return rasterization.to_image(first + second + third)


def sample_texture(texture: Tensor, uv: Tensor, rasterization: TorchRasterization, redirect: Tensor) -> Tensor:
    """See `Backend.sample_texture`."""
    colour: Tensor = Bilinear.apply(texture, rasterization.from_image(uv), rasterization.pixel_samples, redirect)
    layers = torch.cat([colour, torch.ones_like(colour[:1])])
    return rasterization.to_image(layers.t())

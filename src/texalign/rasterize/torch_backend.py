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
        pixel_barycentric: (3, N), their barycentrics.
    """

    def __init__(self, points: Tensor, faces: Tensor, height: int, width: int, near: float) -> None:
        batch, vertex_count = points.shape[:2]
        with torch.no_grad():
            self.pixels, self.pixel_faces, nearness = nearest_faces(points.detach(), faces, height, width, near)
            blank = self.pixels.new_full((batch * height * width,), -1)
            self.face_index = blank.scatter_(0, self.pixels, self.pixel_faces).reshape(batch, height, width)
            self.nearness = (
                nearness.new_zeros(blank.shape).scatter_(0, self.pixels, nearness).reshape(batch, height, width)
            )
            row = self.pixels.div(max(width, 1), rounding_mode="floor")
            self.pixel_samples = row.div(max(height, 1), rounding_mode="floor")
            x = (self.pixels - row * width).to(points.dtype).add_(0.5)
            y = (row - self.pixel_samples * height).to(points.dtype).add_(0.5)
        self._faces, self._corners = faces, self._corner_rows(faces, vertex_count)
        self.pixel_barycentric: Tensor = Barycentrics.apply(points.reshape(-1, 3), self._corners, x, y)
        self._last: tuple[Tensor, Tensor] | None = None

    @cached_property
    def barycentric(self) -> Tensor:
        """(B, H, W, 3), 0 on the background."""
        return self.to_image(self.pixel_barycentric)

    def corner_rows(self, faces: Tensor, batch: int, count: int) -> Tensor:
        """(3, N) int64, the corners of the pixels' faces as rows of attributes (batch, count, C), batch B or 1."""
        if faces is self._faces and batch == len(self.face_index):
            return self._corners
        return self._corner_rows(faces, count if batch > 1 else 0)

    def _corner_rows(self, faces: Tensor, count: int) -> Tensor:
        rows = torch.stack([corner.index_select(0, self.pixel_faces) for corner in faces.t()])
        return rows.add_(self.pixel_samples * count) if count else rows

    def to_image(self, values: Tensor) -> Tensor:
        """Values (C, N) of the covered pixels → (B, H, W, C), zero on the background."""
        dense: Tensor = ToImage.apply(values, self.pixels, self.face_index.numel())
        image = dense.reshape(len(values), *self.face_index.shape).permute(1, 2, 3, 0)
        self._last = (image, values)
        return image

    def from_image(self, image: Tensor) -> Tensor:
        """(B, H, W, C) → (C, N), the covered pixels."""
        if self._last is not None and image is self._last[0]:
            return self._last[1]
        return image.permute(3, 0, 1, 2).flatten(1).index_select(1, self.pixels)


def rasterize(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> TorchRasterization:
    """See `Backend.rasterize`. Float32 or float64 (faces are found in float32); a corner so large that products
    overflow counts as not finite.

    Memory: at most `nearest.MAX_CANDIDATES` (pixel, face) pairs are held at once, whatever the batch, some 200 MB; the
    rest is proportional to B·H·W.
    """
    return TorchRasterization(points, faces, height, width, near)


def interpolate(attributes: Tensor, attribute_faces: Tensor, rasterization: TorchRasterization) -> Tensor:
    """See `Backend.interpolate`."""
    corners = rasterization.corner_rows(attribute_faces, *attributes.shape[:2])
    channels = attributes.reshape(-1, attributes.shape[-1]).t().contiguous()
    first, second, third = (
        channels.index_select(1, corner) * weight for corner, weight in zip(corners, rasterization.pixel_barycentric)
    )
    return rasterization.to_image(first + second + third)


def sample_texture(texture: Tensor, uv: Tensor, rasterization: TorchRasterization, redirect: Tensor) -> Tensor:
    """See `Backend.sample_texture`."""
    colour: Tensor = Bilinear.apply(texture, rasterization.from_image(uv), rasterization.pixel_samples, redirect)
    return rasterization.to_image(torch.cat([colour, torch.ones_like(colour[:1])]))

"""The portable backend: plain torch, on any device, in float32 or float64, deterministic on the CPU.

Every list here is compact: (face, row) spans, then covered pixels, then silhouette pairs. Next to nothing is done on
background pixels, and there is no loop over images, faces or pixels.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from texalign.rasterize.antialiasing import antialias as antialias
from texalign.rasterize.functions import Barycentrics, Bilinear, ToImage
from texalign.rasterize.nearest import nearest_faces

name = "torch"


class Rasterization:
    """What `rasterize` found: the nearest face of every pixel and the point of that face under the pixel's centre.

    Attributes:
        face_index: (B, H, W) int64, -1 = background.
        barycentric: (B, H, W, 3) float in [0, 1], perspective-correct weights of the face's corners, summing to 1; 0 on
            the background. Differentiable in the points given to `rasterize`.
        pixels: (N,) int64, flat index into B·H·W of the covered pixels, ascending.
    """

    def __init__(
        self, face_index: Tensor, inverse_depth: Tensor, face_count: int, points: Tensor, faces: Tensor
    ) -> None:
        self.face_index = face_index
        self.nearness = inverse_depth
        height, width = face_index.shape[1:]
        self.pixels = (face_index.reshape(-1) >= 0).nonzero()[:, 0]
        self.pixel_faces = face_index.reshape(-1).index_select(0, self.pixels)
        self.pixel_samples = self.pixels.div(height * width, rounding_mode="floor") if height * width else self.pixels
        self.corner_rows = self.pixel_samples * face_count + self.pixel_faces
        offset = self.pixels - self.pixel_samples * (height * width)
        row = offset.div(max(width, 1), rounding_mode="floor")
        column = offset - row * width
        self.pixel_barycentric: Tensor = Barycentrics.apply(
            points[:, faces].reshape(-1, 9), self.corner_rows, column.to(points.dtype) + 0.5, row.to(points.dtype) + 0.5
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


def rasterize(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> Rasterization:
    """Find the nearest face under every pixel centre.

    A pixel is covered when its centre lies inside the projected face (left and top edges included, right and bottom
    excluded, so that two faces sharing an edge never both take or both miss a pixel) at a depth of at least `near`:
    faces that cross the near plane are clipped there, pixel by pixel. Faces with a corner that is not finite, or so
    large that products overflow (1e14 in float32), are dropped. At equal depth the lower face index wins.

    Memory: at most `_nearest.MAX_CANDIDATES` (pixel, face) pairs are held at once, whatever the batch, some 200 MB; the
    rest is proportional to B·H·W.

    Args:
        points: (B, V, 3) float32 or float64, homogeneous pixels (w·px, w·py, w) with w the depth in metres, from
            `PinholeCamera.homogeneous`. Gradients reach it through the barycentrics; `face_index` has none.
        faces: (F, 3) int64.
        height, width: pixels.
        near: metres, > 0.
    """
    with torch.no_grad():
        face_index, inverse_depth = nearest_faces(points.detach(), faces, height, width, near)
    return Rasterization(face_index, inverse_depth, faces.shape[0], points, faces)


def interpolate(attributes: Tensor, attribute_faces: Tensor, rasterization: Rasterization) -> Tensor:
    """Interpolate corner attributes at every covered pixel, perspective-correctly.

    Args:
        attributes: (B, U, C) or (1, U, C) float.
        attribute_faces: (F, 3) int64 into `attributes` (the faces, or the uv_faces for uv).

    Returns:
        (B, H, W, C), 0 on the background; differentiable in the attributes and, through the barycentrics, the points.
    """
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


def sample_texture(texture: Tensor, uv: Tensor, rasterization: Rasterization, redirect: Tensor) -> Tensor:
    """Look the texture up bilinearly at the covered pixels; texel centres at half integers, borders clamped.

    Args:
        texture: (B, C, T, T) or (1, C, T, T) float.
        uv: (B, H, W, 2) in [0, 1].
        redirect: (T·T,) int64, the texel to read in place of each (`TexelMap.redirect`).

    Returns:
        (B, H, W, C + 1): the colour, and 1 where a pixel is covered; 0 on the background. Differentiable in texture and
        uv.
    """
    colour: Tensor = Bilinear.apply(texture, rasterization.from_image(uv), rasterization.pixel_samples, redirect)
    layers = torch.cat([colour, torch.ones_like(colour[:1])])
    return rasterization.to_image(layers.t())

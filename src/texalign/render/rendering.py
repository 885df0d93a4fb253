from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rendering:
    """A textured hand drawn on black.

    Attributes:
        image: (B, 3, H, W) float RGB, premultiplied by coverage: over a background it is
            ``image + (1 - coverage) * background``. Differentiable in vertices, camera and texture.
        coverage: (B, 1, H, W) float in [0, 1], antialiased; differentiable in vertices and camera, at silhouettes only.
        face_index: (B, H, W) int64, -1 = background.
        depth: (B, 1, H, W) float, metres, 0 on the background; differentiable in vertices and camera.
        uv: (B, H, W, 2) float in [0, 1], 0 on the background; differentiable in vertices and camera.
        dropped: (B,) bool: samples left out because of a vertex or camera that is not finite or beyond 1e7 (metres,
            pixels), or a focal length ≤ 0. They are black everywhere and their gradient is zero.
    """

    image: Tensor
    coverage: Tensor
    face_index: Tensor
    depth: Tensor
    uv: Tensor
    dropped: Tensor

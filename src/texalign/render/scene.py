from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_same_device, expect_tensor, opaque
from texalign.rasterize import Backend, Rasterization
from texalign.render.observations import UVObservations, clean_pixels, face_geometry, observe_pixels
from texalign.render.rendering import Rendering
from texalign.render.unwrapping import unwrap_image
from texalign.surface import HandSurface

WHO = "Scene"


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of hands in front of their cameras, rasterized once: to be drawn, observed and unwrapped.

    `TexturedHandRenderer.scene` makes it. Everything is float32 and differentiable in vertices and camera, but for
    `dropped` and the found faces.

    Attributes:
        surface: the hands' topology and atlas.
        vertices: (B, V, 3) metres; zeros for dropped samples.
        points: (B, V, 3) the same as homogeneous pixels (w·px, w·py, w); zeros for dropped samples.
        focal: (B, 2) pixels.
        dropped: (B,) bool, as `Rendering.dropped`.
        backend: what rasterized it.
        found: what the backend found.
        uv: (B, H, W, 2) in [0, 1], 0 on the background.
        depth: (B, H, W) metres, 0 on the background.

    Example:
        >>> from texalign.render import TexturedHandRenderer
        >>> from texalign.synthetic import generate
        >>> hands = generate(2, image_size=64, left_share=0)
        >>> scene = TexturedHandRenderer(HandSurface.mano(), 64).scene(hands.vertices, hands.camera)
        >>> texture, visible = scene.unwrap(hands.image, hands.mask, texture_size=128)
        >>> rendering = scene.draw(texture)
    """

    surface: HandSurface
    vertices: Tensor
    points: Tensor
    focal: Tensor
    dropped: Tensor
    backend: Backend
    found: Rasterization
    uv: Tensor
    depth: Tensor

    @opaque
    def draw(self, texture: Tensor) -> Rendering:
        """Draw the hands with a texture (B, 3, T, T) float RGB in [0, 1], or (1, 3, T, T) for all.

        Raises:
            ValueError: another shape, dtype or device.
        """
        check_texture(texture, self.vertices, WHO)
        with torch.autocast(texture.device.type, enabled=False):
            redirect = self.surface.texel_map(texture.shape[-1]).redirect
            layers = self.backend.sample_texture(texture.float(), self.uv, self.found, redirect)
            layers = self.backend.antialias(layers, self.found, self.points, self.surface.faces, self.surface.twins)
            # Split with the channels first, where the backward pass is one copy of contiguous planes.
            image, coverage = (part.transpose(0, 1) for part in layers.permute(3, 0, 1, 2).split((3, 1)))
        return Rendering(
            image=image,
            coverage=coverage.clamp(0, 1),
            face_index=self.found.face_index,
            depth=self.depth[:, None],
            uv=self.uv,
            dropped=self.dropped,
        )

    @opaque
    def observe(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> UVObservations:
        """Lift an image's visible hand pixels into the atlas; arguments and result as `TexturedHandRenderer.observe`'s.

        Raises:
            ValueError: a shape, dtype or device that does not fit, or a count that is not positive.
        """
        self._check_images(image, mask)
        check_count(count, WHO)
        with torch.autocast(image.device.type, enabled=False):
            clean, area = self._clean(mask)
            face_index = self.found.face_index
            weight = area.gather(1, face_index.clamp(min=0).flatten(1)).reshape(face_index.shape)
            return observe_pixels(self.uv, image.float(), clean, weight, count, generator)

    @opaque
    def unwrap(self, image: Tensor, mask: Tensor | None = None, texture_size: int = 256) -> tuple[Tensor, Tensor]:
        """Unwrap an image onto the atlas; arguments and result as `TexturedHandRenderer.unwrap`'s.

        Raises:
            ValueError: a shape, dtype or device that does not fit, or a size that is not positive.
        """
        self._check_images(image, mask)
        expect(texture_size > 0, WHO, "texture_size > 0", texture_size)
        with torch.autocast(image.device.type, enabled=False):
            clean, _ = self._clean(mask)
            depth = self.depth.detach()
            return unwrap_image(self.surface, self.vertices, self.points, image.float(), clean, depth, texture_size)

    def _check_images(self, image: Tensor, mask: Tensor | None) -> None:
        batch, height, width = self.depth.shape
        check_images(image, mask, None, (batch, height, width), WHO)
        expect_same_device(WHO, vertices=self.vertices, image=image, mask=mask)

    @torch.no_grad()
    def _clean(self, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pixels fit to be observed (B, H, W) bool, and m² of skin a pixel for each face (B, F)."""
        cosine, area = face_geometry(self.vertices, self.surface.faces, self.points)
        clean = clean_pixels(self.found.face_index, self.depth, cosine, self.focal)
        if mask is not None:
            clean &= mask[:, 0] >= 0.5
        return clean, area


def check_texture(texture: Tensor, vertices: Tensor, who: str) -> None:
    """Raise unless this is a square texture for each sample, or one for all, on the vertices' device."""
    batch = len(vertices)
    expect_floating(texture, who, "texture", ("B", 3, "T", "T"))
    fits = texture.shape[0] in (1, batch) and texture.shape[2] == texture.shape[3] > 0
    expect(fits, who, f"texture ({batch} or 1, 3, T, T)", tuple(texture.shape))
    expect_same_device(who, vertices=vertices, texture=texture)


def check_images(
    image: Tensor | None, mask: Tensor | None, valid: Tensor | None, size: tuple[int, int, int], who: str
) -> None:
    """Raise unless image (B, 3, H, W), mask and valid (B, 1, H, W), where given, fit `size` (B, H, W)."""
    batch, height, width = size
    if image is not None:
        expect_floating(image, who, "image", (batch, 3, height, width))
    shape = (batch, 1, height, width)
    for name, values in (("mask", mask), ("valid", valid)):
        if values is not None:
            expect_tensor(values, who, name)
            expect(tuple(values.shape) == shape, who, f"{name} {shape}", tuple(values.shape))


def check_count(count: int | None, who: str) -> None:
    """Raise unless a number of observations is None or positive."""
    expect(count is None or count > 0, who, "count > 0 or None", count)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from texalign._internal import expect, expect_floating, expect_same_device, expect_tensor, opaque
from texalign.camera import PinholeCamera
from texalign.rasterize import BACKENDS, select_backend
from texalign.render.observations import UVObservations, clean_pixels, face_geometry, observe_pixels, unwrap_image
from texalign.surface import HandSurface

# Metres for vertices, pixels for cameras. What lies beyond is no hand, and its products overflow float32.
LARGEST = 1e7


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


class TexturedHandRenderer(nn.Module):
    """Draws a textured hand, differentiably, and lifts images back into its atlas.

    It has no parameters and nothing in its `state_dict`; it can be copied, pickled and moved. Geometry and
    rasterization run in float32 whatever autocast says; gradients come back in the caller's dtype.

    Args:
        surface: the hand's topology and atlas.
        image_size: pixels, an int for a square or (height, width).
        backend: ``"torch"`` (any device, deterministic on the CPU), ``"nvdiffrast"`` (CUDA), or ``"auto"``: nvdiffrast
            for tensors on a CUDA device where it works, torch elsewhere.
        near: metres; faces are clipped at this depth.
        validate: also look at values, and raise where a sample would be dropped. Synchronises; meant for debugging.

    Raises:
        ValueError: an unknown backend, or a size that is not positive.
        RuntimeError: ``backend="nvdiffrast"`` and it does not run here; the message says why.
    """

    def __init__(
        self,
        surface: HandSurface,
        image_size: int | tuple[int, int] = 256,
        backend: str = "auto",
        near: float = 0.01,
        validate: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(surface, HandSurface):
            raise TypeError(f"TexturedHandRenderer: expected a HandSurface, got {type(surface).__name__}")
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        expect(
            len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size),
            "TexturedHandRenderer",
            "image_size > 0, one int or (height, width)",
            image_size,
        )
        expect(
            backend in ("auto", *BACKENDS), "TexturedHandRenderer", "backend auto, torch or nvdiffrast", repr(backend)
        )
        expect(near > 0, "TexturedHandRenderer", "near > 0", near)
        self.surface = surface
        self.height, self.width = size
        self.backend = backend
        self.near = float(near)
        self.validate = validate
        if backend == "nvdiffrast":
            select_backend(
                backend, torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)
            )

    def forward(self, vertices: Tensor, camera: PinholeCamera, texture: Tensor) -> Rendering:
        """Draw the hand.

        Args:
            vertices: (B, V, 3) float, metres, in the camera's frame (x right, y down, z forward).
            camera: B cameras, in pixels of this renderer's image.
            texture: (B, 3, T, T) float RGB in [0, 1], or (1, 3, T, T) for all. What lies between the atlas's charts is
                never seen.

        Raises:
            ValueError: a shape, dtype or device other than these; under ``validate=True`` also a sample with a
                non-finite vertex or camera or a focal length ≤ 0, named with its value.
        """
        batch = self._check(vertices, camera)
        expect_floating(texture, "TexturedHandRenderer", "texture", ("B", 3, "T", "T"))
        expect(
            texture.shape[0] in (1, batch) and texture.shape[2] == texture.shape[3] > 0,
            "TexturedHandRenderer",
            f"texture ({batch} or 1, 3, T, T)",
            tuple(texture.shape),
        )
        expect_same_device("TexturedHandRenderer", vertices=vertices, texture=texture)
        with torch.autocast(vertices.device.type, enabled=False):
            scene = self._scene(vertices.float(), camera.to(dtype=torch.float32))
            return self._draw(scene, texture.float())

    def observe(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None = None,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> UVObservations:
        """Lift an image's visible hand pixels into the atlas.

        Grazing angles, depth edges and the inside of the open wrist are left out.

        Args:
            vertices, camera: as in `forward`.
            image: (B, 3, H, W) float RGB in [0, 1], of this renderer's size.
            mask: (B, 1, H, W) in [0, 1] or None: pixels below 0.5 are not observed.
            count: observations per sample, drawn evenly over the visible surface (not over the image), without
                replacement; a sample that shows fewer is padded. None takes all of them.
            generator: for the draw, of the vertices' device; the same seed draws the same pixels.

        Returns:
            `UVObservations` (B, N); uv is differentiable in vertices and camera, rgb in the image.
        """
        self._check(vertices, camera, image, mask)
        expect(count is None or count > 0, "TexturedHandRenderer.observe", "count > 0 or None", count)
        with torch.autocast(vertices.device.type, enabled=False):
            scene = self._scene(vertices.float(), camera.to(dtype=torch.float32))
            return self._observe(scene, image.float(), mask, count, generator)

    def unwrap(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor,
        mask: Tensor | None = None,
        texture_size: int = 256,
    ) -> tuple[Tensor, Tensor]:
        """Unwrap an image onto the atlas: a dense partial texture and which of its texels the camera sees.

        Args:
            vertices, camera, image, mask: as in `observe`.
            texture_size: T.

        Returns:
            texture (B, 3, T, T), 0 where not visible, differentiable in vertices, camera and image; and visibility
            (B, 1, T, T), 1 or 0.
        """
        self._check(vertices, camera, image, mask)
        expect(texture_size > 0, "TexturedHandRenderer.unwrap", "texture_size > 0", texture_size)
        with torch.autocast(vertices.device.type, enabled=False):
            scene = self._scene(vertices.float(), camera.to(dtype=torch.float32))
            return self._unwrap(scene, image.float(), mask, texture_size)

    @opaque
    def _scene(self, vertices: Tensor, camera: PinholeCamera) -> Scene:
        surface = self.surface
        backend = select_backend(self.backend, vertices.device)
        vertices, points, dropped = usable_points(vertices, camera)
        found = backend.rasterize(points, surface.faces, self.height, self.width, self.near)
        uv = backend.interpolate(surface.uv[None], surface.uv_faces, found)
        depth = backend.interpolate(points[..., 2:], surface.faces, found)
        return Scene(vertices, points, camera.focal, dropped, backend, found, uv, depth[..., 0])

    @opaque
    def _draw(self, scene: Scene, texture: Tensor) -> Rendering:
        surface = self.surface
        redirect = surface.texel_map(texture.shape[-1]).redirect
        layers = scene.backend.sample_texture(texture, scene.uv, scene.found, redirect)
        layers = scene.backend.antialias(layers, scene.found, scene.points, surface.faces, surface.twins)
        layers = layers.permute(0, 3, 1, 2)
        return Rendering(
            image=layers[:, :3],
            coverage=layers[:, 3:].clamp(0, 1),
            face_index=scene.found.face_index,
            depth=scene.depth[:, None],
            uv=scene.uv,
            dropped=scene.dropped,
        )

    @opaque
    def _observe(
        self,
        scene: Scene,
        image: Tensor,
        mask: Tensor | None,
        count: int | None,
        generator: torch.Generator | None,
    ) -> UVObservations:
        clean, area = self._clean(scene, mask)
        face_index = scene.found.face_index
        weight = area.gather(1, face_index.clamp(min=0).flatten(1)).reshape(face_index.shape)
        return observe_pixels(scene.uv, image, clean, weight, count, generator)

    @opaque
    def _unwrap(self, scene: Scene, image: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
        clean, _ = self._clean(scene, mask)
        return unwrap_image(self.surface, scene.vertices, scene.points, image, clean, scene.depth.detach(), size)

    @torch.no_grad()
    def _clean(self, scene: Scene, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pixels fit to be observed (B, H, W) bool, and m² of skin a pixel for each face (B, F)."""
        cosine, area = face_geometry(scene.vertices, self.surface.faces, scene.points)
        clean = clean_pixels(scene.found.face_index, scene.depth, cosine, scene.focal)
        if mask is not None:
            clean &= mask[:, 0] >= 0.5
        return clean, area

    def _check(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        who: str = "TexturedHandRenderer",
    ) -> int:
        expect_floating(vertices, who, "vertices", ("B", self.surface.vertex_count, 3))
        if not isinstance(camera, PinholeCamera):
            raise TypeError(f"{who}: expected camera to be a PinholeCamera, got {type(camera).__name__}")
        batch = vertices.shape[0]
        expect(camera.batch_size == batch, who, f"{batch} cameras, one for each sample", camera.batch_size)
        if image is not None:
            expect_floating(image, who, "image", (batch, 3, self.height, self.width))
        shape = (batch, 1, self.height, self.width)
        for name, values in (("mask", mask), ("valid", valid)):
            if values is not None:
                expect_tensor(values, who, name)
                expect(tuple(values.shape) == shape, who, f"{name} {shape}", tuple(values.shape))
        expect_same_device(
            who, vertices=vertices, camera=camera.focal, surface=self.surface.faces, image=image, mask=mask, valid=valid
        )
        if self.validate:
            check_values(vertices, camera, who)
        return batch

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"image_size=({self.height}, {self.width}), backend={self.backend!r}, near={self.near}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A rasterized batch, before any texture: what drawing, observing and unwrapping share.

    Attributes:
        vertices, points: (B, V, 3) of `usable_points`.
        focal: (B, 2) pixels.
        dropped: (B,) bool.
        backend: the backend's module.
        found: its Rasterization.
        uv: (B, H, W, 2).
        depth: (B, H, W) metres.
    """

    vertices: Tensor
    points: Tensor
    focal: Tensor
    dropped: Tensor
    backend: Any
    found: Any
    uv: Tensor
    depth: Tensor


def usable_points(vertices: Tensor, camera: PinholeCamera) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices and homogeneous pixels (B, V, 3), with unusable samples moved out of sight, and which they are.

    A sample with a vertex or camera that is not finite or beyond `LARGEST`, or a focal length ≤ 0, is replaced by zeros
    (depth 0 lies before any near plane), which keeps it in the graph with a gradient of exactly zero. No
    synchronisation.
    """
    good = (camera.focal > 0).all(dim=1)
    for values in (vertices, camera.focal, camera.principal):
        good = good & (values.abs() <= LARGEST).flatten(1).all(dim=1)
    vertices = torch.where(good[:, None, None], vertices, 0)
    safe = PinholeCamera(torch.where(good[:, None], camera.focal, 1), torch.where(good[:, None], camera.principal, 0))
    return vertices, safe.homogeneous(vertices), ~good


def check_values(vertices: Tensor, camera: PinholeCamera, who: str) -> None:
    """Raise a ValueError that names the first sample that `usable_points` would drop, and why."""
    focal, principal = camera.focal, camera.principal
    named: tuple[tuple[str, Tensor, Any], ...] = (
        ("finite vertices", vertices, torch.isfinite(vertices)),
        ("focal > 0", focal, torch.isfinite(focal) & (focal > 0)),
        ("a finite principal point", principal, torch.isfinite(principal)),
        (f"vertices within {LARGEST:g} metres", vertices, vertices.abs() <= LARGEST),
        (f"focal within {LARGEST:g} pixels", focal, focal <= LARGEST),
        (f"a principal point within {LARGEST:g} pixels", principal, principal.abs() <= LARGEST),
    )
    for what, values, good in named:
        if not bool(good.all()):
            place = (~good).nonzero()[0].tolist()
            value = float(values.detach()[tuple(place)])
            expect(False, who, what, f"sample {place[0]}: {value} at index {tuple(place[1:])}")

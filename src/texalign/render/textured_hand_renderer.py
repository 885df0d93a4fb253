from __future__ import annotations

import torch
from torch import Tensor, nn

from texalign._internal import Unscriptable, expect, expect_floating, expect_same_device, opaque
from texalign.camera import PinholeCamera
from texalign.rasterize import backend_names, require_backend, select_backend
from texalign.render.observations import UVObservations
from texalign.render.rendering import Rendering
from texalign.render.scene import Scene, check_count, check_images, check_texture
from texalign.render.usable_points import check_values, usable_points
from texalign.surface import HandSurface

WHO = "TexturedHandRenderer"


class TexturedHandRenderer(Unscriptable, nn.Module):
    """Draws a textured hand, differentiably, and lifts images back into its atlas.

    It has no parameters and nothing in its `state_dict`; it can be copied, pickled and moved. Geometry and
    rasterization run in float32 whatever autocast says; gradients come back in the caller's dtype.

    Args:
        surface: the hand's topology and atlas.
        image_size: pixels, an int for a square or (height, width).
        backend: ``"torch"`` (any device, deterministic on the CPU), ``"nvdiffrast"`` (CUDA), a name given to
            `texalign.rasterize.register_backend`, or ``"auto"``: nvdiffrast for tensors on a CUDA device where it
            works, torch elsewhere.
        near: metres; faces are clipped at this depth.
        validate: also look at values, and raise where a sample would be dropped. Synchronises; meant for debugging.

    Raises:
        ValueError: an unknown backend, or a size that is not positive.
        RuntimeError: ``backend="nvdiffrast"``, or another for one type of device, and it does not run here; the
            message says why.

    Example:
        >>> from texalign.synthetic import generate
        >>> hands = generate(2, image_size=64, left_share=0)
        >>> renderer = TexturedHandRenderer(HandSurface.mano(), image_size=64)
        >>> rendering = renderer(hands.vertices, hands.camera, hands.texture)
        >>> over_white = rendering.image + (1 - rendering.coverage)
        >>> observations = renderer.observe(hands.vertices, hands.camera, hands.image, hands.mask, count=100)
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
        size = tuple(image_size) if isinstance(image_size, (tuple, list, torch.Size)) else (image_size, image_size)
        whole = len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
        expect(whole, WHO, "image_size > 0, one int or (height, width)", repr(image_size))
        *others, last = ("auto", *backend_names())
        expect(backend in (*others, last), WHO, f"backend {', '.join(others)} or {last}", repr(backend))
        expect(near > 0, WHO, "near > 0", near)
        self.surface = surface
        self.height, self.width = size
        self.backend = backend
        self.near = float(near)
        self.validate = validate
        if backend != "auto":
            require_backend(backend)

    def scene(self, vertices: Tensor, camera: PinholeCamera) -> Scene:
        """Rasterize the hands once, to draw, observe and unwrap them as often as wanted.

        Args:
            vertices, camera: as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        self.check(vertices, camera)
        return self._scene(vertices, camera)

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
        self.check(vertices, camera)
        check_texture(texture, vertices, WHO)
        return self._scene(vertices, camera).draw(texture)

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
        self.check(vertices, camera, image, mask)
        check_count(count, "TexturedHandRenderer.observe")
        return self._scene(vertices, camera).observe(image, mask, count, generator)

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
        self.check(vertices, camera, image, mask)
        expect(texture_size > 0, "TexturedHandRenderer.unwrap", "texture_size > 0", texture_size)
        return self._scene(vertices, camera).unwrap(image, mask, texture_size)

    def check(
        self,
        vertices: Tensor,
        camera: PinholeCamera,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        who: str = WHO,
    ) -> None:
        """Raise a ValueError or TypeError that begins with `who`, unless the inputs fit this renderer and each other.

        Shapes, dtypes and devices always; values only under ``validate=True``.

        Args:
            vertices, camera: as in `forward`.
            image: (B, 3, H, W) float of this renderer's size, or None.
            mask, valid: (B, 1, H, W), or None.
            who: the name of whoever was called.
        """
        expect_floating(vertices, who, "vertices", ("B", self.surface.vertex_count, 3))
        if not isinstance(camera, PinholeCamera):
            raise TypeError(f"{who}: expected camera to be a PinholeCamera, got {type(camera).__name__}")
        batch = vertices.shape[0]
        expect(camera.batch_size == batch, who, f"{batch} cameras, one for each sample", camera.batch_size)
        check_images(image, mask, valid, (batch, self.height, self.width), who)
        expect_same_device(
            who, vertices=vertices, camera=camera.focal, surface=self.surface.faces, image=image, mask=mask, valid=valid
        )
        if self.validate:
            check_values(vertices, camera, who)

    @opaque
    def _scene(self, vertices: Tensor, camera: PinholeCamera) -> Scene:
        surface = self.surface
        with torch.autocast(vertices.device.type, enabled=False):
            camera = camera.to(dtype=torch.float32)
            vertices, points, dropped = usable_points(vertices.float(), camera)
            backend = select_backend(self.backend, vertices.device)
            found = backend.rasterize(points, surface.faces, self.height, self.width, self.near)
            uv = backend.interpolate(surface.uv[None], surface.uv_faces, found)
            depth = backend.interpolate(points[..., 2:], surface.faces, found)
        return Scene(surface, vertices, points, camera.focal, dropped, backend, found, uv, depth[..., 0])

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"image_size=({self.height}, {self.width}), backend={self.backend!r}, near={self.near}"

"""What a rasterizer has to offer: any object or module that fits `Backend` can be registered and drawn with."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Rasterization(Protocol):
    """What `Backend.rasterize` found: the nearest face under every pixel's centre, and where on that face it lies.

    A backend may keep more in it for its own `interpolate` and `sample_texture`.
    """

    @property
    def face_index(self) -> Tensor:
        """(B, H, W) int64, -1 = background. Not differentiable."""

    @property
    def nearness(self) -> Tensor:
        """(B, H, W) float, 0 on the background, > 0 elsewhere, larger = nearer. Not differentiable.

        `antialias` compares neighbouring pixels of one image by it; its unit is the backend's own.
        """

    @property
    def barycentric(self) -> Tensor:
        """(B, H, W, 3) float in [0, 1], perspective-correct weights of the face's corners.

        They sum to 1, and are 0 on the background. Differentiable in the points given to `rasterize`.
        """


class Backend(Protocol):
    """A differentiable rasterizer. One file with these four functions and one `register_backend` make a new one.

    The centre of pixel (row i, column j) is (j + 0.5, i + 0.5), and row 0 is the image's top. Points are homogeneous
    pixels (w·px, w·py, w) with w the depth in metres, from `PinholeCamera.homogeneous`. Both sides of a face are drawn.
    Tensors lie on one device and need not be contiguous; float32 has to work, other dtypes need not. A batch of 0 gives
    a batch of 0. Values and gradients are those of the torch backend up to rounding, and up to the grid that a GPU
    snaps corners to: `tests/rasterize/test_backends.py` runs over every backend.

    Attributes:
        name: the name that it is registered under.
    """

    name: str

    def rasterize(self, points: Tensor, faces: Tensor, height: int, width: int, near: float) -> Rasterization:
        """Find the nearest face under every pixel's centre.

        A pixel is covered when its centre lies inside the projected face at a depth of at least `near`. Left and top
        edges belong to a face, right and bottom edges do not, so that two faces sharing an edge never both take or both
        miss a pixel. Faces that cross the near plane are clipped there, pixel by pixel. At equal depth the lower face
        index wins (nvdiffrast leaves this open). Faces without area or with a corner that is not finite are dropped;
        whether the rest of a sample with such a corner is drawn is left open.

        Args:
            points: (B, V, 3) float. Gradients reach it through the barycentrics.
            faces: (F, 3) int64 into the points, F > 0, the same for all samples.
            height, width: pixels, > 0.
            near: metres, > 0.
        """

    def interpolate(self, attributes: Tensor, attribute_faces: Tensor, rasterization: Any) -> Tensor:
        """Interpolate corner attributes at every covered pixel, perspective-correctly.

        Args:
            attributes: (B, U, C) or (1, U, C) float.
            attribute_faces: (F, 3) int64 into the attributes: the faces, or the uv_faces for uv.
            rasterization: of this backend's own `rasterize`.

        Returns:
            (B, H, W, C), 0 on the background; differentiable in the attributes and, through the barycentrics, in the
            points.
        """

    def sample_texture(self, texture: Tensor, uv: Tensor, rasterization: Any, redirect: Tensor) -> Tensor:
        """Look a texture up bilinearly at the covered pixels.

        Texel (row i, column j) has its centre at uv ((j + 0.5) / T, (i + 0.5) / T): row 0 is v = 0. Beyond the outer
        centres the border texels are continued.

        Args:
            texture: (B, C, T, T) or (1, C, T, T) float.
            uv: (B, H, W, 2) in [0, 1].
            rasterization: of this backend's own `rasterize`.
            redirect: (T·T,) int64, the texel to read in place of each (`TexelMap.redirect`).

        Returns:
            (B, H, W, C + 1): the colour, and 1 where a pixel is covered; 0 on the background. Differentiable in texture
            and uv.
        """

    def antialias(self, image: Tensor, rasterization: Any, points: Tensor, faces: Tensor, twins: Tensor) -> Tensor:
        """Blend pixels across silhouettes, the only gradient that a silhouette gives.

        `texalign.rasterize.antialias` does it for any `Rasterization`: assign it, unless there is something better.

        Args:
            image: (B, H, W, C), premultiplied (0 outside the hand).
            rasterization: of this backend's own `rasterize`.
            points, faces: as given to `rasterize`; vertices must not be split at UV seams.
            twins: (F, 3) int64, `HandSurface.twins`: the same edge seen from the face across it, -1 at a boundary.

        Returns:
            (B, H, W, C), differentiable in image and points.
        """

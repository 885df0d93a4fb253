from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_same_device


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """A batch of pinhole cameras, one per image, in pixels of the image (crop) they look at.

    Axes are OpenCV's: x right, y down, z forward, in metres. Pixel (row i, column j) covers
    [j, j + 1) × [i, i + 1), so its centre is (j + 0.5, i + 0.5) and the whole image spans [0, W] × [0, H].
    Data sets whose *integer* coordinates are pixel centres (OpenCV, COCO, FreiHAND and HaMeR's crops) need 0.5 added
    to their principal point; the constructors take it as `pixel_offset`.

    Attributes:
        focal: (B, 2) float, pixels, (fx, fy).
        principal: (B, 2) float, pixels, (cx, cy).

    Raises:
        ValueError: another shape, dtype, or two devices. Values (focal ≤ 0, NaN) are not looked at here: the renderer
            drops such samples, or raises under ``validate=True``.

    Example:
        >>> camera = PinholeCamera(focal=torch.tensor([[600.0, 600.0]]), principal=torch.tensor([[64.0, 64.0]]))
        >>> camera.batch_size
        1
    """

    focal: Tensor
    principal: Tensor

    def __post_init__(self) -> None:
        expect_floating(self.focal, "PinholeCamera", "focal", ("B", 2))
        expect_floating(self.principal, "PinholeCamera", "principal", (self.focal.shape[0], 2))
        expect(
            self.principal.device == self.focal.device,
            "PinholeCamera",
            f"principal on the device of focal ({self.focal.device})",
            self.principal.device,
        )

    @property
    def batch_size(self) -> int:
        """B."""
        return self.focal.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.focal.device

    @classmethod
    def from_intrinsics(cls, K: Tensor, pixel_offset: float = 0.0) -> PinholeCamera:
        """From intrinsic matrices.

        Args:
            K: (B, 3, 3) or (3, 3) float, pixels, without skew or rotation.
            pixel_offset: pixels added to the principal point: 0.5 for a K whose integer coordinates are pixel centres
                (OpenCV's calibration, FreiHAND, HO3D), 0 for one whose pixel centres lie at half integers.

        Raises:
            ValueError: a K with skew or rotation, such as that of a rotated crop: it is refused on the CPU; on other
                devices, where that would make the host wait, the camera's focal length is NaN and the sample skipped.

        Example:
            >>> K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])
            >>> PinholeCamera.from_intrinsics(K, pixel_offset=0.5).principal
            tensor([[320.5000, 240.5000]])
        """
        if isinstance(K, Tensor) and K.dim() == 2:
            K = K[None]
        expect_floating(K, "PinholeCamera.from_intrinsics", "K", ("B", 3, 3))
        focal, skew = K[:, [0, 1], [0, 1]], K[:, [0, 1], [1, 0]]
        last = torch.cat([K[:, 2, :2], K[:, 2, 2:] - 1], dim=1).abs().amax(dim=1)
        # A ten-thousandth of the focal length moves a pixel at the border of a crop by a hundredth.
        no_camera = ~torch.isfinite(K).flatten(1).all(dim=1) | (focal <= 0).any(dim=1)  # dropped by the renderer
        good = no_camera | ((skew.abs() <= 1e-4 * focal.abs()).all(dim=1) & (last <= 1e-4))
        if K.device.type == "cpu" and not bool(good.all()):
            sample = int((~good).nonzero()[0])
            expect(
                False,
                "PinholeCamera.from_intrinsics",
                "K with K[0, 1] = K[1, 0] = 0 and a last row (0, 0, 1); for an image turned in its plane, the upright "
                "camera's rotated(angle)",
                f"{[[round(value, 4) for value in row] for row in K[sample].tolist()]} in sample {sample}",
            )
        # On another device the host does not wait to know: the loss drops a camera without focal length, and says so.
        return cls(focal=torch.where(good[:, None], focal, torch.nan), principal=K[:, :2, 2] + pixel_offset)

    @classmethod
    def from_weak_perspective(
        cls, cam: Tensor, image_size: int, focal: float, pixel_offset: float = 0.0
    ) -> tuple[PinholeCamera, Tensor]:
        """From weak-perspective parameters (s, tx, ty) as HMR's family predicts them.

        The hand is put at the depth at which a hand of unit size has scale s: with image size S and focal length f,
        translation = (tx, ty, 2 f / (S s)) and the principal point is the image's centre, so that near the hand
        pixel = S / 2 · (1 + s (x + tx)).

        Args:
            cam: (B, 3) float, (s, tx, ty); tx and ty in metres. s ≤ 0 gives no valid depth: the sample is dropped.
            image_size: S, pixels of the square image.
            focal: f, pixels. The larger, the closer to a true weak perspective (HaMeR: 5000 at 256 pixels).
            pixel_offset: as in `from_intrinsics`.

        Returns:
            The camera and the translation (B, 3), metres, to be added to the network's vertices:
            ``vertices + translation[:, None]``.

        Example:
            >>> cam = torch.tensor([[8.0, 0.0, 0.0]])
            >>> camera, translation = PinholeCamera.from_weak_perspective(cam, image_size=224, focal=1000.0)
            >>> translation
            tensor([[0.0000, 0.0000, 1.1161]])
        """
        who = "PinholeCamera.from_weak_perspective"
        expect_floating(cam, who, "cam", ("B", 3))
        for name, value in {"image_size": image_size, "focal": focal, "pixel_offset": pixel_offset}.items():
            alone = not isinstance(value, Sequence) and getattr(value, "ndim", 0) == 0
            expect(alone, who, f"{name}, one number for all", value)
        # 1e-9 as in HaMeR's own formula: s = 0 gives a far, finite depth.
        depth = 2.0 * focal / (image_size * cam[:, 0] + 1e-9)
        translation = torch.stack([cam[:, 1], cam[:, 2], depth], dim=-1)
        camera = cls(
            focal=cam.new_full((cam.shape[0], 2), focal),
            principal=cam.new_full((cam.shape[0], 2), image_size / 2 + pixel_offset),
        )
        return camera, translation

    @classmethod
    def from_hamer(
        cls, pred_cam: Tensor, image_size: int = 256, focal: float = 5000.0, pixel_offset: float = 0.5
    ) -> tuple[PinholeCamera, Tensor]:
        """From the `pred_cam` (B, 3) that HaMeR and WiLoR output, at their own constants.

        HaMeR projects to px = 5000 (V + t)_xy / z + 128 in its full 256 × 256 crop, where the array index equals px;
        in this library's coordinates a pixel's centre lies half a pixel further, hence `pixel_offset` = 0.5.

        Returns:
            The camera and `pred_cam_t` (B, 3) as HaMeR computes it: vertices in the camera's frame are
            ``pred_vertices + pred_cam_t[:, None]``.

        Example:
            >>> camera, translation = PinholeCamera.from_hamer(torch.tensor([[8.0, 0.0, 0.0]]))
            >>> camera.principal, translation
            (tensor([[128.5000, 128.5000]]), tensor([[0.0000, 0.0000, 4.8828]]))
        """
        return cls.from_weak_perspective(pred_cam, image_size, focal, pixel_offset)

    def homogeneous(self, points: Tensor) -> Tensor:
        """Points (B, N, 3), metres → (B, N, 3) homogeneous pixels (w·px, w·py, w) with w = z, the depth in metres.

        Linear in the points and defined behind the camera too; what `texalign.rasterize` takes.
        """
        focal, principal = self.focal[:, None].to(points.dtype), self.principal[:, None].to(points.dtype)
        depth = points[..., 2:]
        return torch.cat([points[..., :2] * focal + principal * depth, depth], dim=-1)

    def project(self, points: Tensor) -> Tensor:
        """Points (B, N, 3), metres → pixels (B, N, 2): (fx x / z + cx, fy y / z + cy). Differentiable in both.

        Points with z ≤ 0 are not visible; their projection is meaningless (mirrored, or infinite at z = 0).

        Example:
            >>> camera = PinholeCamera(torch.tensor([[600.0, 600.0]]), torch.tensor([[64.0, 64.0]]))
            >>> camera.project(torch.tensor([[[0.01, 0.0, 0.5]]]))
            tensor([[[76., 64.]]])
        """
        expect_floating(points, "PinholeCamera.project", "points", (self.batch_size, "N", 3))
        expect_same_device("PinholeCamera.project", camera=self.focal, points=points)
        homogeneous = self.homogeneous(points)
        return homogeneous[..., :2] / homogeneous[..., 2:]

    def mirrored(self, width: int | float, which: Tensor | None = None) -> PinholeCamera:
        """The camera of the image flipped left-right: cx → width − cx. The scene's x must be negated with it.

        Args:
            width: of the image, pixels.
            which: (B,) bool, the cameras to mirror; None mirrors all.

        Example:
            >>> camera = PinholeCamera(torch.tensor([[600.0, 600.0]]), torch.tensor([[60.0, 64.0]]))
            >>> camera.mirrored(width=128).principal
            tensor([[68., 64.]])
        """
        expect(not isinstance(width, Sequence), "PinholeCamera.mirrored", "width, one number", width)
        principal = torch.stack([width - self.principal[:, 0], self.principal[:, 1]], dim=-1)
        if which is not None:
            principal = torch.where(which[:, None], principal, self.principal)
        return PinholeCamera(self.focal, principal)

    def rotated(
        self, angle: Tensor | float, about: Tensor | Sequence[float] | None = None
    ) -> tuple[PinholeCamera, Tensor]:
        """The camera of the image turned in its plane, and the rotation to apply to the scene with it.

        A loader that crops by a similarity p → s · R(angle) p + t sees ``vertices @ rotation.transpose(1, 2)`` through
        ``camera.rotated(angle, about=(0, 0))``, then ``.cropped(-t / s, s)``.

        Args:
            angle: (B,) or a number, radians, from x (right) towards y (down).
            about: (B, 2), or two numbers for all: the pixel that stays where it is; None is the principal point.

        Returns:
            The camera, and rotation (B, 3, 3) about the viewing axis: a point x becomes rotation @ x.

        Raises:
            ValueError: the two focal lengths differ, so that no pinhole camera sees the turned image.

        Example:
            >>> camera = PinholeCamera(torch.tensor([[600.0, 600.0]]), torch.tensor([[320.0, 240.0]]))
            >>> trans = torch.tensor([[[0.0, -0.5, 200.0], [0.5, 0.0, -40.0]]])  # a loader's, photograph to crop
            >>> scale, angle = trans[:, :, 0].norm(dim=1, keepdim=True), torch.atan2(trans[:, 1, 0], trans[:, 0, 0])
            >>> turned, rotation = camera.rotated(angle, about=(0, 0))
            >>> crop = turned.cropped(-trans[:, :, 2] / scale, scale)
            >>> crop.project(torch.tensor([[[0.1, 0.0, 0.5]]]) @ rotation.transpose(1, 2)).round()
            tensor([[[ 80., 180.]]])
        """
        focal, who = self.focal, "PinholeCamera.rotated"
        angle = torch.as_tensor(angle, dtype=focal.dtype, device=focal.device).expand(self.batch_size)
        square = (focal[:, 0] - focal[:, 1]).abs() <= 1e-3 * focal[:, 0].abs()
        if focal.device.type == "cpu":
            expect(bool((square | ~torch.isfinite(focal).all(dim=1)).all()), who, "fx = fy", focal.tolist())
        cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        rows = [cosine, -sine, zero, sine, cosine, zero, zero, zero, one]
        rotation = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
        fixed = self.principal if about is None else self._pairs(about, who, "about")
        turned = (rotation[:, :2, :2] @ (self.principal - fixed)[..., None])[..., 0] + fixed
        return PinholeCamera(torch.where(square[:, None], focal, torch.nan), turned), rotation

    def cropped(self, left_top: Tensor | Sequence[float], scale: Tensor | Sequence[float] | float) -> PinholeCamera:
        """The camera of a crop, resized: pixel p of this image becomes (p − left_top) · scale.

        Args:
            left_top: (B, 2), or two numbers for all: pixels of this image, where the crop's corner (0, 0) lies.
            scale: (B, 2) or (B, 1), or two numbers or one for all: crop pixels per image pixel. A pyramid's half size
                is 0.5 with left_top 0: pixel edges stay edges, so no half-pixel terms appear.

        Raises:
            ValueError: another shape.

        Example:
            >>> camera = PinholeCamera(torch.tensor([[600.0, 600.0]]), torch.tensor([[320.0, 240.0]]))
            >>> camera.cropped(left_top=(200.0, 120.0), scale=0.5).principal
            tensor([[60., 60.]])
        """
        who = "PinholeCamera.cropped"
        left_top, scale = self._pairs(left_top, who, "left_top"), self._pairs(scale, who, "scale")
        return PinholeCamera(self.focal * scale, (self.principal - left_top) * scale)

    def _pairs(self, values: Tensor | Sequence[float] | float, who: str, name: str) -> Tensor:
        """(B, 2) like the focal lengths, of (B, 2), (B, 1), (2,) or a single number."""
        numbers = torch.as_tensor(values, dtype=None if isinstance(values, Tensor) else self.focal.dtype)
        numbers = numbers.to(device=self.focal.device)
        shape, batch = tuple(numbers.shape), self.batch_size
        fits = shape in ((), (1,), (2,), (batch, 1), (batch, 2), (1, 1), (1, 2))
        expect(fits, who, f"{name} ({batch}, 2), ({batch}, 1), (2,) or a number", shape)
        return numbers.expand(batch, 2)

    def __getitem__(self, index: Tensor | slice) -> PinholeCamera:
        """Some of the cameras: a slice, numbers (N,) or a mask (B,)."""
        return PinholeCamera(self.focal[index], self.principal[index])

    def to(self, *args: object, **kwargs: object) -> PinholeCamera:
        """As `torch.Tensor.to`, on both tensors."""
        return PinholeCamera(self.focal.to(*args, **kwargs), self.principal.to(*args, **kwargs))  # type: ignore[call-overload]

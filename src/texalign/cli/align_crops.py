"""A hand cut out of its photograph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from texalign.camera import PinholeCamera

# The crop's side in multiples of the keypoints' extent.
_MARGIN = 1.6
# Pixels of the sheet's pictures.
_SMALLEST, _LARGEST = 256, 1024


@dataclass(frozen=True, eq=False)
class HandCrop:
    """A square around a hand, twice: as the fit sees it, and for the eye. A left hand's fit sees it in a mirror.

    Attributes:
        image: (3, S, S) in [0, 1], black outside of the photograph.
        valid: (1, S, S), 1 in the photograph.
        mask: (1, S, S), 1 on skin, or None.
        camera: of the S × S image.
        keypoints: (21, 2) pixels of it, NaN where unknown.
        picture: (3, P, P), the square at the photograph's own resolution, not mirrored.
        box: left, top, right, bottom in the photograph.
        is_right: the hand's side.
        joints: (21, 3) metres, before the S × S image's camera, where a network predicted them, or None.
    """

    image: Tensor
    valid: Tensor
    mask: Tensor | None
    camera: PinholeCamera
    keypoints: Tensor
    picture: Tensor
    box: tuple[int, int, int, int]
    is_right: bool
    joints: Tensor | None = None

    @property
    def scale(self) -> float:
        """Pixels of the S × S image for each of the photograph."""
        return self.image.shape[-1] / (self.box[2] - self.box[0])

    @property
    def focal(self) -> float:
        """Pixels of the photograph."""
        return float(self.camera.focal[0, 0]) / self.scale

    def in_photograph(self, points: Tensor) -> Tensor:
        """Pixels (N, 2) of the S × S image → of the photograph."""
        return self._mirrored(points) / self.scale + points.new_tensor(self.box[:2])

    def from_photograph(self, points: Tensor) -> Tensor:
        """Pixels (N, 2) of the photograph → of the S × S image."""
        return self._mirrored((points - points.new_tensor(self.box[:2])) * self.scale)

    def in_space(self, points: Tensor) -> Tensor:
        """Points (..., 3) before the S × S image's camera, a mirrored one for a left hand → before the photograph's.

        The same the other way round.
        """
        return points * points.new_tensor([1.0 if self.is_right else -1.0, 1.0, 1.0])

    def _mirrored(self, points: Tensor) -> Tensor:
        if self.is_right:
            return points
        return torch.stack([self.image.shape[-1] - points[..., 0], points[..., 1]], dim=-1)


def crop_hand(
    photograph: Tensor, keypoints: Tensor, is_right: bool, focal: float, size: int, mask: Tensor | None = None
) -> HandCrop:
    """Cut a hand out, by its keypoints.

    Args:
        photograph: (3, H, W) in [0, 1].
        keypoints: (21, 2) pixels of it, NaN where unknown; at least one is known.
        is_right: the hand's side.
        focal: pixels of the photograph, whose principal point is its middle.
        size: S.
        mask: (1, H, W), 1 on skin, or None.
    """
    height, width = photograph.shape[1:]
    known = keypoints[keypoints.isfinite().all(dim=1)]
    low, high = known.amin(dim=0), known.amax(dim=0)
    side = max(16, round(_MARGIN * float((high - low).max())))
    left, top = (round(float(middle) - side / 2) for middle in (low + high) / 2)
    box = left, top, left + side, top + side
    square = _cut(photograph, box)
    valid = _resized(_cut(torch.ones(1, height, width), box), size).ge(1 - 1e-3).float()
    corner, scale = torch.tensor([float(left), float(top)]), size / side
    camera = PinholeCamera(torch.full((1, 2), focal), torch.tensor([[width / 2, height / 2]])).cropped(corner, scale)
    crop = HandCrop(
        image=_resized(square, size).clamp(0, 1),
        valid=valid,
        mask=None if mask is None else _resized(_cut(mask, box), size).clamp(0, 1),
        camera=camera,
        keypoints=keypoints,
        picture=_resized(square, min(max(side, _SMALLEST), _LARGEST)).clamp(0, 1),
        box=box,
        is_right=is_right,
    )
    marks = crop.from_photograph(keypoints)
    if is_right:
        return replace(crop, keypoints=marks)
    return replace(
        crop,
        image=crop.image.flip(-1),
        valid=crop.valid.flip(-1),
        mask=None if crop.mask is None else crop.mask.flip(-1),
        camera=camera.mirrored(size),
        keypoints=marks,
    )


def _cut(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """A box of an image (C, H, W), 0 where it reaches beyond it."""
    left, top, right, bottom = box
    height, width = image.shape[1:]
    inside = image[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    return pad(inside, (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)))


def _resized(image: Tensor, size: int) -> Tensor:
    smaller = size < image.shape[-1]
    return interpolate(image[None], size=size, mode="bilinear", antialias=smaller, align_corners=False)[0]

"""Images of hands with labels, as training and evaluation take them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

import texalign as ta

Some = TypeVar("Some", bound="Rows")


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors and a camera with one row for each image; None where nothing is known."""

    def select(self: Some, rows: Tensor) -> Some:
        """Some of them, by row (M,) int64."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value[rows] for name, value in values.items() if value is not None}
        return replace(self, **chosen)


@dataclass(frozen=True, eq=False)
class Samples(Rows):
    """N images of right hands; all tensors on one device.

    Attributes:
        image: (N, 3, S, S) uint8.
        mask: (N, 1, S, S) uint8, visible hand skin.
        free: (N, 1, S, S) uint8, 255 where nothing lies before the hand and the image shows something.
        camera: of the images.
        keypoints: (N, 21, 2) pixels, weak labels; NaN where unknown.
        joints: (N, 21, 3) metres, true.
        vertices: (N, 778, 3) metres, true, or None.
        hidden: (N, 21) bool, joints that the image does not show, or None where nobody knows.
        detections: (N, 21, 2) pixels, a detector's keypoints, which the network is shown beside the image, NaN where it
            found none; or None.
    """

    image: Tensor
    mask: Tensor
    free: Tensor
    camera: ta.PinholeCamera
    keypoints: Tensor
    joints: Tensor
    vertices: Tensor | None = None
    hidden: Tensor | None = None
    detections: Tensor | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.image)

    def to(self, device: torch.device | str) -> Samples:
        """The same on a device."""
        camera = self.camera.to(device)
        return replace(self, camera=camera, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "camera"}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def joined(parts: list[Samples]) -> Samples:
    """Samples end to end."""
    focal = torch.cat([part.camera.focal for part in parts])
    camera = ta.PinholeCamera(focal, torch.cat([part.camera.principal for part in parts]))
    columns = [part._tensors() for part in parts]
    return Samples(camera=camera, **{name: torch.cat([column[name] for column in columns]) for name in columns[0]})


@dataclass(frozen=True, eq=False)
class Batch(Rows):
    """B images as a training step sees them.

    Attributes:
        image: (B, 3, S, S) in [0, 1], black where there is nothing.
        valid: (B, 1, S, S) in [0, 1]: 0 where the image shows nothing.
        mask, free: (B, 1, S, S) in [0, 1], see `Samples`; `free` is 0 under padding and occluders too.
        camera: of these images.
        keypoints: (B, 21, 2) pixels.
        joints: (B, 21, 3) metres, in this camera's frame.
        vertices: (B, 778, 3) metres, or None.
        group: (B,) int64: neighbours in the video, or views of one hand, have the same number.
        detections: (B, 21, 2) pixels, see `Samples`, or None.
    """

    image: Tensor
    valid: Tensor
    mask: Tensor
    free: Tensor
    camera: ta.PinholeCamera
    keypoints: Tensor
    joints: Tensor
    vertices: Tensor | None
    group: Tensor
    detections: Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.image)


def as_they_are(samples: Samples) -> Batch:
    """All of the samples, without augmentation, each a group of its own."""
    image, mask, free = (tensor.float() / 255 for tensor in (samples.image, samples.mask, samples.free))
    group = torch.arange(len(image), device=image.device)
    valid = torch.ones_like(mask)
    labels = (samples.keypoints, samples.joints, samples.vertices)
    return Batch(image, valid, mask, free, samples.camera, *labels, group, samples.detections)

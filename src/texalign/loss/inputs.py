from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from texalign._internal import finite_samples, flipped_images, mirrored_points
from texalign.camera import PinholeCamera


class LossInputs(NamedTuple):
    """What the loss is called with, in its order: ``loss_fn(*inputs)``.

    Attributes:
        vertices: (B, V, 3) float, metres, camera frame; carries the network's gradient.
        camera: B cameras, in pixels of `image`.
        image: (B, 3, H, W) float RGB in [0, 1].
        mask: (B, 1, H, W) in [0, 1], 1 = visible hand skin, or None.
        valid: (B, 1, H, W) in [0, 1], 0 = padding, where no camera ever looked, or None.
    """

    vertices: Tensor
    camera: PinholeCamera
    image: Tensor
    mask: Tensor | None = None
    valid: Tensor | None = None

    def as_float32(self) -> LossInputs:
        """All in float32, the images without a graph."""
        images = (None if image is None else image.detach().float() for image in self[2:])
        return LossInputs(self.vertices.float(), self.camera.to(dtype=torch.float32), *images)  # type: ignore[arg-type]

    def mirrored(self, which: Tensor) -> LossInputs:
        """Samples of `which` (B,) bool seen in a mirror: x negated, cx → W − cx, images flipped left-right."""
        images = (None if image is None else flipped_images(image, which) for image in self[2:])
        camera = self.camera.mirrored(self.image.shape[-1], which)
        return LossInputs(mirrored_points(self.vertices, which), camera, *images)  # type: ignore[arg-type]

    def readable(self) -> tuple[LossInputs, Tensor]:
        """The inputs, images and masks with a non-finite value set to 0, masks clamped; which samples had one (B,)."""
        unreadable = torch.zeros(len(self.image), dtype=torch.bool, device=self.image.device)
        images = []
        for image in self[2:]:
            if image is not None:
                good = finite_samples(image)
                image, unreadable = torch.where(good[:, None, None, None], image, 0), unreadable | ~good
            images.append(image)
        picture, *masks = images
        masks = [None if mask is None else mask.clamp(0, 1) for mask in masks]
        return LossInputs(self.vertices, self.camera, picture, *masks), unreadable  # type: ignore[arg-type]

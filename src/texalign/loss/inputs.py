from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from texalign._internal import flipped_images, mirrored_points
from texalign.camera import PinholeCamera

# Colours lie in [0, 1]; squares of what is beyond this are of no use in float32.
LARGEST_COLOUR = 1e4


class LossInputs(NamedTuple):
    """What the loss is called with, in its order, but for `is_right` and `group`, which it takes by name.

    Attributes:
        vertices: (B, V, 3) float, metres, camera frame; carries the network's gradient.
        camera: B cameras, in pixels of `image`.
        image: (B, 3, H, W) float RGB in [0, 1].
        mask: (B, 1, H, W) in [0, 1], 1 = visible hand skin, or None.
        valid: (B, 1, H, W) in [0, 1], 0 = padding, where no camera ever looked, or None.

    Example:
        >>> from texalign.loss import DenseTextureAlignmentLoss
        >>> from texalign.synthetic import generate
        >>> hands = generate(2, image_size=64, left_share=0)
        >>> inputs = LossInputs(hands.vertices, hands.camera, hands.image, mask=hands.mask)
        >>> loss = DenseTextureAlignmentLoss.from_pretrained(image_size=64)(*inputs)
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
        """The inputs with only values that can be computed with, and which samples' images are not readable, (B,) bool.

        Such an image, with a value that is not finite or beyond 1e4, becomes black. `valid` is always a tensor: 0 where
        it or the mask is not finite. Mask and valid are clamped to [0, 1], so any other label is skin.
        """
        good = (self.image.abs() <= LARGEST_COLOUR).flatten(1).all(dim=1)
        image = torch.where(good[:, None, None, None], self.image, 0)
        mask, valid = self.mask, torch.ones_like(image[:, :1]) if self.valid is None else _fraction(self.valid)
        if mask is not None:
            valid, mask = torch.where(torch.isfinite(mask), valid, 0), _fraction(mask)
        return LossInputs(self.vertices, self.camera, image, mask, valid), ~good


def _fraction(weight: Tensor) -> Tensor:
    """Clamped to [0, 1], 0 where it is not finite."""
    return torch.where(torch.isfinite(weight), weight, 0).clamp(0, 1)

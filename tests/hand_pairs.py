"""Generated photographs of two hands that touch or overlap, and of each alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from texalign import synthetic


@dataclass
class HandPair:
    """A right hand, and a left one over it, of the same skin in the same light.

    Attributes:
        together: (3, H, W) both.
        alone: each of them on the same background.
        masks: (1, H, W) each, whether it is hidden or not.
        keypoints: (21, 2) each, pixels, with noise.
        focal: pixels.
    """

    together: Tensor
    alone: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]
    keypoints: tuple[Tensor, Tensor]
    focal: float


def hand_pairs(count: int, size: int = 96, seed: int = 0) -> list[HandPair]:
    """So many pairs, each in a photograph of size × 2 size."""
    generator = torch.Generator().manual_seed(seed)
    hands, pairs = [], []
    while len(hands) < 2 * count:
        batch = synthetic.generate(16, size, generator, left_share=0.0, texture_size=32, views=2)
        pixels = batch.camera.project(batch.vertices)
        good = ((pixels > 0) & (pixels < size)).all(dim=2).float().mean(dim=1) > 0.9
        good &= (batch.occluder_mask * batch.mask.gt(0)).sum(dim=(1, 2, 3)) < 1
        good &= batch.mask.sum(dim=(1, 2, 3)) > 0.1 * size**2
        joints = batch.camera.project(batch.joints)
        both = good.view(-1, 2).all(dim=1).repeat_interleave(2)
        hands += [
            (batch.image[row], batch.mask[row], joints[row], float(batch.camera.focal[row, 0]))
            for row in both.nonzero()[:, 0].tolist()
        ]
    for first, second in zip(hands[: 2 * count : 2], hands[1 : 2 * count : 2]):
        coarse = 0.15 + 0.7 * torch.rand(1, 3, 4, 8, generator=generator)
        ground = interpolate(coarse, size=(size, 2 * size), mode="bicubic", align_corners=False)[0].clamp(0, 1)
        images, masks, points = [], [], []
        for (image, mask, joints, _), mirrored in ((first, False), (second, True)):
            image, mask = (image.flip(-1), mask.flip(-1)) if mirrored else (image, mask)
            joints = torch.stack([size - joints[:, 0], joints[:, 1]], dim=1) if mirrored else joints
            # The hands' middles lie 40 pixels of 96 apart: fingers touch or cross.
            column = joints[:, 0].mean()
            left = int((size + (0.21 if mirrored else -0.21) * size - column).clamp(0, size))
            wide_image, wide_mask = ground.clone(), torch.zeros(1, size, 2 * size)
            wide_image[..., left : left + size], wide_mask[..., left : left + size] = image, mask
            images.append(wide_image)
            masks.append(wide_mask)
            noise = 0.015 * size * torch.randn(21, 2, generator=generator)
            points.append(joints + torch.tensor([float(left), 0.0]) + noise)
        alone = tuple(torch.lerp(ground, image, mask) for image, mask in zip(images, masks))
        together = torch.lerp(alone[0], images[1], masks[1])
        pairs.append(HandPair(together, alone, (masks[0], masks[1]), (points[0], points[1]), first[3]))
    return pairs

"""How far a hand is off. All functions give one value a sample, in the unit of their points."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign._rotations import best_rotation


def point_error(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) mean distance of points (B, N, D): of joints in space MPJPE, of vertices MPVPE, in the image pixels."""
    return (predicted - true).norm(dim=-1).mean(dim=1)


def procrustes_aligned(predicted: Tensor, true: Tensor) -> Tensor:
    """Points (B, N, 3) turned, scaled and moved onto others as well as can be (Gower, 1975); no reflection."""
    middle = true.mean(dim=1, keepdim=True)
    source, target = predicted - predicted.mean(dim=1, keepdim=True), true - middle
    rotation = best_rotation(source, target)
    turned = source @ rotation.transpose(1, 2)
    scale = (turned * target).sum(dim=(1, 2)) / source.square().sum(dim=(1, 2)).clamp(min=1e-12)
    return scale[:, None, None] * turned + middle


def mask_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) intersection over union of masks (B, 1, H, W) at one half; 1 where both are empty."""
    first, second = predicted > 0.5, true > 0.5
    both, either = (first & second).sum(dim=(1, 2, 3)), (first | second).sum(dim=(1, 2, 3))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)

from __future__ import annotations

import torch
from torch import Tensor


def flipped_images(images: Tensor, which: Tensor) -> Tensor:
    """Images (B, C, H, W), those of `which` (B,) bool flipped left-right."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def mirrored_points(points: Tensor, which: Tensor) -> Tensor:
    """Points (B, …, 3), the x of those of `which` (B,) bool negated."""
    sign = torch.where(which, -1.0, 1.0).to(points.dtype).reshape(-1, *[1] * (points.dim() - 1))
    return points * torch.cat([sign, torch.ones_like(sign).expand(*sign.shape[:-1], 2)], dim=-1)

from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import expect, expect_same_device
from texalign.metrics.pairs import same_shape


def psnr_db(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) decibels: ``-10 log10`` of the mean squared difference of images in [0, 1], over the pixels of the mask.

    Infinite where they are the same, NaN where the mask is empty.

    Args:
        predicted: (B, 3, H, W) in [0, 1].
        true: (B, 3, H, W) in [0, 1].
        mask: (B, 1, H, W), counted where it is above one half. None: the whole image.

    Raises:
        ValueError: a shape or device does not fit.

    Example:
        >>> image = torch.full((1, 3, 8, 8), 0.5)
        >>> psnr_db(image + 0.1, image, torch.ones(1, 1, 8, 8))
        tensor([20.0000])
    """
    predicted, true, inside = _inside("psnr_db", predicted, true, mask)
    error = (predicted - true).square().mean(dim=1, keepdim=True).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def _inside(who: str, predicted: Tensor, true: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The prediction with `true` outside the mask, `true`, and the mask (B, 1, H, W) as bool."""
    predicted, true = same_shape(who, predicted, true, ("B", 3, "H", "W"))
    shape = (len(true), 1, *true.shape[-2:])
    if mask is None:
        inside = torch.ones(shape, dtype=torch.bool, device=true.device)
    else:
        expect(mask.shape == shape, who, f"mask {shape}", tuple(mask.shape))
        expect_same_device(who, true=true, mask=mask)
        inside = mask > 0.5
    return torch.where(inside, predicted.nan_to_num(0.0, 0.0, 0.0), true), true, inside

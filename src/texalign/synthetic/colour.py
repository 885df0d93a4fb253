from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB, IEC 61966-2-1
LUMA = (0.299, 0.587, 0.114)  # of sRGB as it is, ITU-R BT.601


def srgb_to_linear(colour: Tensor) -> Tensor:
    """SRGB in [0, 1] → linear light in [0, 1] (IEC 61966-2-1), element by element."""
    curve = ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, curve)


def linear_to_srgb(colour: Tensor) -> Tensor:
    """Linear light in [0, 1] → sRGB in [0, 1] (IEC 61966-2-1), element by element.

    Example:
        >>> linear_to_srgb(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.7354, 1.0000])
    """
    curve = 1.055 * colour.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(colour <= 0.0031308, 12.92 * colour, curve)


def tint(warmth: Tensor, green: Tensor) -> Tensor:
    """Colour gains (..., 3), warm (> 0) or cold, green (> 0) or magenta; their logarithms' mean is about 0.

    One unit of warmth is about the step from daylight to a tungsten bulb.
    """
    return torch.stack([0.45 * warmth - 0.10 * green, 0.20 * green, -0.55 * warmth - 0.10 * green], dim=-1).exp()

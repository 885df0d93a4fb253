from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def beyond_wrist(wrist: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W): 1 where the image shows, or may show, the forearm, else 0.

    Everything past the wrist's opening and up to twice its width to the sides. The forearm looks like the hand: whether
    a pixel there is hand cannot be told from colour, so these pixels are ignored.

    Args:
        wrist: (B, N, 2) pixels, the boundary loop of the open wrist.
        centre: (B, 2) pixels, the middle of the hand.
        height: H.
        width: W.

    Example:
        >>> wrist, centre = torch.tensor([[[28.0, 48.0], [36.0, 48.0]]]), torch.tensor([[32.0, 24.0]])
        >>> forearm = beyond_wrist(wrist, centre, height=64, width=64)
        >>> forearm[0, 0, 24, 32], forearm[0, 0, 60, 32]  # on the hand, below the wrist
        (tensor(0.), tensor(1.))
    """
    middle = wrist.mean(dim=1)
    direction = functional.normalize(middle - centre, dim=-1)
    across = torch.stack([-direction[:, 1], direction[:, 0]], dim=-1)
    offset = wrist - middle[:, None]
    half_width = (offset * across[:, None]).sum(dim=-1).abs().amax(dim=1)
    y = torch.arange(height, device=wrist.device, dtype=wrist.dtype) + 0.5 - middle[:, 1:]
    x = torch.arange(width, device=wrist.device, dtype=wrist.dtype) + 0.5 - middle[:, :1]

    def projected(axis: Tensor) -> Tensor:
        """(B, H, W): pixels along an axis (B, 2), from the wrist's middle."""
        return (x * axis[:, :1])[:, None] + (y * axis[:, 1:])[:, :, None]

    along, aside = projected(direction), projected(across).abs_()
    half_width = half_width[:, None, None]
    inside = (along > -0.35 * half_width) & (aside < torch.add(2 * half_width, along.clamp(min=0), alpha=0.3))
    return inside[:, None].to(wrist.dtype)

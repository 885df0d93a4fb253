from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from texalign._internal import Draws, per_sample
from texalign.synthetic.degradation import blurred
from texalign.synthetic.lighting import Light

# Of images whose lamp is on the camera's side, as it is in two of three.
SHARE = 0.45


def cast_shadow(draws: Draws, background: Tensor, alpha: Tensor, light: Light) -> Tensor:
    """Backgrounds (B, 3, S, S), linear, in a third of the images with the shadow of alpha (B, 1, S, S) on them.

    The background is a wall behind the hand, facing the camera: parallel light copies the outline onto it, moved away
    from the lamp and smaller by the distance, with an edge as soft as the lamp is wide. A lamp behind the wall casts
    no shadow on it.
    """
    size = background.shape[-1]
    towards = light.towards[:, 0]
    # How far the wall is behind the hand, in halves of the image's side.
    gap = draws.log_uniform(1, low=0.06, high=0.6)
    shift = gap * towards[:, :2] / towards[:, 2:].abs().clamp(min=0.3)
    scale = draws.uniform(1, 1, low=1.0, high=1.15)
    affine = torch.cat([scale * torch.eye(2, dtype=alpha.dtype, device=alpha.device), shift[..., None]], dim=2)
    copied = grid_sample(alpha, affine_grid(affine, list(alpha.shape), False), align_corners=False)
    soft = draws.log_uniform(low=0.004, high=0.04) * size
    copied = blurred(copied, soft, torch.zeros_like(shift)).clamp(0, 1)
    # A flash leaves a fifth of the light in the shadow, a window most of it.
    lost = draws.chance(SHARE) * (towards[:, 2] < 0) * draws.uniform(low=0.2, high=0.85)
    return background * (1 - copied * per_sample(lost, 4))

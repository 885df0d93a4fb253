"""What a fit of the bundled hand minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from texalign.camera import PinholeCamera
from texalign.hand.hand_model import Hand, HandModel
from texalign.hand.parameters import HandParameters

KEYPOINT_WEIGHT = 10.0

Objective = Callable[[HandParameters, Hand], Tensor]


def keypoint_loss(joints: Tensor, camera: PinholeCamera, keypoints: Tensor, scale: float) -> Tensor:
    """Robust distance to 2D keypoints, (B,) in [0, 1]: mean of d² / (d² + scale²) over joints, d in pixels.

    The residual of Geman and McClure (1987): a keypoint far from its joint has hardly any gradient.

    Args:
        joints: (B, 21, 3) metres.
        camera: B cameras.
        keypoints: (B, 21, 2) pixels; those that are not finite are ignored.
        scale: pixels, a little more than a good keypoint's error.

    Example:
        >>> joints = HandModel().joints(torch.zeros(1, 16, 3)) + torch.tensor([0.0, 0.0, 0.5])
        >>> camera = PinholeCamera(torch.full((1, 2), 300.0), torch.full((1, 2), 64.0))
        >>> keypoint_loss(joints, camera, camera.project(joints) + torch.tensor([3.0, 4.0]), scale=5.0)
        tensor([0.5000])
    """
    known = torch.isfinite(keypoints).all(dim=-1)
    offset = torch.where(known[..., None], camera.project(joints) - keypoints, torch.zeros_like(keypoints))
    squared = offset.square().sum(dim=-1)
    return (squared / (squared + scale**2) * known).mean(dim=1)


def anatomy_loss(model: HandModel, parameters: HandParameters) -> Tensor:
    """Penalty (B,) for angles outside their anatomical range and for shapes away from the mean.

    Example:
        >>> from texalign.hand import resting
        >>> anatomy_loss(HandModel(), resting(HandModel(), batch=2))
        tensor([0., 0.])
    """
    low, high = model.angle_limits.unbind(-1)
    outside = (low - parameters.angles).clamp(min=0) + (parameters.angles - high).clamp(min=0)
    return 20 * outside.square().sum(dim=(1, 2)) + 0.02 * parameters.shape.square().sum(dim=1)


def keypoint_objective(
    model: HandModel,
    camera: PinholeCamera,
    keypoints: Tensor,
    scale: float,
    extra: Callable[[Hand], Tensor] | None = None,
) -> Objective:
    """An objective for `refine`: `KEYPOINT_WEIGHT` times `keypoint_loss`, plus `anatomy_loss`, plus `extra` (B,).

    Example:
        >>> from texalign.hand import refine, resting
        >>> model, camera = HandModel(), PinholeCamera(torch.full((1, 2), 300.0), torch.full((1, 2), 64.0))
        >>> depth = lambda hand: (hand.vertices[..., 2].mean(dim=1) - 0.5).square()
        >>> objective = keypoint_objective(model, camera, torch.full((1, 21, 2), 64.0), scale=4.0, extra=depth)
        >>> fitted = refine(model, resting(model, batch=1), objective, steps=5)
    """

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        value = KEYPOINT_WEIGHT * keypoint_loss(hand.joints, camera, keypoints, scale)
        value = value + anatomy_loss(model, parameters)
        return value if extra is None else value + extra(hand)

    return objective

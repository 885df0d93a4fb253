"""Fitting the bundled hand to 2D joints, alone or together with another loss: the set-up of the alignment benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import texalign as ta
from texalign.hand import Hand, HandModel

# Shape parameters that are fitted: size and the five finger lengths.
FITTED_SHAPE = (0, 2, 3, 4, 5, 6)


@dataclass
class HandParameters:
    """Everything a fit may change: angles (B, 15, 3), orientation (B, 3), translation (B, 3), shape (B, 6)."""

    angles: Tensor
    orientation: Tensor
    translation: Tensor
    shape: Tensor

    def tensors(self) -> list[Tensor]:
        """The four of them."""
        return [self.angles, self.orientation, self.translation, self.shape]

    def clone(self) -> HandParameters:
        """Detached leaves with the same values."""
        return HandParameters(*(t.detach().clone().requires_grad_() for t in self.tensors()))


def pose_hand(model: HandModel, parameters: HandParameters) -> Hand:
    """Vertices and joints in the camera's frame."""
    betas = torch.zeros(len(parameters.shape), 10)
    betas = betas.index_copy(1, torch.tensor(FITTED_SHAPE), parameters.shape)
    vertices, joints = model(model.pose_from_angles(parameters.angles, parameters.orientation), betas)
    move = parameters.translation[:, None]
    return Hand(vertices + move, joints + move)


def keypoint_loss(joints: Tensor, camera: ta.PinholeCamera, labels: Tensor, scale: float) -> Tensor:
    """(B,): Geman–McClure of the distance in pixels: a gross outlier loses its pull. NaN labels do not count."""
    known = torch.isfinite(labels).all(dim=-1)
    offset = torch.where(known[..., None], camera.project(joints) - labels, torch.zeros_like(labels))
    squared = offset.square().sum(dim=-1)
    return (squared / (squared + scale**2) * known).mean(dim=1)


def prior_loss(model: HandModel, parameters: HandParameters) -> Tensor:
    """(B,): angles outside their anatomical range, and shape away from the mean."""
    low, high = model.angle_limits.unbind(-1)
    outside = (low - parameters.angles).clamp(min=0) + (parameters.angles - high).clamp(min=0)
    return 20 * outside.square().sum(dim=(1, 2)) + 0.02 * parameters.shape.square().sum(dim=1)


def refine(
    model: HandModel,
    start: HandParameters,
    objective: Callable[[HandParameters, Hand], Tensor],
    steps: int,
    rate: float = 0.01,
) -> HandParameters:
    """Adam on all parameters; `objective` gives one value a sample, whose sum is minimised."""
    parameters = start.clone()
    groups = [
        {"params": [parameters.angles, parameters.orientation], "lr": rate},
        {"params": [parameters.translation], "lr": 0.15 * rate},
        {"params": [parameters.shape], "lr": 5 * rate},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.9 * step / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(parameters, pose_hand(model, parameters)).sum().backward()
        optimizer.step()
        schedule.step()
    return parameters


def fit_to_joints(model: HandModel, joints: Tensor, steps: int = 400) -> HandParameters:
    """Fit to true 3D joints (B, 21, 3), metres, camera frame; starts from the rigid alignment of the rest pose."""
    batch = len(joints)
    zero = torch.zeros(batch, 15, 3)
    rest = model(model.pose_from_angles(zero, torch.zeros(batch, 3))).joints
    knuckles = [0, 5, 9, 13, 17]
    source, target = rest[:, knuckles], joints[:, knuckles]
    u, _, v = torch.linalg.svd(
        (target - target.mean(1, keepdim=True)).transpose(1, 2) @ (source - source.mean(1, keepdim=True))
    )
    sign = torch.diag_embed(torch.stack([torch.ones(batch), torch.ones(batch), torch.linalg.det(u @ v)], dim=1))
    from texalign.hand import rotation_vectors

    start = HandParameters(
        zero + 0.2 * model.angle_limits.mean(-1),
        rotation_vectors(u @ sign @ v),
        joints[:, 0].clone(),
        torch.zeros(batch, 6),
    )

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        return 1e3 * (hand.joints - joints).square().sum(dim=(1, 2)) + prior_loss(model, parameters)

    return refine(model, start, objective, steps, rate=0.03)


def pa_mpjpe(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) metres: mean joint error after the best similarity transform (Procrustes)."""
    a, b = predicted - predicted.mean(1, keepdim=True), true - true.mean(1, keepdim=True)
    u, s, v = torch.linalg.svd(b.transpose(1, 2) @ a)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.linalg.det(u @ v)
    rotation = u @ torch.diag_embed(sign) @ v
    scale = (s * sign).sum(1) / a.square().sum(dim=(1, 2))
    return (scale[:, None, None] * a @ rotation.transpose(1, 2) - b).norm(dim=-1).mean(dim=1)

"""Fitting the bundled hand to keypoints, alone or together with another loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_tensor
from texalign.camera import PinholeCamera
from texalign.hand.hand_model import FINGERS_UP, Hand, HandModel
from texalign.hand.rotations import best_rotation, rotation_matrices, rotation_vectors

# Shape parameters that are fitted: size and the five finger lengths. Keypoints say nothing about the others.
FITTED_SHAPE = (0, 2, 3, 4, 5, 6)
KEYPOINT_WEIGHT = 10.0
# Wrist and knuckles: they hardly move against each other, and give a hand's place and orientation.
_RIGID = (0, 5, 9, 13, 17)


@dataclass(frozen=True, eq=False)
class HandParameters:
    """All that a fit may change.

    Attributes:
        angles: (B, 15, 3) radians, of `HandModel.pose_from_angles`.
        orientation: (B, 3) axis-angle, radians.
        translation: (B, 3) metres.
        shape: (B, 6) the betas of `FITTED_SHAPE`; the others are 0.
    """

    angles: Tensor
    orientation: Tensor
    translation: Tensor
    shape: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four of them."""
        return self.angles, self.orientation, self.translation, self.shape

    def clone(self) -> HandParameters:
        """Detached leaves with the same values."""
        return HandParameters(*(tensor.detach().clone().requires_grad_() for tensor in self.tensors()))

    def select(self, index: Tensor) -> HandParameters:
        """Rows of it, detached."""
        return HandParameters(*(tensor.detach()[index] for tensor in self.tensors()))

    def betas(self) -> Tensor:
        """(B, 10), as `HandModel` takes them."""
        where = torch.tensor(FITTED_SHAPE, device=self.shape.device)
        return self.shape.new_zeros(len(self.shape), 10).index_copy(1, where, self.shape)


def pose_hand(model: HandModel, parameters: HandParameters) -> Hand:
    """Vertices and joints in the camera's frame, metres."""
    vertices, joints = model(model.pose_from_angles(parameters.angles, parameters.orientation), parameters.betas())
    move = parameters.translation[:, None]
    return Hand(vertices + move, joints + move)


def keypoint_loss(joints: Tensor, camera: PinholeCamera, keypoints: Tensor, scale: float) -> Tensor:
    """(B,) in [0, 1]: mean over joints of d² / (d² + scale²), d the distance in pixels (Geman and McClure, 1987).

    Args:
        joints: (B, 21, 3) metres.
        camera: B cameras.
        keypoints: (B, 21, 2) pixels; NaN does not count.
        scale: pixels at which a keypoint begins to lose its pull: a gross outlier has none.
    """
    known = torch.isfinite(keypoints).all(dim=-1)
    offset = torch.where(known[..., None], camera.project(joints) - keypoints, torch.zeros_like(keypoints))
    squared = offset.square().sum(dim=-1)
    return (squared / (squared + scale**2) * known).mean(dim=1)


def anatomy_loss(model: HandModel, parameters: HandParameters) -> Tensor:
    """(B,): angles outside their anatomical range, and shape away from the mean."""
    low, high = model.angle_limits.unbind(-1)
    outside = (low - parameters.angles).clamp(min=0) + (parameters.angles - high).clamp(min=0)
    return 20 * outside.square().sum(dim=(1, 2)) + 0.02 * parameters.shape.square().sum(dim=1)


Objective = Callable[[HandParameters, Hand], Tensor]


def keypoint_objective(
    model: HandModel,
    camera: PinholeCamera,
    keypoints: Tensor,
    scale: float,
    extra: Callable[[Hand], Tensor] | None = None,
) -> Objective:
    """Robust keypoints and anatomy, and whatever is added: `extra` gives one value a sample."""

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        value = KEYPOINT_WEIGHT * keypoint_loss(hand.joints, camera, keypoints, scale)
        value = value + anatomy_loss(model, parameters)
        return value if extra is None else value + extra(hand)

    return objective


@torch.enable_grad()
def refine(
    model: HandModel,
    start: HandParameters,
    objective: Objective,
    steps: int,
    rate: float = 0.02,
    progress: Callable[[int, HandParameters, Hand], None] | None = None,
) -> HandParameters:
    """Adam on all parameters; the sum of the objective's values (B,) is minimised, under ``torch.no_grad`` as well.

    Args:
        model: the hand.
        start: left as it is.
        objective: of the parameters and the posed hand.
        steps: optimiser steps.
        rate: radians; translation goes 0.15 times as far, shape 5 times. It falls linearly to a tenth.
        progress: called before every step with its number, the parameters and the posed hand.
    """
    parameters = start.clone()
    groups = [
        {"params": [parameters.angles, parameters.orientation], "lr": rate},
        {"params": [parameters.translation], "lr": 0.15 * rate},
        {"params": [parameters.shape], "lr": 5 * rate},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.9 * step / steps)
    for step in range(steps):
        optimizer.zero_grad()
        hand = pose_hand(model, parameters)
        if progress is not None:
            progress(step, parameters, hand)
        objective(parameters, hand).sum().backward()
        optimizer.step()
        schedule.step()
    return HandParameters(*(tensor.detach() for tensor in parameters.tensors()))


def resting(model: HandModel, batch: int) -> HandParameters:
    """Relaxed hands of the mean shape at the origin."""
    zero = model.angle_limits.new_zeros(batch, 3)
    angles = 0.2 * model.angle_limits.mean(dim=-1).expand(batch, -1, -1)
    return HandParameters(angles.clone(), zero, zero.clone(), zero.new_zeros(batch, len(FITTED_SHAPE)))


def fit_to_joints(model: HandModel, joints: Tensor, steps: int = 400) -> HandParameters:
    """Fit to known 3D joints (B, 21, 3), metres, camera frame; starts from the rigid alignment of a relaxed hand."""
    expect_tensor(joints, "fit_to_joints", "joints")
    expect(joints.shape[1:] == (21, 3), "fit_to_joints", "joints (B, 21, 3)", tuple(joints.shape))
    start = resting(model, len(joints))
    rest = pose_hand(model, start).joints
    rigid = list(_RIGID)
    source, target = (points[:, rigid] - points[:, rigid].mean(dim=1, keepdim=True) for points in (rest, joints))
    start = HandParameters(
        start.angles, rotation_vectors(best_rotation(source, target)), joints[:, 0].clone(), start.shape
    )

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        return 1e3 * (hand.joints - joints).square().sum(dim=(1, 2)) + anatomy_loss(model, parameters)

    return refine(model, start, objective, steps, rate=0.03)


def fit_to_keypoints(
    model: HandModel, camera: PinholeCamera, keypoints: Tensor, scale: float, steps: int = 200
) -> HandParameters:
    """Fit to 2D keypoints from nothing: relaxed hands, turned 72 ways, compete; the best four of them are refined.

    Args:
        model: the hand, a right one.
        camera: B cameras.
        keypoints: (B, 21, 2) pixels, in the order of `texalign.hand.JOINT_NAMES`; NaN where unknown.
        scale: pixels, see `keypoint_loss`: a little more than a good keypoint's error.
        steps: of the last fit, after half as many with a scale four times as large.

    Returns:
        The parameters, detached. A sample with fewer than four keypoints is placed as well as can be.
    """
    expect_tensor(keypoints, "fit_to_keypoints", "keypoints")
    batch = len(keypoints)
    expect(keypoints.shape[1:] == (21, 2), "fit_to_keypoints", "keypoints (B, 21, 2)", tuple(keypoints.shape))
    turns = _turns(keypoints)
    ways, best = len(turns), 4
    every = torch.arange(batch, device=keypoints.device).repeat_interleave(ways)
    start = resting(model, len(every))
    start = HandParameters(start.angles, rotation_vectors(turns).repeat(batch, 1), start.translation, start.shape)
    with torch.no_grad():
        joints = pose_hand(model, start).joints
        translation, error = _place(joints, camera[every], keypoints[every])
        start = HandParameters(start.angles, start.orientation, translation, start.shape)
        order = error.view(batch, ways).argsort(dim=1)[:, :best]
        chosen = (order + ways * torch.arange(batch, device=order.device)[:, None]).flatten()
    start = start.select(chosen)
    several = torch.arange(batch, device=keypoints.device).repeat_interleave(best)
    wide = keypoint_objective(model, camera[several], keypoints[several], 4 * scale)
    rough = refine(model, start, wide, steps // 2, rate=0.04)
    with torch.no_grad():
        value = wide(rough, pose_hand(model, rough)).view(batch, best)
    rough = rough.select(value.argmin(dim=1) + best * torch.arange(batch, device=value.device))
    return refine(model, rough, keypoint_objective(model, camera, keypoints, scale), steps)


def _turns(like: Tensor) -> Tensor:
    """(72, 3, 3): twelve turns in the image of palm, back, both sides, and palm and back leaning to the camera."""
    step = torch.pi / 6
    zero, quarter, half = 0.0, torch.pi / 2, torch.pi
    fingers_up = like.new_tensor(FINGERS_UP)
    sides = [(zero, zero), (zero, half), (zero, quarter), (zero, -quarter), (0.7, zero), (0.7, half)]
    turns = []
    for lean, around in sides:
        side = rotation_matrices(like.new_tensor([lean, 0.0, 0.0])) @ rotation_matrices(
            like.new_tensor([0.0, around, 0.0])
        )
        turns += [rotation_matrices(like.new_tensor([0.0, 0.0, step * roll])) @ side @ fingers_up for roll in range(12)]
    return torch.stack(turns)


def _place(joints: Tensor, camera: PinholeCamera, keypoints: Tensor) -> tuple[Tensor, Tensor]:
    """Where joints about the origin must be moved to look as large as the keypoints and lie over them, and how well
    they do (B,), in squared shares of the keypoints' extent.
    """
    known = torch.isfinite(keypoints).all(dim=-1, keepdim=True)
    count = known.sum(dim=1).clamp(min=1)
    ray = torch.where(known, (keypoints - camera.principal[:, None]) / camera.focal[:, None], 0)
    flat = torch.where(known, joints[..., :2], 0)
    middle, flat_middle = ray.sum(dim=1) / count, flat.sum(dim=1) / count
    ray = torch.where(known, ray - middle[:, None], 0)
    flat = torch.where(known, flat - flat_middle[:, None], 0)
    extent = ray.square().sum(dim=(1, 2)).clamp(min=1e-8)
    spread = flat.square().sum(dim=(1, 2)).clamp(min=1e-8)
    depth = (spread / extent).sqrt()
    error = (flat / depth[:, None, None] - ray).square().sum(dim=(1, 2)) / extent
    move = torch.cat([middle * depth[:, None] - flat_middle, depth[:, None] - joints[..., 2].mean(1)[:, None]], dim=1)
    return move, error


class KnownShape(HandModel):
    """The bundled hand in the shapes of B known hands: a fit changes where it is and how it is posed, never its shape.

    Args:
        betas: (B, 10). Those that a call gives do not count.
    """

    betas: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.register_buffer("betas", expect_tensor(betas, "KnownShape", "betas").detach(), persistent=False)

    def forward(self, pose: Tensor, betas: Tensor | None = None) -> Hand:
        """As `HandModel`, of B poses."""
        return super().forward(pose, self.betas)


def parameters_of_pose(model: HandModel, pose: Tensor, translation: Tensor) -> HandParameters:
    """The parameters, of the mean shape, that give a pose again: the inverse of `HandModel.pose_from_angles`.

    Args:
        model: whose joint axes are taken.
        pose: (B, 16, 3) axis-angle, radians.
        translation: (B, 3) metres.

    Returns:
        Angles in ±180 degrees, abduction in ±90. Where a finger is spread by 90 degrees, which none is, flexion and
        twist cannot be told apart.
    """
    expect_floating(pose, "parameters_of_pose", "pose", ("B", 16, 3))
    expect_floating(translation, "parameters_of_pose", "translation", (len(pose), 3))
    axes = model.joint_axes.to(pose.dtype)
    # In a joint's own axes flexion, abduction and twist are turns about x, y and z.
    turn = axes @ rotation_matrices(pose[:, 1:]) @ axes.transpose(1, 2)
    flexion = torch.atan2(-turn[..., 1, 2], turn[..., 2, 2])
    abduction = torch.asin(turn[..., 0, 2].clamp(-1, 1))
    twist = torch.atan2(-turn[..., 0, 1], turn[..., 0, 0])
    shape = pose.new_zeros(len(pose), len(FITTED_SHAPE))
    return HandParameters(torch.stack([flexion, abduction, twist], dim=-1), pose[:, 0], translation, shape)


def disturbed(parameters: HandParameters, generator: torch.Generator | None = None) -> HandParameters:
    """The hands misplaced, as by a network that is roughly right: normal noise on all but the shape.

    Standard deviations: 0.15 rad of flexion, 0.04 of abduction and twist, 0.06 of each component of the orientation's
    axis-angle vector, 4 mm across the image and 12 mm in depth.
    """

    def noise(like: Tensor, deviation: tuple[float, float, float]) -> Tensor:
        drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return drawn * like.new_tensor(deviation)

    return HandParameters(
        parameters.angles + noise(parameters.angles, (0.15, 0.04, 0.04)),
        parameters.orientation + noise(parameters.orientation, (0.06, 0.06, 0.06)),
        parameters.translation + noise(parameters.translation, (0.004, 0.004, 0.012)),
        parameters.shape,
    )

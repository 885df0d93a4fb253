"""Fitting the bundled hand to keypoints, alone or together with another loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from texalign._internal import expect, expect_pixels, expect_tensor, makes_gradients
from texalign.camera import PinholeCamera
from texalign.hand.hand_model import Hand, HandModel
from texalign.hand.objectives import Objective, anatomy_loss, keypoint_objective
from texalign.hand.parameters import HandParameters, pose_hand, resting
from texalign.hand.poses import FINGERS_UP
from texalign.hand.rotations import best_rotation, rotation_matrices, rotation_vectors

# Wrist and knuckles: they hardly move against each other, and give a hand's place and orientation.
_RIGID = (0, 5, 9, 13, 17)
# Of the gradient's mean and mean square.
_BETAS = (0.9, 0.95)


@makes_gradients
def refine(
    model: HandModel,
    start: HandParameters,
    objective: Objective,
    steps: int,
    rate: float = 0.02,
    progress: Callable[[int, HandParameters, Hand], object] | None = None,
) -> HandParameters:
    """Minimise the sum of an objective's values (B,) by Adam over all parameters, whatever the mode of gradients.

    Args:
        model: the hand.
        start: where to begin; not changed.
        objective: (parameters, posed hand) → (B,).
        steps: optimiser steps.
        rate: learning rate of angles; times 0.15 for the translation and 5 for the shape. It falls linearly to a tenth.
        progress: called before every step with its number, the parameters and the posed hand.

    Example:
        >>> model = HandModel()
        >>> def objective(parameters, hand):
        ...     return (hand.joints[:, 8] - torch.tensor([0.0, 0.0, 0.5])).norm(dim=-1)  # of the index finger's tip
        >>> fitted = refine(model, resting(model, batch=2), objective, steps=10)
    """
    parameters = start.clone()
    rates = (rate, rate, 0.15 * rate, 5 * rate)
    moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in parameters.tensors()]
    for step in range(steps):
        hand = pose_hand(model, parameters)
        if progress is not None:
            progress(step, parameters, hand)
        value = objective(parameters, hand).sum()
        gradients = torch.autograd.grad(value, parameters.tensors(), allow_unused=True)
        # Adam by hand: torch.optim imports torch's compiler first, which takes longer than a whole fit.
        bias, square_bias = (1 - beta ** (step + 1) for beta in _BETAS)
        with torch.no_grad():
            for tensor, gradient, own, (mean, square) in zip(parameters.tensors(), gradients, rates, moments):
                if gradient is not None:
                    mean.lerp_(gradient, 1 - _BETAS[0])
                    square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
                    deviation = (square.sqrt() / math.sqrt(square_bias)).add_(1e-8)
                    tensor.addcdiv_(mean, deviation, value=-own * (1 - 0.9 * step / steps) / bias)
    return HandParameters(*(tensor.detach() for tensor in parameters.tensors()))


@makes_gradients
def fit_to_joints(model: HandModel, joints: Tensor, steps: int = 400) -> HandParameters:
    """Fit to known 3D joints (B, 21, 3), metres, camera frame, from a rigidly aligned relaxed hand.

    Joints that are not finite are ignored. With fewer than three known joints a sample's fit is finite, but means
    little.

    Raises:
        TypeError, ValueError: joints of another type or shape.

    Example:
        >>> model = HandModel()
        >>> joints = model.joints(torch.zeros(1, 16, 3)) + torch.tensor([0.0, 0.0, 0.5])
        >>> fitted = pose_hand(model, fit_to_joints(model, joints, steps=100)).joints
        >>> bool((fitted - joints).norm(dim=-1).mean() < 0.005)  # metres
        True
    """
    expect_tensor(joints, "fit_to_joints", "joints")
    expect(joints.shape[1:] == (21, 3), "fit_to_joints", "joints (B, 21, 3)", tuple(joints.shape))
    start = resting(model, len(joints))
    rest = pose_hand(model, start).joints
    known = torch.isfinite(joints).all(dim=2, keepdim=True)
    joints = torch.where(known, joints, 0)
    rigid = torch.zeros_like(known)
    rigid[:, list(_RIGID)] = True
    # Three joints of the palm orient a hand; where fewer are known, all others have to help.
    used = torch.where(((known & rigid).sum(dim=1, keepdim=True) >= 3), known & rigid, known)
    middles = [(points * used).sum(dim=1, keepdim=True) / used.sum(dim=1, keepdim=True).clamp(min=1)
               for points in (rest, joints)]  # fmt: skip
    source, target = (torch.where(used, points - middle, 0) for points, middle in zip((rest, joints), middles))
    rotation = best_rotation(source, target)
    carried = middles[1] + (rest[:, :1] - middles[0]) @ rotation.transpose(1, 2)
    wrist = torch.where(known[:, :1], joints[:, :1], carried)[:, 0]
    start = HandParameters(start.angles, rotation_vectors(rotation), wrist, start.shape)

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        offset = torch.where(known, hand.joints - joints, 0)
        return 1e3 * offset.square().sum(dim=(1, 2)) + anatomy_loss(model, parameters)

    return refine(model, start, objective, steps, rate=0.03)


@makes_gradients
def fit_to_keypoints(
    model: HandModel, camera: PinholeCamera, keypoints: Tensor, scale: float, steps: int = 200
) -> HandParameters:
    """Fit to 2D keypoints without a start: of relaxed hands in 72 orientations the best four are refined.

    Args:
        model: the (right) hand.
        camera: B cameras.
        keypoints: (B, 21, 2) pixels, in the order of `texalign.hand.JOINT_NAMES`; NaN where unknown.
        scale: pixels, see `keypoint_loss`: a little more than a good keypoint's error.
        steps: of the last fit, after half as many with a scale four times as large.

    Returns:
        The parameters, detached. With fewer than four keypoints a sample's fit is finite, but means little.

    Raises:
        TypeError, ValueError: keypoints of another type or shape, in [0, 1], or all in one place.

    Example:
        >>> model, camera = HandModel(), PinholeCamera(torch.full((1, 2), 300.0), torch.full((1, 2), 64.0))
        >>> keypoints = camera.project(model.joints(torch.zeros(1, 16, 3)) + torch.tensor([0.0, 0.0, 0.5]))
        >>> hand = pose_hand(model, fit_to_keypoints(model, camera, keypoints, scale=4.0, steps=40))
        >>> bool((camera.project(hand.joints) - keypoints).norm(dim=-1).mean() < 2)  # pixels
        True
    """
    expect_tensor(keypoints, "fit_to_keypoints", "keypoints")
    batch = len(keypoints)
    expect(keypoints.shape[1:] == (21, 2), "fit_to_keypoints", "keypoints (B, 21, 2)", tuple(keypoints.shape))
    expect_pixels(keypoints, None, "fit_to_keypoints")
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
    """Translations (B, 3) that bring joints over the keypoints at the keypoints' size, and the remaining error (B,).

    The error is relative: squared distances over the squared extent of the keypoints.
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

"""Pulling a network's MANO prediction over the image it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_pixels, makes_gradients
from texalign.camera import PinholeCamera
from texalign.hand.joints import JOINT_ORDER, TIP_VERTICES
from texalign.hand.objectives import KEYPOINT_WEIGHT, keypoint_loss
from texalign.hand.rotations import rotation_matrices

WHO = "refine_mano"
# Standard deviations of a prediction's error, in which the fit's variables are measured: radians of joints and of the
# orientation, shares of the distance to the camera (4 and 12 mm at 60 cm) across the image and along it, betas.
_POSE, _ORIENTATION, _ACROSS, _ALONG, _BETA = 0.15, 0.06, 1 / 150, 1 / 50, 0.5
# The loss's weight, as in `python -m texalign align`.
_TEXTURE_WEIGHT = 4.0
# Of the images' side: where a keypoint's gradient begins to fall.
_KEYPOINT_SCALE = 1 / 16


@dataclass(frozen=True, eq=False)
class ManoParameters:
    """What a MANO layer is called with, for B hands.

    Attributes:
        global_orient: axis-angle (B, 3) or rotation matrices (B, 1, 3, 3), as the layer takes them.
        hand_pose: axis-angle (B, 45) or rotation matrices (B, 15, 3, 3).
        betas: (B, S).
        translation: (B, 3) metres, added to the layer's vertices: they are then before the camera.
    """

    global_orient: Tensor
    hand_pose: Tensor
    betas: Tensor
    translation: Tensor


@makes_gradients
def refine_mano(
    layer: Any,
    parameters: ManoParameters,
    camera: PinholeCamera,
    image: Tensor,
    loss: Callable[..., Tensor],
    *,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    is_right: Tensor | None = None,
    group: Tensor | None = None,
    keypoints: Tensor | None = None,
    fit_shape: bool = False,
    anchor: float = 0.2,
    steps: int = 60,
    rate: float = 0.1,
    generator: torch.Generator | None = None,
) -> ManoParameters:
    """Improve predictions of a network by the texture loss, without labels; how far they may move is bounded softly.

    Minimises 4 · loss + anchor / 2 · Σ u² by Adam, u being the changes of pose, orientation and translation in standard
    deviations of a prediction's error (0.15 rad, 0.06 rad, 1/150 of the distance across the image, 1/50 along it), and
    10 times `keypoint_loss` where there are keypoints. It helps where the prediction is off by some pixels and the
    hand's colours differ from the background's. It hurts where they do not, where something of skin's colour touches
    the hand, and a prediction that is right to a pixel already.

    Args:
        layer: MANO as smplx (`MANO` without PCA, `MANOLayer`) or manotorch (`ManoLayer`) has it. Not changed.
        parameters: the predictions, as the layer takes them.
        camera: B cameras, in pixels of the image.
        image: (B, 3, H, W) in [0, 1].
        loss: a `DenseTextureAlignmentLoss` with ``reduction="none"``, for the layer's surface and the image's size.
        mask: as the loss takes it.
        valid: as the loss takes it.
        is_right: (B,) bool, as the loss takes it.
        group: (B,) integers; frames of one hand share a texture.
        keypoints: (B, 21, 2) pixels in the order of `JOINT_NAMES`, NaN where unknown.
        fit_shape: change the betas, too.
        anchor: how strongly the prediction is kept, > 0.
        steps: of the optimiser; its rate falls linearly to a tenth.
        rate: of the optimiser, standard deviations a step.
        generator: of the loss's draws.

    Returns:
        The parameters, detached.

    Raises:
        TypeError: not such a layer.
        ValueError: parameters that are not finite or that the layer does not take, other shapes that do not fit,
            keypoints that are no pixels, or a loss with another reduction.

    Example:
        >>> import smplx
        >>> from texalign import DenseTextureAlignmentLoss, mano, synthetic
        >>> layer = smplx.MANO(str(mano.write_mano("MANO_RIGHT.pkl")), use_pca=False, flat_hand_mean=True)
        WARNING: You are using a MANO model, with only 10 shape coefficients.
        >>> hands = synthetic.generate(1, image_size=64, left_share=0)
        >>> start = ManoParameters(hands.pose[:, 0], hands.pose[:, 1:].flatten(1), hands.betas, hands.translation)
        >>> loss_fn = DenseTextureAlignmentLoss.from_pretrained(image_size=64, reduction="none")
        >>> refined = refine_mano(layer, start, hands.camera, hands.image, loss_fn, steps=2)
    """
    batch = len(parameters.translation)
    expect_floating(image, WHO, "image", (batch, 3, "H", "W"))
    expect_floating(parameters.translation, WHO, "translation", ("B", 3))
    reduction = getattr(loss, "reduction", "none")
    expect(reduction == "none", WHO, 'a loss with reduction="none"', repr(reduction))
    expect(anchor > 0 and steps > 0, WHO, "anchor > 0 and steps > 0", f"{anchor} and {steps}")
    start = ManoParameters(*(tensor.detach() for tensor in _tensors(parameters)))
    _check_parameters(layer, start)
    if keypoints is not None:
        expect_floating(keypoints, WHO, "keypoints", (batch, 21, 2))
        expect_pixels(keypoints, None, WHO)
    options = {"mask": mask, "valid": valid, "is_right": is_right, "group": group, "generator": generator}
    like = start.translation
    pose = like.new_zeros(batch, 45, requires_grad=True)
    orientation, move = (like.new_zeros(batch, 3, requires_grad=True) for _ in range(2))
    betas = torch.zeros_like(start.betas, requires_grad=fit_shape)
    free = [pose, orientation, move, *([betas] if fit_shape else [])]
    optimizer = torch.optim.Adam(free, lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.9 * step / steps)
    distance = start.translation[:, 2:].abs().clamp(min=0.1)
    spread = torch.cat([_ACROSS * distance, _ACROSS * distance, _ALONG * distance], dim=1)

    def moved() -> ManoParameters:
        return ManoParameters(
            _turned(start.global_orient, _ORIENTATION * orientation),
            _turned(start.hand_pose, _POSE * pose),
            start.betas + _BETA * betas,
            start.translation + spread * move,
        )

    for _ in range(steps):
        optimizer.zero_grad()
        vertices, joints = mano_hand(layer, moved())
        value = _TEXTURE_WEIGHT * loss(vertices, camera, image, **options)
        value = value + anchor / 2 * torch.cat(free, dim=1).square().sum(dim=1)
        if keypoints is not None:
            scale = _KEYPOINT_SCALE * min(image.shape[2:])
            value = value + KEYPOINT_WEIGHT * keypoint_loss(joints, camera, keypoints, scale)
        value.sum().backward()
        optimizer.step()
        schedule.step()
    return ManoParameters(*(tensor.detach() for tensor in _tensors(moved())))


def _check_parameters(layer: Any, parameters: ManoParameters) -> None:
    """Raise unless they are finite, and the layer takes them."""
    if not callable(layer):
        raise TypeError(f"{WHO}: expected smplx's or manotorch's layer, got {type(layer).__name__}")
    for name, value in vars(parameters).items():
        bad = ~value.flatten(1).isfinite().all(dim=1)
        expect(not bad.any(), WHO, f"finite {name}", f"others in samples {bad.nonzero()[:, 0].tolist()}")
    try:
        with torch.no_grad():
            mano_hand(layer, parameters)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in vars(parameters).items())
        wanted = f"axis-angles or rotation matrices, whichever {type(layer).__name__} takes, without PCA, and its betas"
        raise ValueError(f"{WHO}: expected {wanted}, got {shapes}: {error}") from error


def mano_hand(layer: Any, parameters: ManoParameters) -> tuple[Tensor, Tensor]:
    """Vertices (B, 778, 3) and joints (B, 21, 3) in the order of `JOINT_NAMES`, of smplx's or manotorch's layer.

    Example:
        >>> import smplx
        >>> from texalign.mano import write_mano  # or your licensed file
        >>> layer = smplx.MANO(str(write_mano("MANO_RIGHT.pkl")), use_pca=False, flat_hand_mean=True)
        WARNING: You are using a MANO model, with only 10 shape coefficients.
        >>> zero = ManoParameters(torch.zeros(1, 3), torch.zeros(1, 45), torch.zeros(1, 10), torch.zeros(1, 3))
        >>> vertices, joints = mano_hand(layer, zero)
    """
    orient, pose, betas, translation = _tensors(parameters)
    if hasattr(layer, "th_faces"):
        whole = (
            torch.cat([orient.flatten(1), pose.flatten(1)], dim=1)
            if orient.dim() == 2
            else torch.cat([orient, pose], 1)
        )
        output = layer(whole, betas)
        vertices, joints = output.verts, output.joints
    else:
        # Its forward adds the mean pose in place, to a tensor of its own.
        output = layer(global_orient=orient, hand_pose=pose, betas=betas)
        vertices, joints = output.vertices, output.joints
        if joints.shape[1] == 16:
            tips = torch.tensor(TIP_VERTICES, device=vertices.device)
            order = torch.tensor(JOINT_ORDER, device=vertices.device)
            joints = torch.cat([joints, vertices[:, tips]], dim=1)[:, order]
    return vertices + translation[:, None], joints + translation[:, None]


def _tensors(parameters: ManoParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return parameters.global_orient, parameters.hand_pose, parameters.betas, parameters.translation


def _turned(rotations: Tensor, by: Tensor) -> Tensor:
    """Rotations with a small turn (B, 3 N) more: matrices turned in their joints' frames, axis-angles added to."""
    if rotations.dim() == 4:
        return rotations @ rotation_matrices(by.unflatten(1, (-1, 3)))
    return rotations + by.reshape(rotations.shape)

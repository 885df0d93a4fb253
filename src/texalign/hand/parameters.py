"""What a fit of the bundled hand may change, and how the hand is posed by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import expect_floating
from texalign.hand.hand_model import Hand, HandModel
from texalign.hand.rotations import rotation_matrices

# Shape parameters that are fitted: size and the five finger lengths. Keypoints do not determine the others.
FITTED_SHAPE = (0, 2, 3, 4, 5, 6)


@dataclass(frozen=True, eq=False)
class HandParameters:
    """Pose, place and shape of B hands: the variables of a fit.

    Attributes:
        angles: (B, 15, 3) radians, of `HandModel.pose_from_angles`.
        orientation: (B, 3) axis-angle, radians.
        translation: (B, 3) metres.
        shape: (B, 6) the betas of `FITTED_SHAPE`; the others are 0.

    Example:
        >>> parameters = resting(HandModel(), batch=2)
        >>> parameters.angles.shape, parameters.betas().shape
        (torch.Size([2, 15, 3]), torch.Size([2, 10]))
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
    """Vertices and joints in the camera's frame, metres.

    Example:
        >>> model = HandModel()
        >>> vertices, joints = pose_hand(model, resting(model, batch=2))
    """
    vertices, joints = model(model.pose_from_angles(parameters.angles, parameters.orientation), parameters.betas())
    move = parameters.translation[:, None]
    return Hand(vertices + move, joints + move)


def resting(model: HandModel, batch: int) -> HandParameters:
    """Relaxed hands of the mean shape at the origin.

    Example:
        >>> start = resting(HandModel(), batch=2)
    """
    zero = model.angle_limits.new_zeros(batch, 3)
    angles = 0.2 * model.angle_limits.mean(dim=-1).expand(batch, -1, -1)
    return HandParameters(angles.clone(), zero, zero.clone(), zero.new_zeros(batch, len(FITTED_SHAPE)))


def parameters_of_pose(model: HandModel, pose: Tensor, translation: Tensor) -> HandParameters:
    """Parameters of the mean shape that reproduce a pose: the inverse of `HandModel.pose_from_angles`.

    Args:
        model: whose joint axes are taken.
        pose: (B, 16, 3) axis-angle, radians.
        translation: (B, 3) metres.

    Returns:
        Angles in ±180 degrees, abduction in ±90. At an abduction of 90 degrees flexion and twist are ambiguous.

    Example:
        >>> model, pose, place = HandModel(), 0.2 * torch.rand(1, 16, 3), torch.tensor([[0.0, 0.0, 0.5]])
        >>> hand = pose_hand(model, parameters_of_pose(model, pose, place))
        >>> torch.allclose(hand.vertices, model(pose).vertices + place, atol=1e-5)
        True
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
    """Misplaced hands, as a roughly right network predicts them: normal noise on all but the shape.

    Standard deviations: 0.15 rad of flexion, 0.04 of abduction and twist, 0.06 of each component of the orientation's
    axis-angle vector, 4 mm across the image and 12 mm in depth.

    Example:
        >>> start = disturbed(resting(HandModel(), batch=2), torch.Generator().manual_seed(0))
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

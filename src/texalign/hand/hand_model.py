"""The bundled hand: MANO's topology, joint order and linear model, with none of MANO's data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from texalign._internal import (
    computes_constants,
    expect,
    expect_floating,
    expect_same_device,
    expect_tensor,
    hand_asset,
)
from texalign.hand.anatomy import ANGLE_LIMITS, joint_axes
from texalign.hand.joints import JOINT_ORDER, PARENTS, TIP_VERTICES
from texalign.hand.rotations import rotation_matrices
from texalign.hand.skinning import blended, bones, joint_rotations

# One unit: 5 % of everything; 4 % of all fingers; 3 mm of one finger; 6 %, 4 %, 6 %. About a standard deviation each.
SHAPE_NAMES = (
    "size",
    "finger_length",
    "thumb_length",
    "index_length",
    "middle_length",
    "ring_length",
    "little_length",
    "finger_thickness",
    "palm_width",
    "palm_thickness",
)


class Hand(NamedTuple):
    """What ``HandModel`` returns.

    Attributes:
        vertices: (B, 778, 3) metres.
        joints: (B, 21, 3) metres, in the order of ``JOINT_NAMES``.
    """

    vertices: Tensor
    joints: Tensor


class HandModel(nn.Module):
    """The bundled right hand, posed by linear blend skinning exactly as MANO is (no pose blend shapes).

    Metres, MANO-like axes: fingers towards -x, palm facing -y, thumb towards +z, wrist joint at the origin. The model
    has no trainable parameters and nothing in its state dict.

    Buffers, float32 and int64: ``vertices`` (778, 3), ``faces`` (1538, 3), ``skin_weights`` (778, 16),
    ``joint_regressor`` (16, 778), ``shape_directions`` (778, 3, 10) metres per unit, ``parents`` (16,),
    ``tip_vertices`` (5,), ``joint_order`` (21,), ``joint_axes`` (15, 3, 3): unit rows flexion, abduction, twist of
    joints 1 to 15, and ``angle_limits`` (15, 3, 2): lowest and highest of the same three, radians.

    Example:
        >>> vertices, joints = HandModel()(torch.zeros(2, 16, 3), torch.zeros(2, 10))
        >>> vertices.shape, joints.shape
        (torch.Size([2, 778, 3]), torch.Size([2, 21, 3]))
    """

    vertices: Tensor
    faces: Tensor
    skin_weights: Tensor
    joint_regressor: Tensor
    shape_directions: Tensor
    parents: Tensor
    tip_vertices: Tensor
    joint_order: Tensor
    joint_axes: Tensor
    angle_limits: Tensor

    @computes_constants
    def __init__(self) -> None:
        super().__init__()
        arrays = hand_asset()
        buffers = {
            "vertices": arrays["vertices"],
            "faces": arrays["faces"].astype(np.int64),
            "skin_weights": arrays["weights"],
            "joint_regressor": arrays["joint_regressor"],
            "shape_directions": arrays["shape_directions"],
            "parents": np.array(PARENTS),
            "tip_vertices": np.array(TIP_VERTICES),
            "joint_order": np.array(JOINT_ORDER),
            "joint_axes": joint_axes(arrays).astype(np.float32),
            "angle_limits": np.radians(ANGLE_LIMITS).astype(np.float32),
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)

    def forward(self, pose: Tensor, betas: Tensor | None = None) -> Hand:
        """Pose and shape the hand.

        Args:
            pose: (B, 16, 3) axis-angle in radians, or (B, 16, 3, 3) rotation matrices; absolute (zero is the template),
                MANO's joint order. ``pose[:, 0]`` is the global orientation, about the wrist joint of the shaped hand.
            betas: (B, 10) shape parameters in the order of ``SHAPE_NAMES``, sensible within ±2; None is the template.

        Returns:
            ``Hand`` in the dtype of ``pose``, differentiable in both inputs. Computed in float32 at least, under
            autocast too.

        Raises:
            TypeError: an input is not a tensor.
            ValueError: a shape, dtype or device is wrong.
        """
        dtype = self._checked(pose, betas)
        with torch.autocast(pose.device.type, enabled=False):
            shaped = self.vertices.to(dtype).expand(len(pose), -1, -1)
            if betas is not None:
                shaped = shaped + torch.einsum("vcs,bs->bvc", self.shape_directions.to(dtype), betas.to(dtype))
            rest_joints = torch.einsum("jv,bvc->bjc", self.joint_regressor.to(dtype), shaped)
            turn, place, shift = bones(rest_joints, joint_rotations(pose, dtype))
            vertices = blended(self.skin_weights.to(dtype), shaped, turn, shift)
            joints = torch.cat([place, vertices[:, self.tip_vertices]], 1)[:, self.joint_order]
        return Hand(vertices.to(pose.dtype), joints.to(pose.dtype))

    def joints(self, pose: Tensor, betas: Tensor | None = None) -> Tensor:
        """Only the joints (B, 21, 3) that `forward` returns, in two fifths of the time.

        Args:
            pose: as in `forward`.
            betas: as in `forward`.

        Raises:
            TypeError: an input is not a tensor.
            ValueError: a shape, dtype or device is wrong.
        """
        dtype = self._checked(pose, betas)
        with torch.autocast(pose.device.type, enabled=False):
            regressor, tips = self.joint_regressor.to(dtype), self.tip_vertices
            # Rest places of the 16 joints and the 5 tips are linear in the betas, as those of all vertices are.
            template, directions = self.vertices.to(dtype), self.shape_directions.to(dtype)
            rest = torch.cat([regressor @ template, template[tips]]).expand(len(pose), -1, -1)
            if betas is not None:
                along = torch.cat([torch.einsum("jv,vcs->jcs", regressor, directions), directions[tips]])
                rest = rest + torch.einsum("jcs,bs->bjc", along, betas.to(dtype))
            turn, place, shift = bones(rest[:, :16], joint_rotations(pose, dtype))
            ends = blended(self.skin_weights[tips].to(dtype), rest[:, 16:], turn, shift)
            joints = torch.cat([place, ends], 1)[:, self.joint_order]
        return joints.to(pose.dtype)

    def _checked(self, pose: Tensor, betas: Tensor | None) -> torch.dtype:
        """The dtype to compute in; raises where the input is wrong."""
        expect_tensor(pose, "HandModel", "pose")
        fits = (pose.dim() == 3 and pose.shape[1:] == (16, 3)) or (pose.dim() == 4 and pose.shape[1:] == (16, 3, 3))
        expect(fits, "HandModel", "pose (B, 16, 3) or (B, 16, 3, 3)", tuple(pose.shape))
        expect(pose.is_floating_point(), "HandModel", "pose of a floating dtype", pose.dtype)
        if betas is not None:
            expect_floating(betas, "HandModel", "betas", (len(pose), len(SHAPE_NAMES)))
        expect_same_device("HandModel", model=self.vertices, pose=pose, betas=betas)
        return torch.promote_types(pose.dtype, torch.float32)

    def pose_from_angles(self, angles: Tensor, global_orientation: Tensor) -> Tensor:
        """Pose from anatomical angles.

        Each joint is turned by ``flexion @ abduction @ twist``, rotations about its rows of ``joint_axes``: a finger is
        twisted, then spread, then curled. Positive flexion curls towards the palm. Positive abduction moves a finger
        towards the thumb's side, and the thumb away from the palm. Nothing is clamped to ``angle_limits``.

        Args:
            angles: (B, 15, 3) radians: flexion, abduction, twist of joints 1 to 15.
            global_orientation: (B, 3) axis-angle, radians.

        Returns:
            Rotation matrices (B, 16, 3, 3), differentiable in both inputs.

        Raises:
            ValueError: a shape, dtype or device is wrong.
        """
        expect_floating(angles, "pose_from_angles", "angles", ("B", 15, 3))
        expect_floating(global_orientation, "pose_from_angles", "global_orientation", (len(angles), 3))
        expect_same_device("pose_from_angles", model=self.joint_axes, angles=angles, orientation=global_orientation)
        with torch.autocast(angles.device.type, enabled=False):
            turns = rotation_matrices(angles[..., None] * self.joint_axes.to(angles.dtype))
            fingers = turns[:, :, 0] @ turns[:, :, 1] @ turns[:, :, 2]
            return torch.cat([rotation_matrices(global_orientation)[:, None].to(angles.dtype), fingers], 1)

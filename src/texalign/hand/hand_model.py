"""The bundled hand: MANO's topology, joint order and linear model, with none of MANO's data."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from texalign._internal import expect, expect_floating, expect_same_device, expect_tensor, hand_asset
from texalign.hand.key_poses import FINGER_OF_COLUMN, KEY_POSES, anatomical_angles, perturbed
from texalign.hand.rotations import rotation_matrices, rotation_vectors, turned_leaned_rolled
from texalign.hand.skinning import blended, bones, joint_rotations

# Turns the rest pose so that fingers (-x) point up (-y), the palm (-y) to the camera (-z), the thumb (+z) right (+x).
FINGERS_UP = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
# The 16 joints of a pose, in MANO's order.
POSE_JOINT_NAMES = (
    "wrist",
    "index_1", "index_2", "index_3",
    "middle_1", "middle_2", "middle_3",
    "little_1", "little_2", "little_3",
    "ring_1", "ring_2", "ring_3",
    "thumb_1", "thumb_2", "thumb_3",
)  # fmt: skip
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
FINGERS = ("thumb", "index", "middle", "ring", "little")
# Vertices at the fingertips, thumb to little finger: the ids smplx and HaMeR use.
TIP_VERTICES = (744, 320, 443, 554, 671)
# The 21 joints that come out: wrist, then every finger from its base to its tip.
JOINT_NAMES = ("wrist", *(f"{finger}_{part}" for finger in FINGERS for part in ("1", "2", "3", "tip")))
# Where each of the 21 is found among the 16 pose joints followed by the 5 tips.
JOINT_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
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
POSE_KINDS = (*KEY_POSES, "gesture")


class Hand(NamedTuple):
    """What ``HandModel`` returns.

    Attributes:
        vertices: (B, 778, 3) metres.
        joints: (B, 21, 3) metres, in the order of ``JOINT_NAMES``.
    """

    vertices: Tensor
    joints: Tensor


def _palm_faces(faces: np.ndarray, uv_faces: np.ndarray) -> np.ndarray:
    """(F,) bool: faces in the chart of the palm. The other chart holds the index fingertip's nail side, vertex 317."""
    labels = np.arange(uv_faces.max() + 1)
    while True:  # every uv takes the lowest number in its chart
        spread = labels.copy()
        np.minimum.at(spread, uv_faces, labels[uv_faces].min(axis=1, keepdims=True))
        if (spread == labels).all():
            break
        labels = spread
    charts = labels[uv_faces[:, 0]]
    return charts != charts[(faces == 317).any(axis=1).argmax()]


def _joint_axes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(15, 3, 3): unit flexion, abduction and twist axes of the joints after the wrist, as rows, right-handed.

    Twist follows the bone. Flexion is at right angles to it and to the way the finger's pad faces at rest (the skin of
    its palm side against that of its back), so the thumb gets an axis of its own. Abduction completes the frame.
    """
    vertices, joints = arrays["vertices"].astype(np.float64), arrays["joints"].astype(np.float64)
    corners = vertices[arrays["faces"]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals *= np.where(_palm_faces(arrays["faces"], arrays["uv_faces"]), 1.0, -1.0)[:, None]
    face_weights = arrays["weights"][arrays["faces"]].mean(axis=1)
    axes = np.zeros((15, 3, 3))
    for base, tip in zip((13, 1, 4, 10, 7), TIP_VERTICES):
        pad = face_weights[:, base : base + 3].sum(axis=1) @ normals
        ends = np.vstack([joints[base : base + 3], vertices[tip]])
        for offset, bone in enumerate(np.diff(ends, axis=0)):
            twist = bone / np.linalg.norm(bone)
            flexion = np.cross(twist, pad)
            flexion /= np.linalg.norm(flexion)
            axes[base + offset - 1] = flexion, np.cross(twist, flexion), twist
    return axes


# Degrees, lowest and highest flexion, abduction, twist: index, middle, little and ring finger, thumb, from base to end.
_LIMITS = (
    ((-20, 90), (-15, 25), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-15, 15), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-30, 20), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 90), (-20, 15), (-8, 8)), ((-3, 110), (-3, 3), (-3, 3)), ((-5, 80), (-3, 3), (-3, 3)),
    ((-20, 50), (-25, 45), (-45, 15)), ((-10, 60), (-8, 8), (-8, 8)), ((-15, 80), (-3, 3), (-3, 3)),
)  # fmt: skip


class HandModel(nn.Module):
    """The bundled right hand, posed by linear blend skinning exactly as MANO is (no pose blend shapes).

    Metres, MANO-like axes: fingers towards -x, palm facing -y, thumb towards +z, wrist joint at the origin. The model
    has no trainable parameters and nothing in its state dict.

    Buffers, float32 and int64: ``vertices`` (778, 3), ``faces`` (1538, 3), ``skin_weights`` (778, 16),
    ``joint_regressor`` (16, 778), ``shape_directions`` (778, 3, 10) metres per unit, ``parents`` (16,),
    ``tip_vertices`` (5,), ``joint_order`` (21,), ``joint_axes`` (15, 3, 3): unit rows flexion, abduction, twist of
    joints 1 to 15, and ``angle_limits`` (15, 3, 2): lowest and highest of the same three, radians.
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
            "joint_axes": _joint_axes(arrays).astype(np.float32),
            "angle_limits": np.radians(_LIMITS).astype(np.float32),
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
        """The joints (B, 21, 3) that `forward` returns, alone, in two fifths of the time.

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


def sample_pose(count: int, generator: torch.Generator | None = None, kind: str | None = None) -> Tensor:
    """Draw plausible hands, inside ``HandModel.angle_limits``.

    Half of them are one of ``POSE_KINDS`` other than "gesture", half lie between two of these; all are perturbed,
    neighbouring fingers alike. In a "gesture" every finger is drawn so for itself: any of them may be out while others
    are curled.
    The global orientation is meant for a camera with OpenCV axes: the hand is turned uniformly about its fingers, so
    palm, back and the two sides are seen equally often; three in four are turned about 30 degrees (one standard
    deviation) from fingers up, the others anyhow in the image; fingers lean towards or away from the camera by 25.

    Args:
        count: number of poses.
        generator: source of randomness; the same seed gives the same poses. None uses torch's global one.
        kind: one of ``POSE_KINDS`` for poses near that one only; None for all but gestures.

    Returns:
        Axis-angle (count, 16, 3) float32 in radians, on the generator's device (CPU without one).

    Raises:
        ValueError: ``count`` is negative or ``kind`` is unknown.
    """
    expect(count >= 0, "sample_pose", "count of 0 or more", count)
    expect(kind is None or kind in POSE_KINDS, "sample_pose", f"kind out of {', '.join(POSE_KINDS)}", kind)
    device = generator.device if generator is not None else torch.device("cpu")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device, dtype=torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=device, dtype=torch.float32).clamp(-2.5, 2.5)

    model = _model(device)
    keys = torch.tensor([[*sum(rows, ())] for rows in KEY_POSES.values()], dtype=torch.float32, device=device)
    fingers = len(FINGERS) if kind == "gesture" else 1
    chosen = (uniform(2, fingers) * len(keys)).long().clamp(max=len(keys) - 1).expand(-1, -1, len(FINGERS))
    if kind is not None and kind != "gesture":
        chosen = torch.full_like(chosen, POSE_KINDS.index(kind))
    first, second = keys[chosen[:, :, FINGER_OF_COLUMN], torch.arange(keys.shape[1], device=device)].unbind(1)
    between = uniform(1) * (uniform(1) < 0.5)
    rows = torch.lerp(first, second, between)
    angles = anatomical_angles(perturbed(rows, normal))
    angles[:, 2:12:3, 0] += 2.5 * normal(4)  # the last joints of the fingers
    low, high = model.angle_limits.unbind(-1)
    turns = model.pose_from_angles(torch.deg2rad(angles).clamp(low, high), angles.new_zeros(count, 3))
    turns[:, 0] = _view(uniform, normal)
    return rotation_vectors(turns)


@lru_cache(maxsize=4)
def _model(device: torch.device) -> HandModel:
    return HandModel().to(device)


def _view(uniform: Callable[..., Tensor], normal: Callable[..., Tensor]) -> Tensor:
    """Global orientations (B, 3, 3) for a camera with OpenCV axes; see ``sample_pose``."""
    around, tilt = uniform() * (2 * torch.pi), 0.44 * normal()
    roll = torch.where(uniform() < 0.75, 0.5 * normal(), (2 * uniform() - 1) * torch.pi)
    with torch.autocast(around.device.type, enabled=False):
        return turned_leaned_rolled(around, tilt, roll) @ around.new_tensor(FINGERS_UP)


def relaxed_pose() -> Tensor:
    """(15, 3) axis-angle of the relaxed hand."""
    row = torch.tensor([[*sum(KEY_POSES["relaxed"], ())]], dtype=torch.float32)
    angles = torch.deg2rad(anatomical_angles(row))
    return rotation_vectors(_model(torch.device("cpu")).pose_from_angles(angles, angles.new_zeros(1, 3)))[0, 1:]

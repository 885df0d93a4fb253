from __future__ import annotations

import copy
import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from texalign.hand import (
    FINGERS,
    JOINT_NAMES,
    JOINT_ORDER,
    PARENTS,
    POSE_JOINT_NAMES,
    POSE_KINDS,
    SHAPE_NAMES,
    TIP_VERTICES,
    HandModel,
    parameters_of_pose,
    rotation_matrices,
    rotation_vectors,
    sample_pose,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "hand_asset"))

# First joint of each finger, thumb to little finger, in MANO's order.
BASES = {"thumb": 13, "index": 1, "middle": 4, "ring": 10, "little": 7}


def random_pose(count: int, scale: float = 0.4, dtype: torch.dtype = torch.float32) -> Tensor:
    return scale * torch.randn(count, 16, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


def shape_parameter(name: str, value: float = 1.0) -> Tensor:
    betas = torch.zeros(1, len(SHAPE_NAMES), dtype=torch.float64)
    betas[0, SHAPE_NAMES.index(name)] = value
    return betas


@pytest.fixture(scope="module")
def model() -> HandModel:
    return HandModel()


def shaped(model: HandModel, name: str, value: float = 1.0) -> tuple[Tensor, Tensor]:
    """Vertices (778, 3) and joints (21, 3) of the hand at rest, in double."""
    hand = model(torch.zeros(1, 16, 3, dtype=torch.float64), shape_parameter(name, value))
    return hand.vertices[0], hand.joints[0]


def finger_lengths(joints: Tensor) -> Tensor:
    """Base joint to tip vertex (5,), metres."""
    fingers = joints[1:].unflatten(0, (5, 4))
    return (fingers[:, 3] - fingers[:, 0]).norm(dim=-1)


def skew(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def test_any_precision_and_rotation_matrices(model: HandModel) -> None:
    """That smplx poses it the same is in the tests of writing MANO files."""
    pose = random_pose(2, 0.7, torch.float64)
    betas = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vertices = model(pose, betas).vertices
    assert (model(rotation_matrices(pose), betas).vertices - vertices).abs().max() < 1e-12
    assert (model(pose.float(), betas.float()).vertices - vertices).abs().max() < 1e-6


def test_names_and_order(model: HandModel) -> None:
    assert len(POSE_JOINT_NAMES) == len(PARENTS) == 16 and model.parents.tolist() == list(PARENTS)
    assert sorted(JOINT_ORDER) == list(range(21))
    for name, source in zip(JOINT_NAMES, JOINT_ORDER, strict=True):
        assert name.endswith("_tip") if source >= 16 else name == POSE_JOINT_NAMES[source]
    hand = model(torch.zeros(1, 16, 3))
    assert torch.equal(hand.joints[0, 4::4], hand.vertices[0, list(TIP_VERTICES)])
    assert hand.joints[:, 0].abs().max() < 1e-6  # the wrist is the origin


def test_joints_alone_are_the_hands_joints(model: HandModel) -> None:
    pose, betas = random_pose(3, dtype=torch.float64).requires_grad_(), shape_parameter("size").expand(3, 10)
    whole, alone = model(pose, betas).joints, model.joints(pose, betas)
    torch.testing.assert_close(alone, whole, atol=1e-15, rtol=1e-12)
    downstream = torch.randn(3, 21, 3, dtype=torch.float64)
    gradients = [torch.autograd.grad((joints * downstream).sum(), pose)[0] for joints in (alone, whole)]
    torch.testing.assert_close(*gradients, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(model.joints(rotation_matrices(pose)), model(pose).joints, atol=1e-15, rtol=1e-12)
    half = pose.detach().bfloat16()
    assert torch.equal(model.joints(half), model(half).joints)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-5, 1e-3, 0.0099, 0.01, 1.0, 3.0, math.pi - 1e-7])
def test_rotation_vectors_invert_rotation_matrices(angle: float) -> None:
    axes = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    vectors = angle * torch.nn.functional.normalize(axes, dim=-1)
    assert torch.allclose(rotation_vectors(rotation_matrices(vectors)), vectors, atol=1e-9)
    expected = torch.linalg.matrix_exp(skew(vectors))
    assert torch.allclose(rotation_matrices(vectors), expected, atol=1e-12)


def test_rotation_vectors_of_half_turns() -> None:
    random = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    axes = torch.cat([torch.eye(3).double(), torch.nn.functional.normalize(random, dim=-1)])
    half_turns = 2 * axes[:, :, None] * axes[:, None] - torch.eye(3, dtype=torch.float64)
    assert torch.allclose(rotation_matrices(rotation_vectors(half_turns)), half_turns, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_gradients_are_right_also_at_rest(model: HandModel, scale: float) -> None:
    pose = random_pose(1, scale, torch.float64).requires_grad_()
    betas = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    some = [0, 100, 320, 333, 744, 777]

    def outputs(pose: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        hand = model(pose, betas)
        return hand.vertices[:, some], hand.joints

    assert torch.autograd.gradcheck(outputs, (pose, betas))
    angles, orientation = pose.detach()[:, 1:].requires_grad_(), pose.detach()[:, 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: model.pose_from_angles(*given)[:, :7], (angles, orientation))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_hand_on_cuda(model: HandModel) -> None:
    pose, on_cuda = random_pose(2), copy.deepcopy(model).cuda()
    assert torch.allclose(model(pose).vertices, on_cuda(pose.cuda()).vertices.cpu(), atol=1e-6)
    drawn = sample_pose(3, torch.Generator("cuda").manual_seed(0))
    assert drawn.device.type == "cuda" and drawn.isfinite().all()


def test_autocast_does_not_round_poses(model: HandModel) -> None:
    pose = random_pose(2)
    expected = model.pose_from_angles(pose[:, 1:], pose[:, 0])
    drawn = sample_pose(4, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.pose_from_angles(pose[:, 1:], pose[:, 0]), expected)
        assert torch.equal(sample_pose(4, torch.Generator().manual_seed(0)), drawn)


@pytest.mark.parametrize("name", SHAPE_NAMES[:7])
def test_lengths_grow_by_what_one_unit_says(model: HandModel, name: str) -> None:
    """The size by 5 %, all fingers by 4 %, or one finger by 3 mm; only the size changes the palm."""
    (plain, rest), (vertices, joints) = shaped(model, "size", 0.0), shaped(model, name)
    expected = finger_lengths(rest)
    if name == "size":
        expected = 1.05 * expected
        assert torch.allclose(vertices, 1.05 * plain, atol=1e-8)
    elif name == "finger_length":
        expected = 1.04 * expected
    else:
        expected[FINGERS.index(name.removesuffix("_length"))] += 0.003
    assert torch.allclose(finger_lengths(joints), expected, atol=2e-4)
    assert name == "size" or torch.allclose(joints[1::4], rest[1::4], atol=2e-4)


@pytest.mark.parametrize("name, factor", [("palm_width", 1.04), ("palm_thickness", 1.06), ("finger_thickness", 1.06)])
def test_breadths_grow_and_lengths_stay(model: HandModel, name: str, factor: float) -> None:
    from shape_space import palm_axes

    (plain, rest), (vertices, joints) = shaped(model, "size", 0.0), shaped(model, name)
    assert torch.allclose(finger_lengths(joints), finger_lengths(rest), atol=5e-4)
    if name == "finger_thickness":
        bones = [
            (model.skin_weights[:, base + 1] > 0.8, rest[[JOINT_ORDER.index(base + 1), JOINT_ORDER.index(base + 2)]])
            for base in BASES.values()
        ]
        for skin, (start, end) in bones:
            axis = torch.nn.functional.normalize(end - start, dim=0)
            offsets = torch.stack([plain[skin], vertices[skin]]) - start
            radius = torch.linalg.cross(offsets, axis.expand_as(offsets)).norm(dim=-1).mean(dim=1)
            assert float(radius[1] / radius[0]) == pytest.approx(factor, abs=0.01)
    else:
        axes = [torch.from_numpy(axis) for axis in palm_axes(rest[np.argsort(JOINT_ORDER)[:16]].numpy())]
        along, other = axes if name == "palm_width" else axes[::-1]
        palm = model.skin_weights[:, 0] > 0.97
        breadth = {axis: (vertices[palm] @ axis).std() / (plain[palm] @ axis).std() for axis in (along, other)}
        assert float(breadth[along]) == pytest.approx(factor, abs=0.01)
        assert float(breadth[other]) == pytest.approx(1, abs=1e-3)


def test_joint_regressor_is_local_and_follows_the_bones(model: HandModel) -> None:
    from shape_space import UNIT, Directions
    from texalign._internal import hand_asset

    assert tuple(UNIT) == SHAPE_NAMES
    asset = hand_asset()
    vertices, weights, joints = (asset[key].astype(np.float64) for key in ("vertices", "weights", "joints"))
    regressor = asset["joint_regressor"].astype(np.float64)
    assert np.abs(regressor @ vertices - joints).max() < 1e-6
    assert np.abs(regressor.sum(axis=1) - 1).max() < 1e-6 and regressor.min() >= 0
    used = regressor > 1e-6
    assert used.sum(axis=1).max() <= 40
    assert np.linalg.norm(joints[:, None] - vertices, axis=2)[used].max() < 0.06
    moved = Directions(vertices, weights, joints).all()[1]
    regressed = np.einsum("jv,vck->jck", regressor, asset["shape_directions"])
    assert np.linalg.norm(regressed - moved, axis=1).max() < 2e-4  # 0.2 mm for one unit


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_no_self_intersection_within_two_units(model: HandModel, name: str) -> None:
    from mesh_quality import self_intersections

    for value in (-2.0, 2.0):
        assert self_intersections(shaped(model, name, value)[0].numpy(), model.faces.numpy()) == 0


@pytest.mark.parametrize("tips", [TIP_VERTICES, (745, 317, 444, 556, 673)], ids=["smplx", "manotorch"])
def test_tip_ids_are_at_the_fingertips(model: HandModel, tips: tuple[int, ...]) -> None:
    for tip, last in zip(tips, (base + 2 for base in BASES.values())):
        distal = model.vertices[model.skin_weights.argmax(1) == last]
        bone = torch.nn.functional.normalize(distal.mean(0) - model.joint_regressor[last] @ model.vertices, dim=0)
        assert model.skin_weights[tip].argmax() == last
        assert (distal @ bone).max() - model.vertices[tip] @ bone < 0.006


def test_joint_frames_are_right_handed_and_flex_towards_the_palm(model: HandModel) -> None:
    axes = model.joint_axes
    assert torch.allclose(axes @ axes.mT, torch.eye(3).expand(15, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.cross(axes[:, 0], axes[:, 1]), axes[:, 2], atol=1e-6)
    rest = model(torch.zeros(1, 16, 3)).joints[0]

    def move(finger: str, joint: int, axis: int) -> Tensor:
        """Where the finger's tip goes."""
        angles = torch.zeros(1, 15, 3)
        angles[0, joint - 1, axis] = 0.3
        tip = JOINT_NAMES.index(f"{finger}_tip")
        return model(model.pose_from_angles(angles, torch.zeros(1, 3))).joints[0, tip] - rest[tip]

    for finger, base in BASES.items():
        flexed, aside = [move(finger, joint, 0) for joint in range(base, base + 3)], move(finger, base, 1)
        if finger == "thumb":  # across the palm: towards the little finger's base
            across = rest[JOINT_NAMES.index("little_1")] - rest[JOINT_NAMES.index("thumb_tip")]
            assert min(moved @ across for moved in flexed) > 0
        else:
            assert all(moved[1] < -0.8 * moved.norm() for moved in flexed)  # the palm faces -y
        # Fingers towards the thumb's side, the thumb away from the palm.
        assert (-aside[1] if finger == "thumb" else aside[2]) > 0.6 * aside.norm()


def angles_of(model: HandModel, pose: Tensor) -> Tensor:
    """Flexion, abduction, twist (B, 15, 3) of poses (B, 16, 3)."""
    return parameters_of_pose(model, pose, torch.zeros(len(pose), 3)).angles


def test_angles_come_back_from_the_pose(model: HandModel) -> None:
    angles = 0.4 * torch.randn(5, 15, 3, generator=torch.Generator().manual_seed(5))
    pose = rotation_vectors(model.pose_from_angles(angles, torch.zeros(5, 3)))
    assert torch.allclose(angles_of(model, pose), angles, atol=1e-5)


@pytest.mark.parametrize("kind", [*POSE_KINDS, None])
def test_sampled_poses_are_plausible(model: HandModel, kind: str | None) -> None:
    pose = sample_pose(200, torch.Generator().manual_seed(0), kind)
    assert pose.shape == (200, 16, 3) and pose.dtype == torch.float32 and pose.isfinite().all()
    angles, (low, high) = angles_of(model, pose), model.angle_limits.unbind(-1)
    assert (angles >= low - 1e-3).all() and (angles <= high + 1e-3).all()
    joints = model(pose).joints
    reach = (joints[:, 8::4] - joints[:, :1]).norm(dim=-1)
    if kind == "fist":
        assert reach.mean() < 0.1
    elif kind in ("open", "spread"):
        assert reach.mean() > 0.15
        fan = joints[:, 8:21:12] - joints[:, 5:18:12]  # index and little finger
        spread = torch.nn.functional.cosine_similarity(fan[:, 0], fan[:, 1], dim=-1).clamp(-1, 1).acos().mean()
        assert spread > 0.5 if kind == "spread" else spread < 0.4
    elif kind == "pinch":
        assert (joints[:, 4] - joints[:, 8]).norm(dim=-1).median() < 0.015
    elif kind == "pointing":
        assert (reach[:, 0] > 0.15).all() and (reach[:, 1:] < 0.12).all()
    # Fingers are 15 to 20 mm thick, and bones of two of them, but for the fingertips, stay apart.
    middle, last, tip = joints[:, 1:].unflatten(1, (5, 4))[:, :, 1:].unbind(2)
    bones = torch.stack([torch.lerp(middle, last, share) for share in (0.0, 0.5, 1.0)] + [(last + tip) / 2], dim=2)
    gaps = [torch.cdist(bones[:, one], bones[:, other]).flatten(1).amin(1) for one, other in combinations(range(5), 2)]
    nearest = torch.stack(gaps).amin(dim=0)
    assert nearest.mean() > 0.012 and nearest.min() > 0.002


def test_in_gestures_every_finger_is_posed_for_itself(model: HandModel) -> None:
    pose = sample_pose(2000, torch.Generator().manual_seed(0), "gesture")
    correlation = torch.corrcoef(angles_of(model, pose)[:, ::3, 0].T)
    assert (correlation - torch.eye(5)).abs().max() < 0.25
    tips = (model(pose).joints[:, 8::4] - model(pose).joints[:, :1]).norm(dim=-1)
    out, curled = tips > 0.14, tips < 0.115
    # Index and little finger out, the two between them curled, and the like: any such hand is drawn.
    for wanted in ((1, 0, 0, 1), (0, 0, 0, 1), (1, 1, 0, 0), (0, 1, 1, 1)):
        as_wanted = torch.where(torch.tensor(wanted) == 1, out, curled).all(dim=1)
        assert 0.003 < as_wanted.float().mean() < 0.1, wanted
    # Otherwise they bend together.
    flexion = angles_of(model, sample_pose(1000, torch.Generator().manual_seed(1)))[..., 0]
    correlation = torch.corrcoef(flexion.T)
    assert correlation[4, 5] > 0.95  # last and second joint of the middle finger
    assert correlation[3, 9] > 0.6  # knuckles of middle and ring finger


def test_same_seed_same_poses() -> None:
    first, again, other = (sample_pose(8, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert sample_pose(0).shape == (0, 16, 3)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(sample_pose(8, torch.Generator().manual_seed(7)), first)
    finally:
        torch.set_default_dtype(torch.float32)


def test_camera_sees_palm_back_and_sides_alike() -> None:
    orientation = rotation_matrices(sample_pose(4000, torch.Generator().manual_seed(0))[:, 0])
    fingers, palm, thumb = -orientation.unbind(-1)[0], -orientation.unbind(-1)[1], orientation.unbind(-1)[2]
    # Tolerances are five standard deviations of a share of 4000.
    for side in (palm, thumb):  # towards the camera as often as away
        assert (side[:, 2] < 0).float().mean() == pytest.approx(0.5, abs=0.04)
    assert 0.3 < (palm[:, 2].abs() < 0.6).float().mean() < 0.55
    assert 0.7 < (fingers[:, 1] < 0).float().mean() < 0.95 and fingers[:, 1].max() > 0.7


def test_sample_pose_errors() -> None:
    with pytest.raises(ValueError, match="kind out of open, relaxed, pointing, fist, pinch, spread, gesture, got wave"):
        sample_pose(1, kind="wave")
    with pytest.raises(ValueError, match="sample_pose: expected count of 0 or more, got -1"):
        sample_pose(-1)

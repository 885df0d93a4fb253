from __future__ import annotations

import copy
import math
import sys
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


def reference_rotation(vector: np.ndarray) -> np.ndarray:
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def reference_skinning(model: HandModel, pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Linear blend skinning of one hand as the book has it: 4x4 transforms, one vertex at a time."""
    template, directions, regressor, weights = (
        buffer.double().numpy()
        for buffer in (model.vertices, model.shape_directions, model.joint_regressor, model.skin_weights)
    )
    rest = template + directions @ betas
    joints = regressor @ rest
    world: list[np.ndarray] = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = reference_rotation(pose[joint])
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    posed = np.zeros_like(rest)
    for vertex, point in enumerate(rest):
        for joint in range(16):
            to_joint = np.append(point - joints[joint], 1.0)
            posed[vertex] += weights[vertex, joint] * (world[joint] @ to_joint)[:3]
    return posed


def test_skinning_matches_a_plain_reference(model: HandModel) -> None:
    pose = random_pose(2, 0.7, torch.float64)
    betas = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vertices = model(pose, betas).vertices.numpy()
    for sample in range(2):
        reference = reference_skinning(model, pose[sample].numpy(), betas[sample].numpy())
        assert np.abs(vertices[sample] - reference).max() < 1e-12
    single = model(pose.float(), betas.float()).vertices.double().numpy()
    assert np.abs(single - vertices).max() < 1e-6


def test_rest_pose_is_the_template(model: HandModel) -> None:
    hand = model(torch.zeros(3, 16, 3))
    # Single precision is 1.5e-8 m at 0.2 m, and some dozens of roundings add up.
    assert torch.allclose(hand.vertices, model.vertices.expand(3, -1, -1), atol=1e-6)
    assert hand.joints.shape == (3, 21, 3)
    assert hand.joints[:, 0].abs().max() < 1e-6  # the wrist is the origin
    assert torch.equal(hand.joints[0, 4::4], hand.vertices[0, list(TIP_VERTICES)])


def test_names_and_order(model: HandModel) -> None:
    assert len(JOINT_NAMES) == len(JOINT_ORDER) == 21 and len(POSE_JOINT_NAMES) == len(PARENTS) == 16
    assert sorted(JOINT_ORDER) == list(range(21))
    for name, source in zip(JOINT_NAMES, JOINT_ORDER):
        assert name.endswith("_tip") if source >= 16 else name == POSE_JOINT_NAMES[source]
    assert model.parents.tolist() == list(PARENTS)
    assert not list(model.parameters()) and not model.state_dict()


def test_joints_alone_are_the_hands_joints(model: HandModel) -> None:
    """Values and gradients, shaped or not, and in half precision, where both are computed in float32."""
    pose = random_pose(3, dtype=torch.float64).requires_grad_()
    betas = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    downstream = torch.randn(3, 21, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole, alone = model(pose, betas).joints, model.joints(pose, betas)
    torch.testing.assert_close(alone, whole, atol=1e-15, rtol=1e-12)
    gradients = [torch.autograd.grad((joints * downstream).sum(), (pose, betas)) for joints in (alone, whole)]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(model.joints(rotation_matrices(pose)), model(pose).joints, atol=1e-15, rtol=1e-12)
    half = pose.detach().bfloat16()
    assert torch.equal(model.joints(half), model(half).joints) and model.joints(half).dtype == torch.bfloat16
    assert model.joints(pose[:0]).shape == (0, 21, 3)
    with pytest.raises(ValueError, match="betas"):
        model.joints(pose, betas[:2])


def test_axis_angle_equals_rotation_matrices(model: HandModel) -> None:
    pose = random_pose(4, 1.0)
    matrices = rotation_matrices(pose)
    assert torch.allclose(model(pose).vertices, model(matrices).vertices, atol=1e-6)
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(4, 16, 3, 3), atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-5, 1e-3, 0.0099, 0.01, 1.0, 3.0, math.pi - 1e-7])
def test_rotation_vectors_invert_rotation_matrices(angle: float) -> None:
    axes = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    vectors = angle * torch.nn.functional.normalize(axes, dim=-1)
    assert torch.allclose(rotation_vectors(rotation_matrices(vectors)), vectors, atol=1e-9)
    expected = torch.linalg.matrix_exp(skew(vectors))
    assert torch.allclose(rotation_matrices(vectors), expected, atol=1e-12)


def skew(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_hand_on_cuda(model: HandModel) -> None:
    pose, on_cuda = random_pose(2), copy.deepcopy(model).cuda()
    assert torch.allclose(model(pose).vertices, on_cuda(pose.cuda()).vertices.cpu(), atol=1e-6)
    drawn = sample_pose(3, torch.Generator("cuda").manual_seed(0))
    assert drawn.device.type == "cuda" and drawn.isfinite().all()


def test_pose_from_angles_gradients(model: HandModel) -> None:
    zeros = [torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True) for shape in ((15, 3), (3,))]
    assert torch.autograd.gradcheck(model.pose_from_angles, zeros)


def test_global_orientation_turns_about_the_wrist(model: HandModel) -> None:
    pose, betas = random_pose(2), torch.full((2, 10), 1.0)
    rest = pose.clone()
    rest[:, 0] = 0
    turned, plain = model(pose, betas), model(rest, betas)
    wrist = plain.joints[:, :1]
    expected = (plain.vertices - wrist) @ rotation_matrices(pose[:, 0]).mT + wrist
    assert torch.allclose(turned.vertices, expected, atol=1e-6)


def test_autocast_does_not_round_poses(model: HandModel) -> None:
    pose = random_pose(2)
    expected = model.pose_from_angles(pose[:, 1:], pose[:, 0])
    drawn = sample_pose(4, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.pose_from_angles(pose[:, 1:], pose[:, 0]), expected)
        assert torch.equal(sample_pose(4, torch.Generator().manual_seed(0)), drawn)


def test_betas_act_linearly(model: HandModel) -> None:
    rest = torch.zeros(1, 16, 3, dtype=torch.float64)
    betas = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    plain, once, twice = (model(rest, scale * betas) for scale in (0.0, 1.0, 2.0))
    for part in range(2):
        assert torch.allclose(twice[part] - plain[part], 2 * (once[part] - plain[part]), atol=1e-12)


def test_size_scales_everything_about_the_wrist(model: HandModel) -> None:
    vertices, joints = shaped(model, "size")
    assert torch.allclose(vertices, 1.05 * model.vertices.double(), atol=1e-8)
    assert torch.allclose(finger_lengths(joints), 1.05 * finger_lengths(shaped(model, "size", 0.0)[1]), atol=1e-4)


def test_finger_length_stretches_all_fingers_and_not_the_palm(model: HandModel) -> None:
    (_, rest), (_, joints) = shaped(model, "size", 0.0), shaped(model, "finger_length")
    assert torch.allclose(finger_lengths(joints) / finger_lengths(rest), torch.tensor(1.04).double(), atol=2e-3)
    assert torch.allclose(joints[1::4], rest[1::4], atol=2e-4)


@pytest.mark.parametrize("finger", FINGERS)
def test_each_finger_grows_three_millimetres_alone(model: HandModel, finger: str) -> None:
    (_, rest), (_, joints) = shaped(model, "size", 0.0), shaped(model, f"{finger}_length")
    grown = finger_lengths(joints) - finger_lengths(rest)
    expected = torch.zeros(5).double()
    expected[FINGERS.index(finger)] = 0.003
    assert torch.allclose(grown, expected, atol=2e-4)


def test_finger_thickness(model: HandModel) -> None:
    (plain, rest), (vertices, joints) = shaped(model, "size", 0.0), shaped(model, "finger_thickness")
    assert torch.allclose(finger_lengths(joints), finger_lengths(rest), atol=5e-4)
    for base in BASES.values():
        middle = model.skin_weights[:, base + 1] > 0.8
        start, end = (rest[JOINT_ORDER.index(joint)] for joint in (base + 1, base + 2))
        axis = (end - start) / (end - start).norm()
        before, after = (
            torch.linalg.cross(points[middle] - start, axis.expand_as(points[middle])).norm(dim=-1).mean().item()
            for points in (plain, vertices)
        )
        assert after / before == pytest.approx(1.06, abs=0.01)


def test_palm_width_and_thickness(model: HandModel) -> None:
    from shape_space import palm_axes

    plain, rest = shaped(model, "size", 0.0)
    across, outwards = (torch.from_numpy(axis) for axis in palm_axes(rest[list(np.argsort(JOINT_ORDER)[:16])].numpy()))
    palm = model.skin_weights[:, 0] > 0.97
    for name, axis, other, factor in (
        ("palm_width", across, outwards, 1.04),
        ("palm_thickness", outwards, across, 1.06),
    ):
        vertices, joints = shaped(model, name)
        assert ((vertices[palm] @ axis).std() / (plain[palm] @ axis).std()).item() == pytest.approx(factor, abs=0.01)
        assert ((vertices[palm] @ other).std() / (plain[palm] @ other).std()).item() == pytest.approx(1, abs=1e-3)
        assert torch.allclose(finger_lengths(joints), finger_lengths(rest), atol=2e-4)
    knuckles = [abs(float((joints[5] - joints[17]) @ across)) for joints in (rest, shaped(model, "palm_width")[1])]
    assert knuckles[1] / knuckles[0] == pytest.approx(1.04, abs=0.005)


def test_joint_regressor_is_sparse_local_and_exact(model: HandModel) -> None:
    from texalign._internal import hand_asset as _arrays

    regressor, joints = model.joint_regressor.double(), torch.from_numpy(_arrays()["joints"]).double()
    assert (regressor @ model.vertices.double() - joints).abs().max() < 1e-6
    assert (regressor.sum(1) - 1).abs().max() < 1e-6 and regressor.min() >= 0
    used = regressor > 1e-6
    assert used.sum(1).max() <= 40
    distance = torch.cdist(joints, model.vertices.double())
    assert distance[used].max() < 0.06


def test_regressed_joints_follow_the_bones(model: HandModel) -> None:
    from shape_space import UNIT, Directions
    from texalign._internal import hand_asset as _arrays

    assert tuple(UNIT) == SHAPE_NAMES
    hand = _arrays()
    moved = Directions(*(hand[key].astype(np.float64) for key in ("vertices", "weights", "joints"))).all()[1]
    regressed = np.einsum("jv,vck->jck", hand["joint_regressor"], hand["shape_directions"])
    assert np.linalg.norm(regressed - moved, axis=1).max() < 2e-4  # 0.2 mm for one unit


def self_intersections(vertices: np.ndarray, faces: np.ndarray) -> int:
    """Number of (edge, face) pairs that cross and share no vertex: Moeller-Trumbore behind a bounding-box test."""
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    ends, corners = vertices[edges], vertices[faces]
    near = np.ones((len(edges), len(faces)), dtype=bool)
    for axis in range(3):
        near &= ends[..., axis].min(1)[:, None] <= corners[..., axis].max(1)
        near &= ends[..., axis].max(1)[:, None] >= corners[..., axis].min(1)
    edge, face = near.nonzero()
    strangers = (edges[edge][:, :, None] != faces[face][:, None]).all(axis=(1, 2))
    edge, face = edge[strangers], face[strangers]
    origin, ray = ends[edge, 0], ends[edge, 1] - ends[edge, 0]
    first, second = corners[face, 1] - corners[face, 0], corners[face, 2] - corners[face, 0]
    normal = np.cross(ray, second)
    determinant = (first * normal).sum(1)
    determinant = np.where(np.abs(determinant) < 1e-18, np.inf, determinant)
    offset = origin - corners[face, 0]
    u = (offset * normal).sum(1) / determinant
    other = np.cross(offset, first)
    v = (ray * other).sum(1) / determinant
    t = (second * other).sum(1) / determinant
    return int(((u > 0) & (v > 0) & (u + v < 1) & (t > 0) & (t < 1)).sum())


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_no_self_intersection_within_two_units(model: HandModel, name: str) -> None:
    for value in (-2.0, 2.0):
        assert self_intersections(shaped(model, name, value)[0].numpy(), model.faces.numpy()) == 0


@pytest.mark.parametrize("tips", [TIP_VERTICES, (745, 317, 444, 556, 673)], ids=["smplx", "manotorch"])
def test_tip_ids_are_at_the_fingertips(model: HandModel, tips: tuple[int, ...]) -> None:
    joints = model(torch.zeros(1, 16, 3)).joints[0]
    for tip, (finger, base) in zip(tips, BASES.items()):
        distal = model.vertices[model.skin_weights.argmax(1) == base + 2]
        joint = joints[JOINT_ORDER.index(base + 2)]
        bone = torch.nn.functional.normalize(distal.mean(0) - joint, dim=0)
        assert model.skin_weights[tip].argmax() == base + 2, finger
        assert (distal @ bone).max() - model.vertices[tip] @ bone < 0.006, finger


def test_joint_frames_are_right_handed_and_flex_towards_the_palm(model: HandModel) -> None:
    axes = model.joint_axes
    assert torch.allclose(axes @ axes.mT, torch.eye(3).expand(15, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.cross(axes[:, 0], axes[:, 1]), axes[:, 2], atol=1e-6)
    rest = model(torch.zeros(1, 16, 3)).joints[0]
    for finger, base in BASES.items():
        tip = JOINT_NAMES.index(f"{finger}_tip")
        for joint in range(base, base + 3):
            angles = torch.zeros(1, 15, 3)
            angles[0, joint - 1, 0] = 0.4
            moved = model(model.pose_from_angles(angles, torch.zeros(1, 3))).joints[0, tip] - rest[tip]
            if finger == "thumb":  # across the palm: towards the little finger's base
                assert moved @ (rest[JOINT_NAMES.index("little_1")] - rest[tip]) > 0
            else:
                assert moved[1] < -0.8 * moved.norm()  # the palm faces -y
        angles = torch.zeros(1, 15, 3)
        angles[0, base - 1, 1] = 0.2
        moved = model(model.pose_from_angles(angles, torch.zeros(1, 3))).joints[0, tip] - rest[tip]
        # Fingers towards the thumb's side, the thumb away from the palm.
        assert (-moved[1] if finger == "thumb" else moved[2]) > 0.6 * moved.norm()


def angles_of(model: HandModel, pose: Tensor) -> Tensor:
    """Flexion, abduction, twist (B, 15, 3) of poses (B, 16, 3)."""
    return parameters_of_pose(model, pose, torch.zeros(len(pose), 3)).angles


def test_angles_come_back_from_the_pose(model: HandModel) -> None:
    angles = 0.4 * torch.randn(5, 15, 3, generator=torch.Generator().manual_seed(5))
    pose = rotation_vectors(model.pose_from_angles(angles, torch.zeros(5, 3)))
    assert torch.allclose(angles_of(model, pose), angles, atol=1e-5)


@pytest.mark.parametrize("kind", [*POSE_KINDS, None])
def test_sampled_poses_are_plausible(model: HandModel, kind: str | None) -> None:
    pose = sample_pose(500, torch.Generator().manual_seed(0), kind)
    assert pose.shape == (500, 16, 3) and pose.dtype == torch.float32 and pose.isfinite().all()
    angles, (low, high) = angles_of(model, pose), model.angle_limits.unbind(-1)
    assert (angles >= low - 1e-3).all() and (angles <= high + 1e-3).all()
    tips = model(pose).joints[:, 8::4] - model(pose).joints[:, :1]
    reach = tips.norm(dim=-1).mean()
    if kind == "fist":
        assert reach < 0.1
    if kind in ("open", "spread"):
        assert reach > 0.15


def test_pinching_fingers_meet_and_pointing_points(model: HandModel) -> None:
    joints = model(sample_pose(200, torch.Generator().manual_seed(0), "pinch")).joints
    assert (joints[:, 4] - joints[:, 8]).norm(dim=-1).median() < 0.015
    joints = model(sample_pose(200, torch.Generator().manual_seed(0), "pointing")).joints
    reach = (joints[:, 8::4] - joints[:, :1]).norm(dim=-1)
    assert (reach[:, 0] > 0.15).all() and (reach[:, 1:] < 0.12).all()


def test_spread_hands_fan_out(model: HandModel) -> None:
    poses = [sample_pose(300, torch.Generator().manual_seed(0), kind) for kind in ("spread", "open")]
    spread, straight = (angles_of(model, pose)[..., 1].mean(0) for pose in poses)
    fan = [(spread - straight)[BASES[finger] - 1].item() for finger in ("index", "middle", "ring", "little")]
    assert fan == sorted(fan, reverse=True) and fan[0] - fan[-1] > 0.3


def winding_numbers(points: Tensor, triangles: Tensor) -> Tensor:
    """How often a surface (F, 3, 3) winds about each point (N,): its solid angle over 4 pi (Van Oosterom, Strackee)."""
    a, b, c = (triangles[None, :, corner] - points[:, None] for corner in range(3))
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    volume = (a * torch.linalg.cross(b, c)).sum(-1)
    scale = la * lb * lc + (a * b).sum(-1) * lc + (a * c).sum(-1) * lb + (b * c).sum(-1) * la
    return torch.atan2(volume, scale).sum(1) / (2 * math.pi)


def deepest_contact(model: HandModel, vertices: Tensor) -> float:
    """Metres by which the skin of one finger is inside another one, at most."""
    finger_of_joint = torch.tensor([-1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 3, 3, 3, 0, 0, 0])
    finger = finger_of_joint[model.skin_weights.argmax(1)]
    finger[model.skin_weights[:, 0] > 0.15] = -1
    of_faces = finger[model.faces].amin(1)
    deepest = 0.0
    for one in range(5):
        points = vertices[finger == one]
        for other in set(range(5)) - {one}:
            triangles = vertices[model.faces[of_faces == other]]
            inside = points[winding_numbers(points, triangles) > 0.5]
            if len(inside):
                skin = torch.cat([triangles.mean(1), triangles.flatten(0, 1)])
                deepest = max(deepest, torch.cdist(inside, skin).amin(1).max().item())
    return deepest


def test_fingers_hardly_pass_through_each_other(model: HandModel) -> None:
    depths = []
    for seed, kind in enumerate(POSE_KINDS + (None,) * 3):
        vertices = model(sample_pose(5, torch.Generator().manual_seed(seed), kind)).vertices
        depths += [deepest_contact(model, hand) for hand in vertices]
    assert max(depths) < 0.009  # a finger is 15 to 20 mm thick
    assert sum(depths) / len(depths) < 0.002


def test_in_gestures_every_finger_is_posed_for_itself(model: HandModel) -> None:
    pose = sample_pose(2000, torch.Generator().manual_seed(0), "gesture")
    flexion = angles_of(model, pose)[..., 0]
    correlation = torch.corrcoef(flexion[:, [0, 3, 6, 9, 12]].T)
    assert (correlation - torch.eye(5)).abs().max() < 0.25
    tips = (model(pose).joints[:, 8::4] - model(pose).joints[:, :1]).norm(dim=-1)
    out, curled = tips > 0.14, tips < 0.115
    # Index and little finger out, the two between them curled, and the like: any such hand is drawn, and not seldom.
    for wanted in ((1, 0, 0, 1), (0, 0, 0, 1), (1, 1, 0, 0), (0, 1, 1, 1)):
        as_wanted = torch.where(torch.tensor(wanted) == 1, out, curled).all(dim=1)
        assert 0.003 < as_wanted.float().mean() < 0.1, wanted


def test_flexions_are_correlated(model: HandModel) -> None:
    flexion = angles_of(model, sample_pose(1000, torch.Generator().manual_seed(1)))[..., 0]
    correlation = torch.corrcoef(flexion.T)
    assert correlation[4, 5] > 0.95  # last and second joint of the middle finger
    assert correlation[3, 9] > 0.6  # knuckles of middle and ring finger
    assert flexion[:, 5].mean() / flexion[:, 4].mean() == pytest.approx(2 / 3, abs=0.05)


def test_same_seed_same_poses() -> None:
    first, again, other = (sample_pose(8, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(3)
    plain = sample_pose(4)
    torch.manual_seed(3)
    assert torch.equal(plain, sample_pose(4))
    assert sample_pose(0).shape == (0, 16, 3)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(sample_pose(8, torch.Generator().manual_seed(7)), first)
    finally:
        torch.set_default_dtype(torch.float32)


def test_camera_sees_palm_back_and_sides_alike() -> None:
    # Tolerances are five standard deviations of a share of 4000.
    orientation = rotation_matrices(sample_pose(4000, torch.Generator().manual_seed(0))[:, 0])
    palm = orientation @ torch.tensor([0.0, -1.0, 0.0])
    assert (palm[:, 2] < 0).float().mean() == pytest.approx(0.5, abs=0.04)  # towards the camera
    assert (palm[:, 2] < -0.6).float().mean() == pytest.approx((palm[:, 2] > 0.6).float().mean().item(), abs=0.055)
    assert 0.3 < (palm[:, 2].abs() < 0.6).float().mean() < 0.55
    thumb_side = orientation @ torch.tensor([0.0, 0.0, 1.0])
    assert (thumb_side[:, 2] < 0).float().mean() == pytest.approx(0.5, abs=0.04)
    up = -(orientation @ torch.tensor([-1.0, 0.0, 0.0]))[:, 1]
    assert 0.7 < (up > 0).float().mean() < 0.95 and up.min() < -0.7


def test_sample_pose_errors() -> None:
    with pytest.raises(ValueError, match="kind out of open, relaxed, pointing, fist, pinch, spread, gesture, got wave"):
        sample_pose(1, kind="wave")
    with pytest.raises(ValueError, match="sample_pose: expected count of 0 or more, got -1"):
        sample_pose(-1)

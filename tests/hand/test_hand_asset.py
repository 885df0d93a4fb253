"""Acceptance of the packaged hand: its format, its mesh, its closeness to the source hand at rest and when posed.

The bounds say what the package promises, not what today's file happens to reach. Measured values are printed by
tools/hand_asset/build_hand.py.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "hand_asset"))

from generic_hand import FINGERS, cross_normals, joint_index, read_generic_hand  # noqa: E402
from mano_layout import TIP_VERTICES, read_mano_layout  # noqa: E402
from mesh_quality import measure_pose, measure_rest, poses  # noqa: E402

HAND_PATH = REPOSITORY / "src" / "texalign" / "assets" / "hand.npz"
SHAPES = {
    "vertices": ((778, 3), np.float32),
    "weights": ((778, 16), np.float32),
    "joints": ((16, 3), np.float32),
    "parents": ((16,), np.int32),
    "faces": ((1538, 3), np.int32),
    "uv": ((905, 2), np.float32),
    "uv_faces": ((1538, 3), np.int32),
    "shape_directions": ((778, 3, 10), np.float32),
    "joint_regressor": ((16, 778), np.float32),
}
# The source hand keeps these: nothing touches in them. In a fist the thumb may touch a finger.
FREE_POSES = ("index", "middle", "ring", "pinky", "spread")


@pytest.fixture(scope="module")
def hand():
    with np.load(HAND_PATH) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def source():
    return read_generic_hand()


def test_file_format(hand):
    for key, (shape, dtype) in SHAPES.items():
        assert hand[key].shape == shape, key
        assert hand[key].dtype == dtype, key
        assert np.isfinite(hand[key]).all(), key
    np.testing.assert_array_equal(hand["parents"], [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14])


def test_topology_is_the_layouts(hand):
    layout = read_mano_layout()
    np.testing.assert_array_equal(hand["faces"], layout.faces)
    np.testing.assert_array_equal(hand["uv_faces"], layout.uv_faces)
    np.testing.assert_allclose(hand["uv"], layout.uv * [1, -1] + [0, 1], atol=1e-6)
    assert hand["uv"].min() >= 0 and hand["uv"].max() <= 1
    # A corner's UV belongs to its vertex: no UV is used by two vertices.
    owner = np.full(905, -1)
    owner[hand["uv_faces"]] = hand["faces"]
    np.testing.assert_array_equal(owner[hand["uv_faces"]], hand["faces"])


def test_frame_and_handedness(hand):
    tips = {finger: hand["vertices"][list(TIP_VERTICES[finger])].mean(axis=0) for finger in FINGERS}
    for finger in ("index", "middle", "ring", "pinky"):
        assert tips[finger][0] < -0.12, finger
    assert tips["thumb"][2] > tips["index"][2] > tips["middle"][2] > tips["ring"][2] > tips["pinky"][2]
    # Outward normals of the palm's chart face -y on the whole, those of the back's chart +y.
    for chart, sign in zip(read_mano_layout().charts, (-1, 1)):
        normals = cross_normals(hand["vertices"], chart.vertex[chart.faces])
        total = normals.sum(axis=0) / np.linalg.norm(normals, axis=1).sum()
        assert sign * total[1] > 0.5


def test_joints_and_weights(hand, source):
    np.testing.assert_allclose(hand["joints"], source.joints, atol=1e-6)
    assert np.abs(hand["joints"][0]).max() == 0
    weights = hand["weights"]
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights > 0).sum(axis=1).max() <= 4


@pytest.mark.slow
def test_at_rest(hand, source):
    rest = measure_rest(hand, source)
    for name in ("flipped faces", "flipped faces, by position", "folded edges", "self-intersections"):
        assert rest[name] == 0, name
    assert rest["smallest angle"] >= 9.5
    assert rest["smallest angle, 1 %"] >= 12
    for way in ("surface to source", "source to surface"):
        assert rest[f"{way}, RMS"] <= 0.35
        assert rest[f"{way}, maximum"] <= 2.2
    for finger in FINGERS:
        for vertex in TIP_VERTICES[finger]:
            assert rest[f"tip vertex {vertex}"] <= 6, vertex
            assert hand["weights"][vertex].argmax() == joint_index(finger, 3), vertex


@pytest.mark.slow
@pytest.mark.parametrize("pose", [*FINGERS, "fist", "spread"])
def test_posed_like_the_source(hand, source, pose):
    measured = measure_pose(hand, source, poses(source)[pose])
    assert measured["surface to source, RMS"] <= 0.5
    assert measured["source to surface, RMS"] <= 0.5
    assert measured["smallest area ratio"] >= 0.1
    if pose in FREE_POSES:
        assert measured["self-intersections"] == 0

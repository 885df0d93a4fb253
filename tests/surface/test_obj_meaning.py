"""What an OBJ file means: the side of the hand, and a seam that is no wrist."""

from __future__ import annotations

import numpy as np
import pytest

import texalign as ta
from texalign._internal import hand_asset


def write(path, vertices, uv, faces, uv_faces):
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices] + [f"vt {u:.6f} {1 - v:.6f}" for u, v in uv]
    lines += ["f " + " ".join(f"{a + 1}/{b + 1}" for a, b in zip(*pair)) for pair in zip(faces, uv_faces)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def hand_arrays():
    hand = hand_asset()
    return [hand[name] for name in ("vertices", "uv", "faces", "uv_faces")]


def test_the_side_follows_from_the_winding_of_manos_faces(tmp_path, hand_arrays):
    vertices, uv, faces, uv_faces = hand_arrays
    right = write(tmp_path / "right.obj", *hand_arrays)
    left = write(tmp_path / "left.obj", vertices * [-1, 1, 1], uv, faces[:, ::-1], uv_faces[:, ::-1])
    assert ta.HandSurface.from_obj(right).is_right and not ta.HandSurface.from_obj(left).is_right
    assert ta.HandSurface.from_obj(right, is_right=True).is_right
    with pytest.raises(ValueError, match=r"left.obj: expected MANO's faces as a right hand's, got a left hand's"):
        ta.HandSurface.from_obj(left, is_right=True)
    with pytest.raises(ValueError, match=r"right.obj: expected MANO's faces as a left hand's, got a right hand's"):
        ta.HandSurface.from_obj(right, is_right=False)


def test_other_faces_are_of_the_side_that_is_said(tmp_path, hand_arrays):
    vertices, uv, faces, uv_faces = hand_arrays
    part = write(tmp_path / "part.obj", vertices, uv, faces[:700], uv_faces[:700])
    assert ta.HandSurface.from_obj(part).is_right
    assert not ta.HandSurface.from_obj(part, is_right=False).is_right


def test_a_mesh_that_is_split_at_its_seams_is_refused(tmp_path, hand_arrays):
    vertices, uv, faces, uv_faces = hand_arrays
    vertex = np.zeros(len(uv), dtype=int)
    vertex[uv_faces.reshape(-1)] = faces.reshape(-1)
    split = write(tmp_path / "split.obj", vertices[vertex], uv, uv_faces, uv_faces)
    expected = r"split.obj: expected one vertex for each point of the skin.*merge vertices.*got 127 of 268 boundary"
    with pytest.raises(ValueError, match=expected):
        ta.HandSurface.from_obj(split)

"""FreiHAND's table, and the files that the servers of FreiHAND and HO3D read."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from freihand_scores import freihand_scores
from prediction_files import write_freihand_predictions, write_ho3d_predictions

from metric_data import FREIHAND, hands
from texalign.hand import JOINT_NAMES, POSE_JOINT_NAMES


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_those_of_freihand_and_ho3d(dtype):
    """eval.py of FreiHAND (nearest points by a k-d tree) and of HO3D, which agree in all of these."""
    (joints, vertices), (true_joints, true_vertices) = hands()
    inputs = (tensor.to(dtype) for tensor in (joints, true_joints, vertices, true_vertices))
    scores = freihand_scores(*inputs)
    assert scores.keys() == FREIHAND.keys()
    for name, value in scores.items():
        assert value.shape == (8,) and value.dtype == dtype
        # In float32 a few distances may fall on the other side of a threshold; one vertex of 8 × 778 is 1.6e-4.
        counted = not name.endswith("_mm") and dtype == torch.float32
        assert value.mean().item() == pytest.approx(FREIHAND[name], rel=1e-5, abs=5e-4 if counted else None), name


def some_predictions(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    joints, vertices = (0.1 * torch.randn(3, number, 3, generator=generator) for number in (21, 778))
    place = torch.tensor([0.0, 0.0, 0.7])
    return (joints + place).to(dtype), (vertices + place).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_freihand_reads_what_was_predicted(tmp_path, dtype):
    joints, vertices = some_predictions(dtype)
    path = write_freihand_predictions(tmp_path / "pred.json", joints.requires_grad_(), vertices)
    assert path == tmp_path / "pred.json" and [each.name for each in tmp_path.iterdir()] == ["pred.json"]
    read = json.loads(path.read_text())
    assert len(read) == 2 and [len(part) for part in read] == [3, 3]
    for written, points_read in zip((joints, vertices), read):
        np.testing.assert_allclose(np.array(points_read), written.detach().double().numpy(), rtol=0, atol=5.1e-8)
    # 0.1 µm: seven decimals and not sixteen.
    assert max(len(number) for number in re.findall(r"\.(\d+)", path.read_text())) <= 7


def test_an_archive_holds_one_file(tmp_path):
    joints, vertices = some_predictions()
    plain = write_freihand_predictions(tmp_path / "mine.json", joints, vertices)
    packed = write_freihand_predictions(str(tmp_path / "mine.zip"), joints, vertices)
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["pred.json"]
        assert archive.read("pred.json") == plain.read_bytes()


def test_ho3d_reads_its_own_axes_and_joints(tmp_path):
    joints, vertices = some_predictions()
    before = joints.clone()
    path = write_ho3d_predictions(tmp_path / "pred.json", joints, vertices)
    assert torch.equal(joints, before)
    read_joints, read_vertices = (torch.tensor(part) for part in json.loads(path.read_text()))
    turn = torch.tensor([1.0, -1.0, -1.0])
    # The order that HaMeR's evaluation writes for HO3D.
    order = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
    torch.testing.assert_close(read_joints, joints[:, order] * turn, rtol=0, atol=1e-7)
    torch.testing.assert_close(read_vertices, vertices * turn, rtol=0, atol=1e-7)
    tips = [f"{finger}_tip" for finger in ("thumb", "index", "middle", "ring", "little")]
    assert [JOINT_NAMES[joint] for joint in order] == [*POSE_JOINT_NAMES, *tips]
    assert (read_joints[..., 2] < 0).all()  # in front of an OpenGL camera


@pytest.mark.parametrize("write", [write_freihand_predictions, write_ho3d_predictions])
def test_files_that_would_be_refused_are_not_written(write, tmp_path):
    joints, vertices = some_predictions()
    broken = vertices.clone()
    broken[2, 5, 1] = torch.nan
    mistakes = {
        "expected finite vertices, got 1 samples with others, the first number 2": (
            tmp_path / "a.json",
            joints,
            broken,
        ),
        "expected a path that ends in .json or .zip": (tmp_path / "a.txt", joints, vertices),
        r"expected joints \(N, 21, 3\), got \(3, 16, 3\)": (tmp_path / "a.json", joints[:, :16], vertices),
        r"expected vertices \(3, V, 3\), got \(2, 778, 3\)": (tmp_path / "a.json", joints, vertices[:2]),
    }
    for message, arguments in mistakes.items():
        with pytest.raises(ValueError, match=message):
            write(*arguments)
    assert not list(tmp_path.iterdir())

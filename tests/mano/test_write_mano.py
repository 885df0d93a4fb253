from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import smplx
import torch

from texalign.hand import JOINT_ORDER, HandModel, sample_pose
from texalign.mano import write_mano

SHAPES = dict(hands_components=(45, 45), hands_mean=(45,), hands_coeffs=(1554, 45), kintree_table=(2, 16), f=(1538, 3))
SHAPES |= dict(J=(16, 3), J_regressor=(16, 778), v_template=(778, 3), shapedirs=(778, 3, 10), posedirs=(778, 3, 135))
SHAPES |= dict(weights=(778, 16))
DTYPES = dict(kintree_table=np.int64, f=np.uint32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    for suffix in (".pkl", ".npz"):
        write_mano(folder / f"MANO_RIGHT{suffix}")
        write_mano(folder / f"MANO_LEFT{suffix}", side="left")
    return folder


def read(path):
    if path.suffix == ".npz":
        with np.load(path) as archive:  # without pickled objects
            return dict(archive)
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")


@pytest.mark.parametrize("name", ["MANO_RIGHT.pkl", "MANO_LEFT.npz"])
def test_keys_shapes_and_dtypes(folder, name):
    fields = read(folder / name)
    assert set(fields) == {*SHAPES, "bs_style", "bs_type"}
    for key, shape in SHAPES.items():
        assert fields[key].shape == shape and fields[key].dtype == DTYPES.get(key, np.float64), key
    assert (str(fields["bs_style"]), str(fields["bs_type"])) == ("lbs", "lrotmin")
    assert fields["kintree_table"][0].tolist() == [2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
    if name.endswith("pkl"):
        assert type(fields["J_regressor"]).__name__ == "csc_matrix"
    components = fields["hands_components"]
    assert np.allclose(components @ components.T, np.eye(45), atol=1e-10)
    poses = fields["hands_coeffs"] @ components + fields["hands_mean"]
    expected = sample_pose(1554, torch.Generator().manual_seed(0))[:, 1:].numpy()
    mirror = np.array([1.0, 1.0, 1.0]) if "RIGHT" in name else np.array([1.0, -1.0, -1.0])
    assert np.allclose(poses.reshape(-1, 15, 3), expected * mirror, atol=1e-6)
    assert np.allclose(fields["J_regressor"] @ fields["v_template"], fields["J"])
    assert not fields["posedirs"].any()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_smplx_poses_it_like_the_hand_model(folder, side, suffix):
    made = dict(is_rhand=side == "right", ext=suffix)
    layer = smplx.MANO(str(folder), **made, use_pca=False, flat_hand_mean=True, batch_size=6)
    generator = torch.Generator().manual_seed(0)
    pose, betas = sample_pose(6, generator), torch.randn(6, 10, generator=generator)
    hand = HandModel()(pose, betas)
    mirror = torch.tensor([1.0 if side == "right" else -1.0, 1.0, 1.0])
    turn = torch.stack([torch.ones(()), mirror[0], mirror[0]])
    output = layer(betas=betas, global_orient=pose[:, 0] * turn, hand_pose=(pose[:, 1:] * turn).flatten(1))
    assert (output.vertices - hand.vertices * mirror).abs().max() < 1e-5
    order = [JOINT_ORDER.index(joint) for joint in range(16)]
    assert (output.joints[:, :16] - hand.joints[:, order] * mirror).abs().max() < 1e-5
    triangles = HandModel().vertices[torch.from_numpy(layer.faces.astype(np.int64))] * mirror
    assert torch.linalg.det(triangles).sum() > 0  # the volume: faces look outwards on both hands
    # Principal components start from the relaxed hand.
    layer = smplx.MANO(str(folder), **made, use_pca=True, num_pca_comps=12, flat_hand_mean=False)
    mean = torch.from_numpy(read(folder / f"MANO_{side.upper()}.{suffix}")["hands_mean"]).float()
    relaxed = torch.cat([torch.zeros(3), mean]).reshape(1, 16, 3) * turn
    assert (layer().vertices - HandModel()(relaxed).vertices * mirror).abs().max() < 1e-5


def test_error_messages(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"write_mano: expected a path that ends in \.pkl or \.npz, got hand\.json"):
        write_mano(tmp_path / "hand.json")
    with pytest.raises(ValueError, match="write_mano: expected side 'right' or 'left', got 'up'"):
        write_mano(tmp_path / "hand.pkl", side="up")
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match=r"scipy is not installed: pip install 'texalign\[mano\]', or write an \.npz"):
        write_mano(tmp_path / "hand.pkl")
    assert not list(tmp_path.iterdir())
    assert write_mano(tmp_path / "hand.npz").exists()

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import smplx
import torch

import mano_files
import texalign as ta
from texalign import mano
from texalign.hand import JOINT_ORDER

try:
    from manotorch import manolayer
except ImportError as error:
    manolayer, reason = None, f"manotorch is not installed ({error})"
else:
    reason = ""
needs_manotorch = pytest.mark.skipif(manolayer is None, reason=reason)
SIDES = pytest.mark.parametrize("side", ["right", "left"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MANO_RIGHT.pkl and MANO_LEFT.pkl: the bundled hand with random pose directions, which it has not."""
    folder = tmp_path_factory.mktemp("mano")
    for side in ("right", "left"):
        model = mano.load(mano.write_mano(folder / "plain.npz", side=side))
        noise = np.random.default_rng(0).normal(size=model.pose_directions.shape) * 1e-3
        fields = replace(model, pose_directions=noise).fields()
        mano.write_mano_fields(folder / f"MANO_{side.upper()}.pkl", fields)
    return folder


@pytest.fixture
def path(folder, side):
    return folder / f"MANO_{side.upper()}.pkl"


def posed(count=45, batch=6):
    generator = torch.Generator().manual_seed(0)
    return 0.5 * torch.randn(batch, 3 + count, generator=generator), torch.randn(batch, 10, generator=generator)


@needs_manotorch
@SIDES
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "mean"])
@pytest.mark.parametrize("components", [None, 12], ids=["axis-angle", "pca"])
def test_equals_smplx(path, side, flat, components):
    options = dict(use_pca=components is not None, flat_hand_mean=flat)
    layer = mano.manotorch_layer(path, **options, ncomps=components or 15)
    assert type(layer) is manolayer.ManoLayer and layer.side == side
    pose, betas = posed(components or 45)
    ours = layer(pose, betas)
    other = smplx.MANO(str(path), is_rhand=side == "right", batch_size=6, **options, num_pca_comps=components or 6)
    theirs = other(betas=betas, global_orient=pose[:, :3], hand_pose=pose[:, 3:])
    assert (ours.verts - theirs.vertices).abs().max() < 1e-6
    order = torch.tensor([JOINT_ORDER.index(joint) for joint in range(16)])
    assert (ours.joints[:, order] - theirs.joints[:, :16]).abs().max() < 1e-6


@needs_manotorch
@SIDES
def test_a_file_with_chumpy_in_it(tmp_path, path, side, surface):
    genuine = tmp_path / path.name
    genuine.write_bytes(mano_files.pickled(mano_files.typed(mano.load(path).fields()), 2, python=2))
    before = set(sys.modules)
    layer = mano.manotorch_layer(genuine)
    assert not {name for name in set(sys.modules) - before if name.startswith("chumpy")}
    pose, betas = posed()
    assert torch.equal(layer(pose, betas).verts, mano.manotorch_layer(path)(pose, betas).verts)
    made = ta.HandSurface.from_layer(layer)
    assert made.is_right == (side == "right") and made.atlas_id == surface.atlas_id


@needs_manotorch
def test_many_threads_at_once_and_nothing_else_is_changed(folder):
    def state():
        return manolayer.ready_arguments, manolayer.ManoLayer.__init__, set(sys.modules), set(vars(np))

    before = state()
    paths = [folder / f"MANO_{side}.pkl" for side in ("RIGHT", "LEFT")] * 8
    with ThreadPoolExecutor(8) as pool:
        layers = list(pool.map(mano.manotorch_layer, paths))
    assert [layer.side for layer in layers] == ["right", "left"] * 8
    for layer in layers:
        assert torch.equal(layer.th_v_template, layers[layer.side == "left"].th_v_template)
    assert not torch.equal(layers[0].th_v_template, layers[1].th_v_template)
    assert state() == before


@needs_manotorch
def test_a_layer_like_any_other(folder):
    layer = mano.manotorch_layer(folder / "MANO_RIGHT.pkl", center_idx=9)
    pose, betas = posed()
    pose.requires_grad_()
    out = layer(pose, betas)
    assert out.joints[:, 9].abs().max() < 1e-7
    (gradient,) = torch.autograd.grad(out.verts.square().sum(), pose)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(pose, betas).verts, out.verts)


@needs_manotorch
def test_a_model_in_the_place_of_a_path(folder):
    good = mano.load(folder / "MANO_LEFT.pkl")
    bad = replace(good, shape_directions=good.shape_directions * np.array([-1.0, 1.0, 1.0])[:, None])
    pose, betas = posed()
    expected = mano.manotorch_layer(good)(pose, betas).verts
    assert torch.equal(mano.manotorch_layer(bad.with_left_shape_fixed())(pose, betas).verts, expected)
    assert (mano.manotorch_layer(bad)(pose, betas).verts - expected).abs().max() > 1e-3
    unknown = replace(good, side=None)
    with pytest.raises(ValueError, match=r"mano.manotorch_layer: expected side 'right' or 'left', got None"):
        mano.manotorch_layer(unknown)
    assert mano.manotorch_layer(unknown, side="left").side == "left"


@needs_manotorch
def test_another_manotorch_is_not_guessed_at(folder, monkeypatch):
    class Other(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()

    monkeypatch.setattr(manolayer, "ManoLayer", Other)
    with pytest.raises(ValueError, match="expected a manotorch that it knows"):
        mano.manotorch_layer(folder / "MANO_RIGHT.pkl")


def test_without_manotorch_the_command_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "manotorch", None)
    monkeypatch.setitem(sys.modules, "manotorch.manolayer", None)
    with pytest.raises(ImportError, match=r"manotorch is not installed: pip install git\+https://\S+manotorch\.git"):
        mano.manotorch_layer(folder / "MANO_RIGHT.pkl")


def test_what_is_missing_inside_manotorch_is_not_mistaken_for_it(folder, tmp_path, monkeypatch):
    (tmp_path / "manolayer.py").write_text("import a_package_that_is_missing")
    package = ModuleType("manotorch")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "manotorch", package)
    monkeypatch.delitem(sys.modules, "manotorch.manolayer", raising=False)
    with pytest.raises(ImportError, match="a_package_that_is_missing") as caught:
        mano.manotorch_layer(folder / "MANO_RIGHT.pkl")
    assert "pip install" not in str(caught.value)

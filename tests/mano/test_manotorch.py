from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import smplx
import torch

import mano_files
import texalign as ta
from texalign import mano
from texalign.hand import JOINT_ORDER
from texalign.mano import write_mano
from texalign.mano.layers import INSTALL_MANOTORCH

try:
    from manotorch import manolayer
except ImportError as error:
    manolayer, reason = None, f"manotorch is not installed ({error}): {INSTALL_MANOTORCH}"
else:
    reason = ""
needs_manotorch = pytest.mark.skipif(manolayer is None, reason=reason)
SIDES = pytest.mark.parametrize("side", ["right", "left"])
FLAT = pytest.mark.parametrize("flat", [True, False], ids=["flat", "mean"])


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """MANO_RIGHT.pkl and MANO_LEFT.pkl: the bundled hand with random pose directions, which it has not."""
    folder = tmp_path_factory.mktemp("mano")
    for side in ("right", "left"):
        model = mano.load(write_mano(folder / "plain.npz", side=side))
        noise = np.random.default_rng(0).normal(size=model.pose_directions.shape) * 1e-3
        fields = replace(model, pose_directions=noise).fields()
        mano.write_mano_fields(folder / f"MANO_{side.upper()}.pkl", fields)
    return folder


@pytest.fixture
def path(folder, side):
    return folder / f"MANO_{side.upper()}.pkl"


# Metres in float32: some hundred roundings of 3e-8, in sums of another order.
CLOSE = 1e-5


def posed(count=45, batch=6):
    generator = torch.Generator().manual_seed(0)
    return 0.5 * torch.randn(batch, 3 + count, generator=generator), torch.randn(batch, 10, generator=generator)


def smplx_layer(path, side, **options):
    return smplx.MANO(str(path), is_rhand=side == "right", batch_size=6, **options)


@needs_manotorch
@SIDES
@FLAT
def test_equals_smplx(path, side, flat):
    layer = mano.manotorch_layer(path, flat_hand_mean=flat)
    assert type(layer) is manolayer.ManoLayer and layer.side == side
    pose, betas = posed()
    ours = layer(pose, betas)
    theirs = smplx_layer(path, side, use_pca=False, flat_hand_mean=flat)(
        betas=betas, global_orient=pose[:, :3], hand_pose=pose[:, 3:]
    )
    assert (ours.verts - theirs.vertices).abs().max() < CLOSE
    order = torch.tensor([JOINT_ORDER.index(joint) for joint in range(16)])
    assert (ours.joints[:, order] - theirs.joints[:, :16]).abs().max() < CLOSE
    # Pose directions and the mean pose matter here.
    other = mano.manotorch_layer(path, flat_hand_mean=not flat)(pose, betas).verts
    assert (other - ours.verts).abs().max() > 1e-3


@needs_manotorch
@SIDES
@FLAT
def test_equals_smplx_in_principal_components(path, side, flat):
    layer = mano.manotorch_layer(path, use_pca=True, ncomps=12, flat_hand_mean=flat)
    pose, betas = posed(12)
    theirs = smplx_layer(path, side, use_pca=True, num_pca_comps=12, flat_hand_mean=flat)(
        betas=betas, global_orient=pose[:, :3], hand_pose=pose[:, 3:]
    )
    assert (layer(pose, betas).verts - theirs.vertices).abs().max() < CLOSE


@needs_manotorch
def test_equals_smplx_with_rotation_matrices(folder):
    """`smplx.MANOLayer` never adds the mean pose: it equals manotorch with the flat hand."""
    from texalign.hand import rotation_matrices

    pose, betas = posed()
    matrices = rotation_matrices(pose.reshape(-1, 16, 3))
    layer = smplx.MANOLayer(str(folder / "MANO_RIGHT.pkl"), is_rhand=True)
    theirs = layer(betas=betas, global_orient=matrices[:, :1], hand_pose=matrices[:, 1:])
    ours = mano.manotorch_layer(folder / "MANO_RIGHT.pkl")(pose, betas)
    assert (ours.verts - theirs.vertices).abs().max() < CLOSE


@needs_manotorch
@SIDES
def test_a_file_with_chumpy_in_it(tmp_path, path, side):
    fields = mano_files.typed(mano.load(path).fields())
    genuine = tmp_path / f"MANO_{side.upper()}.pkl"
    genuine.write_bytes(mano_files.pickled(fields, 2, python=2))
    before = set(sys.modules)
    layer = mano.manotorch_layer(genuine)
    assert not {name for name in set(sys.modules) - before if name.startswith("chumpy")}
    pose, betas = posed()
    assert torch.equal(layer(pose, betas).verts, mano.manotorch_layer(path)(pose, betas).verts)


@needs_manotorch
def test_nothing_else_is_changed(folder):
    wrapper = "mano.webuser.smpl_handpca_wrapper_HAND_only"
    before = (manolayer.ready_arguments, manolayer.ManoLayer.__init__, sys.modules[wrapper], dict(vars(np)))
    mano.manotorch_layer(folder / "MANO_RIGHT.pkl")
    after = (manolayer.ready_arguments, manolayer.ManoLayer.__init__, sys.modules[wrapper], dict(vars(np)))
    assert after[:3] == before[:3] and after[3].keys() == before[3].keys()
    assert manolayer.ready_arguments.__module__ == wrapper


@needs_manotorch
def test_many_threads_at_once(folder):
    paths = [folder / f"MANO_{side}.pkl" for side in ("RIGHT", "LEFT")] * 8
    with ThreadPoolExecutor(8) as pool:
        layers = list(pool.map(mano.manotorch_layer, paths))
    assert [layer.side for layer in layers] == ["right", "left"] * 8
    for layer in layers:
        assert torch.equal(layer.th_faces, layers[layer.side == "left"].th_faces)
        assert torch.equal(layer.th_v_template, layers[layer.side == "left"].th_v_template)
    assert not torch.equal(layers[0].th_v_template, layers[1].th_v_template)


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
    quaternions = mano.manotorch_layer(folder / "MANO_RIGHT.pkl", rot_mode="quat", center_idx=9)
    rest = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(6, 16)
    torch.testing.assert_close(quaternions(rest, betas).verts, layer(torch.zeros(6, 48), betas).verts)


@needs_manotorch
@SIDES
def test_surfaces_of_its_layers(path, side, surface):
    layer = mano.manotorch_layer(path)
    made = ta.HandSurface.from_layer(layer)
    assert made.is_right == (side == "right") and made.atlas_id == surface.atlas_id
    assert torch.equal(made.faces, ta.HandSurface.from_layer(mano.load(path)).faces)


@needs_manotorch
def test_a_model_with_the_left_hands_sign_put_right(folder):
    good = mano.load(folder / "MANO_LEFT.pkl")
    bad = replace(good, shape_directions=good.shape_directions * np.array([-1.0, 1.0, 1.0])[:, None])
    pose, betas = posed()
    expected = mano.manotorch_layer(good)(pose, betas).verts
    assert torch.equal(mano.manotorch_layer(bad.with_left_shape_fixed())(pose, betas).verts, expected)
    assert (mano.manotorch_layer(bad)(pose, betas).verts - expected).abs().max() > 1e-3


@needs_manotorch
def test_a_side_that_cannot_be_told_must_be_given(folder):
    model = replace(mano.load(folder / "MANO_LEFT.pkl"), side=None)
    with pytest.raises(ValueError, match=r"mano.manotorch_layer: expected side 'right' or 'left', got None"):
        mano.manotorch_layer(model)
    assert mano.manotorch_layer(model, side="left").side == "left"


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
    package = tmp_path / "manotorch"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "manolayer.py").write_text("import a_package_that_is_missing")
    for name in [name for name in sys.modules if name.split(".")[0] == "manotorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="a_package_that_is_missing") as caught:
        mano.manotorch_layer(folder / "MANO_RIGHT.pkl")
    assert "pip install" not in str(caught.value)
    for name in [name for name in sys.modules if name.split(".")[0] == "manotorch"]:
        del sys.modules[name]

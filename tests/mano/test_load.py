from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch

import mano_files
from mano_files import archived, chumpy_to_pickle, pickled, small_fields, typed
from texalign import mano
from texalign.mano import write_mano

FIELDS = dict(template="v_template", shape_directions="shapedirs", pose_directions="posedirs", weights="weights")
FIELDS |= dict(joint_regressor="J_regressor", faces="f", hand_mean="hands_mean")
FIELDS |= dict(hand_components="hands_components", hand_coefficients="hands_coeffs")
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
FLIP = np.array([-1.0, 1.0, 1.0])[:, None]


@pytest.fixture
def file(tmp_path):
    """A function: bytes → a file of them."""

    def write(data, name="MANO_RIGHT.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The bundled hand, right and left, as `load` reads it."""
    folder = tmp_path_factory.mktemp("models")
    return {side: mano.load(write_mano(folder / f"{side}.npz", side=side)) for side in ("right", "left")}


def refused(path):
    with pytest.raises(mano.ManoFileError) as caught:
        mano.load(path)
    assert str(caught.value).startswith("mano.load: expected ") and str(path) in str(caught.value)
    return str(caught.value)


def check_values(model, fields):
    for name, theirs in FIELDS.items():
        value = getattr(model, name)
        assert np.array_equal(value, fields[theirs]), name
        assert value.dtype == (np.int64 if name == "faces" else np.float64), name
        assert value.flags.c_contiguous and value.flags.writeable, name
    assert model.parents.tolist() == PARENTS and model.parents.dtype == np.int64


@pytest.mark.parametrize("typing", [lambda fields: fields, typed], ids=["plain", "chumpy"])
@pytest.mark.parametrize("python, protocol", [(2, 0), (2, 1), (2, 2), *((3, protocol) for protocol in range(6))])
def test_every_protocol_of_both_pythons(file, python, protocol, typing):
    fields = small_fields()
    data = pickled(typing(fields), protocol, python)
    model = mano.load(file(data))
    check_values(model, fields)
    assert model.side is None  # these faces are not MANO's


def test_these_files_are_what_they_are_said_to_be():
    """The pickles above name what genuine ones name, and read the same with pickle and chumpy."""
    data = pickled(typed(small_fields()), 2, python=2)
    for name in ("chumpy.ch Ch", "chumpy.reordering Select", "scipy.sparse.csc csc_matrix", "__builtin__ set"):
        assert pickle.GLOBAL + name.replace(" ", "\n").encode() + b"\n" in data
    with chumpy_to_pickle(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy will give up the old module's name
        raw = pickle.loads(data, encoding="latin1")
    assert isinstance(raw["shapedirs"], mano_files.Select)
    assert np.array_equal(raw["J_regressor"].toarray(), small_fields()["J_regressor"])


def test_other_layouts_of_arrays(file):
    fields = small_fields()
    changed = {
        **fields,
        "v_template": np.asfortranarray(fields["v_template"]),
        "weights": fields["weights"].astype(">f8"),
        "posedirs": fields["posedirs"].transpose(1, 0, 2).copy().transpose(1, 0, 2),
        "f": fields["f"].astype(np.int16),
        "kintree_table": np.array([[-1, *PARENTS[1:]], range(16)], dtype=np.int32),
        "hands_coeffs": fields["hands_coeffs"].astype(np.float32),
        "other": np.array("text"),
    }
    expected = {**fields, "hands_coeffs": changed["hands_coeffs"].astype(np.float64)}
    for data in (archived(changed), *(pickled({**changed, "other": [{}, None]}, protocol) for protocol in range(6))):
        check_values(mano.load(file(data)), expected)


def test_a_genuine_files_size_and_types(file, tmp_path, models):
    """The bundled hand, typed and written as MANO's own files are, becomes one that smplx opens without chumpy."""
    for side, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = mano.load(file(pickled(typed(model.fields()), 2, python=2), "model.pkl"))
        check_values(read, model.fields())
        assert read.side == side and read.template.shape == (778, 3)
        path = mano.write_mano_fields(tmp_path / f"MANO_{side.upper()}.pkl", read.fields())
        layer = smplx.MANO(str(path), is_rhand=side == "right", use_pca=False, flat_hand_mean=True)
        vertices = layer(betas=torch.full((1, 10), 0.5)).vertices[0].detach().numpy()
        expected = model.template + model.shape_directions @ np.full(10, 0.5)
        assert np.abs(vertices - expected).max() < 1e-5  # float32 in metres


@pytest.mark.slow
def test_neither_chumpy_nor_scipy_is_needed(file):
    path = file(pickled(typed(small_fields()), 2, python=2))
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in ("scipy", "chumpy", "smplx", "manotorch", "mano"))
    code = f"import sys; {blocked}; from texalign import mano; print(mano.load({str(path)!r}).template.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(5, 3)\n"


class Call:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_by_name_and_not_made(file, tmp_path, protocol):
    mark = tmp_path / "mark"
    for value, name in (
        (Call(os.system, f"touch {mark}"), r"(posix|nt).system"),
        (Call(Path.touch, mark), r"(builtins|__builtin__).getattr|pathlib\S*Path.touch"),
        (Call(np.save, str(mark), 1), "numpy.save"),
    ):
        assert re.search(
            f"a request for ({name}) in", refused(file(pickled({**small_fields(), "extra": value}, protocol)))
        )
    assert not mark.exists()


@pytest.mark.parametrize("data, message", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3821356\n", "a Git LFS pointer"),
    (b"", "a MANO file, got an empty file"),
    (bytes(32 * 2**20 + 1), "at most 33554432 bytes, got more"),
    (b"\n<!DOCTYPE html>", "a MANO file, got a web page"),
    (b"PK\3\4 and no archive", "a MANO file, got BadZipFile"),
    (pickle.MARK + pickle.INST + b"os\nsystem\n.", "a request for opcode b'i'"),
    (pickle.EMPTY_DICT, "a MANO file, got EOFError"),
    (pickle.EMPTY_DICT + b". ", "nothing after the pickle's end, got more"),
    (pickle.GLOBAL + b"numpy\nndarray\n.", "a pickled dict, got 'ndarray'"),
    (pickle.GLOBAL + b"numpy\nndarray.tofile\n.", "a request for numpy.ndarray.tofile"),
    (pickle.GLOBAL + b"numpy.core\nmultiarray._reconstruct\n.", "a request for numpy.core.multiarray._reconstruct"),
    (b"\x8c\x06chumpy\x8c\x05ch.Ch" + pickle.STACK_GLOBAL + b".", "a request for chumpy.ch.Ch"),
    (pickle.GLOBAL + b"numpy\ndtype\n" + pickle.EMPTY_DICT + pickle.BUILD + b".", "a state for an array"),
    (pickle.NONE + pickle.EMPTY_TUPLE + pickle.REDUCE + b".", "a call that makes an array, got one of a NoneType"),
    (pickle.EMPTY_DICT + b"NN" + pickle.SETITEM + b".", "text as a dict's key, got a NoneType"),
    (pickled({**small_fields(), "f": 0, "weights": 0}, 2).replace(b"weights", b"weighty"), "fields, got no weights in"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_files_of_another_kind_are_refused_in_words(file, data, message):
    assert message in refused(file(data))


@pytest.mark.parametrize("kind", ["O", [("x", "f8"), ("y", "f8")], "U4", "M8[s]", "c16"])
def test_objects_records_and_text_are_not_arrays(file, kind):
    fields = {**small_fields(), "v_template": np.zeros((5, 3), kind)}
    for data in (pickled(fields, 2), pickled(fields, 5), archived(fields)):
        assert re.search(r"numbers \(bool, int or float\)|v_template to be an array of numbers", refused(file(data)))


@pytest.mark.parametrize("name, value, message", [
    ("v_template", np.zeros(15), r"v_template \(V, 3\), got \(15,\)"),
    ("v_template", np.zeros((20_000, 3)), r"v_template \(V, 3\) with V from 1 to 10000, got \(20000, 3\)"),
    ("shapedirs", np.zeros((6, 3, 2)), r"shapedirs \(V, 3, S\) with V = 5, got \(6, 3, 2\)"),
    ("weights", np.zeros((5, 16), np.int64), "weights of floating dtype, got int64"),
    ("hands_mean", np.full(45, np.nan), "hands_mean to be finite"),
    ("f", np.array([[0, 1, 5]]), "f from 0 to 4, got an index out of range"),
    ("f", np.array([[0, 1, 2**64 - 1]], dtype=np.uint64), "f from 0 to 4"),
    ("f", np.zeros((3, 3)), "f of integer dtype, got float64"),
    ("kintree_table", np.zeros((2, 16), np.int64), "every joint after its parent"),
    ("v_template", "text", "an array, got 'text'"),
])  # fmt: skip
def test_fields_that_do_not_fit_are_named(file, name, value, message):
    fields = {**small_fields(), name: value}
    for data in [pickled(fields, 3)] + [archived(fields)] * isinstance(value, np.ndarray):
        assert re.search(message, refused(file(data)))


def test_sparse_matrices_and_selections_that_do_not_fit(file):
    sparse = [dict(indptr=np.array([0, 1, 1, 1, 1, 99])), dict(indptr=np.array([0] * 4)), dict(data="text")]
    sparse += [dict(indices=np.full(99, -1)), dict(_shape=(10**9, 10**9))]
    chosen = [dict(preferred_shape=(5, 3, 3)), dict(idxs=np.full(30, 10**6)), dict(idxs=np.zeros(30)), dict(a=1)]
    changes = [("J_regressor", change) for change in sparse] + [("shapedirs", change) for change in chosen]
    for name, change in changes:
        fields = typed(small_fields())
        fields[name].__dict__.update(change)
        refused(file(pickled(fields, 2)))
    fields = typed(small_fields())
    fields["shapedirs"].a = fields["shapedirs"]
    assert "at most 8 chumpy values inside each other" in refused(file(pickled(fields, 2)))


def test_the_left_hands_wrong_sign_is_told_from_the_right_one(models):
    """Also in another basis, with noise, where fingers turn, and where nothing but the size changes."""
    left, random = models["left"], np.random.default_rng(0)
    plain = left.shape_directions
    turns = np.cross(random.normal(size=(15, 1, 3)), left.template - (left.joint_regressor @ left.template)[1:, None])
    turns = np.einsum("jvx,vj->vxj", 0.1 * turns, left.weights[:, 1:])
    size = 0.05 * (left.template - left.template.mean(axis=0))[:, :, None]
    mixed = plain @ np.linalg.qr(random.normal(size=(10, 10)))[0] + random.normal(size=plain.shape) * 1e-4
    for directions in (plain, mixed, np.concatenate([plain, turns], axis=2), turns, size):
        good, bad = (replace(left, shape_directions=given) for given in (directions, directions * FLIP))
        assert bad.has_wrong_left_shape and not good.has_wrong_left_shape
        assert np.array_equal(bad.with_left_shape_fixed().shape_directions, directions)
        assert good.with_left_shape_fixed() is good
        # Only left hands are known to have it.
        assert not any(replace(bad, side=side).has_wrong_left_shape for side in ("right", None))
    # Displacements along y alone are the same for both signs; so is no displacement at all.
    for along in (np.array([0.0, 1.0, 0.0]), np.zeros(3)):
        assert not replace(left, shape_directions=plain * along[:, None]).has_wrong_left_shape


def test_a_wrong_left_hand_is_read_as_it_is_with_a_warning(file, models):
    """As in MANO's own files: the left hand has the right hand's shape directions."""
    fields = {**models["left"].fields(), "shapedirs": models["right"].shape_directions}
    path = file(pickled(typed(fields), 2, python=2), "MANO_LEFT.pkl")
    with pytest.warns(
        UserWarning, match="MANO_LEFT.pkl have the right hand's sign in x.*with_left_shape_fixed"
    ) as said:
        model = mano.load(path)
    assert said[0].filename == __file__
    assert np.array_equal(model.shape_directions, models["right"].shape_directions)
    fixed = model.with_left_shape_fixed()
    assert np.array_equal(fixed.shape_directions, models["left"].shape_directions)
    assert fixed.side == "left" and fixed.template is model.template
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mano.load(file(pickled(fixed.fields(), 2), "fixed.pkl"))


def test_the_converter_in_the_documentation_runs(tmp_path, models, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "mano-files.md"
    (converter,) = re.findall(r"```python\n(import pickle.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    fields = typed(models["right"].fields())
    # A name that `load` refuses, and chumpy's own `r`, which gives any of its values as an array.
    fields["weights"] = Call(np.array, fields["weights"].tolist())
    monkeypatch.setattr(mano_files.Ch, "r", property(lambda self: self.x), raising=False)
    chosen = property(lambda self: self.a.r.ravel()[self.idxs].reshape(self.preferred_shape))
    monkeypatch.setattr(mano_files.Select, "r", chosen, raising=False)
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickled(fields, 2))
    assert "a request for numpy" in refused(tmp_path / "MANO_RIGHT.pkl")
    monkeypatch.chdir(tmp_path)
    with chumpy_to_pickle():
        exec(converter, {})
    check_values(mano.load("MANO_RIGHT.npz"), models["right"].fields())

from __future__ import annotations

import builtins
import io
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch

import mano_files
from mano_files import archived, chumpy_to_pickle, pickled, selected, small_fields, typed
from texalign import mano
from texalign.mano import write_mano

CAP = 256 * 2**20
FIELDS = {
    "template": "v_template",
    "shape_directions": "shapedirs",
    "pose_directions": "posedirs",
    "joint_regressor": "J_regressor",
    "weights": "weights",
    "faces": "f",
    "hand_mean": "hands_mean",
    "hand_components": "hands_components",
    "hand_coefficients": "hands_coeffs",
}
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


# --- what is read ----------------------------------------------------------------


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
    for name in (
        b"chumpy.ch\nCh\n",
        b"chumpy.reordering\nSelect\n",
        b"scipy.sparse.csc\ncsc_matrix\n",
        b"__builtin__\nset\n",
    ):
        assert pickle.GLOBAL + name in data
    assert pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n" in data
    assert b"copy_reg\n_reconstructor\n" in pickled(typed(small_fields()), 0, python=2)
    assert b"numpy._core.numeric" in pickled(small_fields(), 5) or b"numpy.core.numeric" in pickled(small_fields(), 5)
    with chumpy_to_pickle(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy will give up the old module's name
        raw = pickle.loads(data, encoding="latin1")
    assert isinstance(raw["shapedirs"], mano_files.Select) and raw["bs_style"] == "lbs"
    assert np.array_equal(raw["J_regressor"].toarray(), small_fields()["J_regressor"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(file, save):
    fields = small_fields()
    buffer = io.BytesIO()
    save(buffer, **{**fields, "v_template": np.asfortranarray(fields["v_template"])}, other=np.array("text"))
    check_values(mano.load(file(buffer.getvalue(), "model.npz")), fields)


def test_other_layouts_of_arrays(file):
    fields = small_fields()
    changed = {
        **fields,
        "v_template": np.asfortranarray(fields["v_template"]),
        "weights": fields["weights"].astype(">f8"),
        "posedirs": fields["posedirs"][::-1][::-1].transpose(1, 0, 2).copy().transpose(1, 0, 2),
        "f": fields["f"].astype(np.int16),
        "kintree_table": np.array([[-1, *PARENTS[1:]], range(16)], dtype=np.int32),
        "hands_coeffs": fields["hands_coeffs"].astype(np.float32),
    }
    for protocol in range(6):
        model = mano.load(file(pickled(changed, protocol)))
        check_values(model, {**fields, "hands_coeffs": changed["hands_coeffs"].astype(np.float64)})


def test_a_selection_of_a_selection_and_extra_fields(file):
    fields = small_fields()
    twice = selected(np.zeros((5, 3, 2)))
    twice.a, twice.idxs, twice.preferred_shape = selected(fields["shapedirs"]), np.arange(30)[::-1], (5, 3, 2)
    data = pickled(
        {**fields, "shapedirs": twice, "v_template": mano_files.Ch(x=fields["v_template"]), "more": [{}, None]}, 2
    )
    expected = {**fields, "shapedirs": fields["shapedirs"].ravel()[::-1].reshape(5, 3, 2)}
    check_values(mano.load(file(data)), expected)


def test_a_genuine_files_size_and_types(file, tmp_path, models):
    """The bundled hand, typed and written as MANO's own files are."""
    for side, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = mano.load(file(pickled(typed(model.fields()), 2, python=2), "model.pkl"))
        check_values(read, model.fields())
        assert read.side == side
        assert read.template.shape == (778, 3) and read.shape_directions.shape == (778, 3, 10)
    written = mano.load(write_mano(tmp_path / "MANO_RIGHT.pkl"))
    for field in dataclass_fields(mano.ManoModel):
        assert np.array_equal(getattr(written, field.name), getattr(models["right"], field.name)), field.name


def test_neither_chumpy_nor_scipy_is_needed(file):
    path = file(pickled(typed(small_fields()), 2, python=2))
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in ("scipy", "chumpy", "smplx", "manotorch", "mano"))
    code = f"import sys; {blocked}; from texalign import mano; print(mano.load({str(path)!r}).template.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(5, 3)\n"


def test_what_is_read_can_be_written_for_smplx(file, tmp_path, models):
    """A file with chumpy in it becomes one that smplx opens without chumpy."""
    original = mano.load(file(pickled(typed(models["right"].fields()), 2, python=2), "with_chumpy.pkl"))
    path = mano.write_mano_fields(tmp_path / "MANO_RIGHT.pkl", original.fields())
    layer = smplx.MANO(str(path), is_rhand=True, use_pca=False, flat_hand_mean=True)
    beta = torch.full((1, 10), 0.5)
    expected = original.template + original.shape_directions @ np.full(10, 0.5)
    assert np.abs(layer(betas=beta).vertices[0].detach().numpy() - expected).max() < 1e-5  # float32 in metres


# --- what is refused -------------------------------------------------------------


class Call:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def global_of(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode() + pickle.STOP


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_by_name_and_not_made(file, tmp_path, protocol):
    mark = tmp_path / "mark"
    for value, name in (
        (Call(builtins.eval, f"open({str(mark)!r}, 'w')"), r"(builtins|__builtin__).eval"),
        (Call(subprocess.check_call, ["touch", str(mark)]), r"(subprocess|commands).check_call"),
        (Call(Path.touch, mark), r"(builtins|__builtin__).getattr|pathlib\S*Path.touch"),
        (Path.cwd, r"(builtins|__builtin__).getattr"),
        (Call(np.save, str(mark), 1), "numpy.save"),
    ):
        for content in (value, {**small_fields(), "extra": value}):
            assert re.search(f"a request for ({name}) in", refused(file(pickle.dumps(content, protocol))))
    assert not mark.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("numpy", "ndarray.tofile"),
        ("numpy.ndarray", "tofile"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("scipy.sparse.csc", "csc_array"),
        ("chumpy.ch", "ChLambda"),
        ("chumpy", "ch.Ch"),
        ("builtins", "getattr"),
        ("copyreg", "__newobj__"),
        ("_codecs", "decode"),
    ],
)
def test_names_are_compared_whole(file, module, name):
    raw = [bytes([len(part)]) + part.encode() for part in (module, name)]
    stacked = pickle.SHORT_BINUNICODE + raw[0] + pickle.SHORT_BINUNICODE + raw[1] + pickle.STACK_GLOBAL + pickle.STOP
    instance = pickle.MARK + pickle.INST + global_of(module, name)[1:]
    for data in (global_of(module, name), stacked, instance):
        assert f"got a request for {module}.{name} in" in refused(file(data))


@pytest.mark.parametrize(
    "data, message",
    [
        (pickle.PERSID + b"1\n.", "a request for a persistent id"),
        (pickle.NONE + pickle.BINPERSID + b".", "a request for a persistent id"),
        (pickle.EXT1 + b"\1.", "a request for the extension registry"),
        (pickle.EXT4 + b"\1\0\0\0.", "a request for the extension registry"),
        (pickle.NEXT_BUFFER + b".", "a request for a buffer outside the file"),
        (pickle.LONG4 + b"\1\0\0\0\1.", "a request for a number of more than 255 bytes"),
        (pickle.MARK + pickle.OBJ + b".", "a request for opcode OBJ"),
        (pickle.NONE + pickle.DUP + b".", "a request for opcode DUP"),
        (pickle.PROTO + b"\6N.", "a pickle of protocol 0 to 5"),
        (b"<!DOCTYPE html>", "a request for opcode b'<'"),
        (b"", "a whole pickle, got one that ends in the middle"),
        (pickle.EMPTY_DICT, "a whole pickle, got one that ends in the middle"),
        (pickle.EMPTY_DICT + b". ", "nothing after the pickle's end, got 1 bytes"),
        (pickle.EMPTY_LIST + b".", "a pickled dict, got a list"),
        (global_of("numpy", "ndarray"), "a pickled dict, got numpy.ndarray"),
        (
            global_of("builtins", "object")[:-1] + pickle.EMPTY_TUPLE + pickle.REDUCE + b".",
            "got one of builtins.object",
        ),
        (pickle.EMPTY_DICT + b"N" + b"N" + pickle.SETITEM + b".", "text as a dict's key, got a NoneType"),
        (pickle.BINGET + b"\0.", "a value kept before it is used, got none at 0"),
        (pickle.STRING + b"'\\q'\n.", "text with Python's escapes"),
        (pickle.STACK_GLOBAL + b".", "a value on the pickle's stack, got none"),
        (pickle.APPENDS + b".", "a mark on the pickle's stack, got none"),
        (b"K\1K\2" + pickle.STACK_GLOBAL + b".", "a request for 1.2"),
        (b"PK\3\4 and no archive", "a MANO file, got BadZipFile"),
    ],
)
def test_nonsense_is_refused_in_words(file, data, message):
    assert message in refused(file(data))


def test_objects_records_and_text_are_not_arrays(file):
    fields = small_fields()
    for array, code in (
        (np.array([[None] * 3]), "O8"),
        (np.zeros((5, 3), "V8"), "V8"),
        (np.array([["text"] * 3]), "U4"),
        (np.zeros((5, 3), "M8[s]"), "M8"),
        (np.zeros((5, 3), np.complex128), "c16"),
    ):
        for protocol in (2, 4, 5):
            message = refused(file(pickled({**fields, "v_template": array}, protocol)))
            assert code in message or "state of a plain dtype" in message
        assert "numbers (bool, int or float)" in refused(file(archived({**fields, "v_template": array})))
    record = np.zeros(5, [("x", "f8"), ("y", "f8")])
    assert "numbers" in refused(file(pickled({**fields, "v_template": record}, 2)))
    assert "v_template to be a plain array" in refused(file(archived({**fields, "v_template": record})))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("v_template", np.zeros((6890, 4)), r"v_template \(V, 3\), got \(6890, 4\)"),
        ("v_template", np.zeros(15), r"v_template \(V, 3\), got \(15,\)"),
        ("v_template", np.zeros((20_000, 3)), r"v_template \(V, 3\) with V from 1 to 10000, got \(20000, 3\)"),
        ("shapedirs", np.zeros((6, 3, 2)), r"shapedirs \(V, 3, S\) with V = 5, got \(6, 3, 2\)"),
        ("posedirs", np.zeros((5, 3, 207)), r"posedirs \(V, 3, 135\), got \(5, 3, 207\)"),
        ("weights", np.zeros((5, 24)), r"weights \(V, 16\), got \(5, 24\)"),
        ("weights", np.zeros((5, 16), np.int64), "weights of a floating dtype, got int64"),
        ("J_regressor", np.zeros((16, 6)), r"J_regressor \(16, V\) with V = 5"),
        ("hands_mean", np.full(45, np.nan), "hands_mean to be finite"),
        ("hands_components", np.full((45, 45), np.inf), "hands_components to be finite"),
        ("hands_coeffs", np.zeros((0, 45)), r"hands_coeffs \(N, 45\) with N from 1 to 10000, got \(0, 45\)"),
        ("f", np.array([[0, 1, 5]]), "f from 0 to 4, got an index out of range"),
        ("f", np.array([[0, 1, -1]]), "f from 0 to 4"),
        ("f", np.array([[0, 1, 2**64 - 1]], dtype=np.uint64), "f from 0 to 4"),
        ("f", np.zeros((3, 3)), "f of an integer dtype, got float64"),
        ("kintree_table", np.zeros((2, 24), np.int64), r"kintree_table \(2, 16\), got \(2, 24\)"),
        ("kintree_table", np.zeros((2, 16), np.int64), "every joint after its parent"),
        ("v_template", "text", "an array, got 'text'"),
        ("v_template", [[0.0]], "an array, got a list"),
        ("J_regressor", None, "an array, got a NoneType"),
    ],
)
def test_fields_that_do_not_fit_are_named(file, name, value, message):
    fields = {**small_fields(), name: value}
    assert re.search(message, refused(file(pickled(fields, 3))))
    if isinstance(value, np.ndarray):
        assert re.search(message, refused(file(archived(fields))))


def test_missing_fields_are_named(file):
    fields = small_fields()
    del fields["weights"], fields["f"]
    for data in (pickled(fields, 2), archived(fields)):
        assert "expected MANO's fields, got no weights, f in" in refused(file(data))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(indptr=np.array([0, 1, 1, 1, 1, 99])), "rises from 0 to the number of values"),
        (dict(indptr=np.array([0, 3, 1, 1, 1, 2])), "rises from 0 to the number of values"),
        (dict(indptr=np.zeros(4, np.int32)), r"indptr \(6,\), got \(4,\)"),
        (dict(indices=np.full(99, 16)), "row indices from 0 to 15"),
        (dict(indices=np.full(99, -1)), "row indices from 0 to 15"),
        (dict(indices=np.zeros(99)), "indices and indptr of integer dtypes"),
        (dict(_shape=(10**9, 10**9)), "a matrix of at most 4194304 values"),
        (dict(_shape=(16.0, 5)), "a matrix of at most 4194304 values"),
        (dict(data="text"), "an array, got 'text'"),
    ],
)
def test_sparse_matrices_that_do_not_fit(file, change, message):
    fields = typed(small_fields())
    fields["J_regressor"].__dict__.update(change)
    assert re.search(message, refused(file(pickled(fields, 2))))


def test_selections_that_do_not_fit(file):
    fields = typed(small_fields())
    fields["shapedirs"].preferred_shape = (5, 3, 3)
    assert "a preferred_shape of 30 values" in refused(file(pickled(fields, 2)))
    fields["shapedirs"].preferred_shape, fields["shapedirs"].idxs = (5, 3, 2), np.full(30, 10**6)
    assert "IndexError" in refused(file(pickled(fields, 2)))
    fields["shapedirs"].a = fields["shapedirs"]
    assert "at most 8 chumpy values inside each other" in refused(file(pickled(fields, 2)))


def test_what_cannot_be_opened_is_not_a_mano_file_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        mano.load(tmp_path / "none.pkl")


# --- memory ----------------------------------------------------------------------


def bombs():
    short = pickle.SHORT_BINUNICODE
    encode = pickle.GLOBAL + b"_codecs\nencode\n"
    million = "a" * 10**6
    yield "memo", b"N" + pickle.LONG_BINPUT + b"\xff" * 4 + b"."
    yield "length of bytes", pickle.BINBYTES8 + b"\xff" * 7 + b"\x7f."
    yield "length of a bytearray", pickle.BYTEARRAY8 + (2**40).to_bytes(8, "little") + b"."
    yield "frame", pickle.FRAME + b"\xff" * 8 + b"}."
    yield "number", pickle.INT + b"9" * 10**7 + b"\n."
    yield "laughs", b")" + (pickle.MEMOIZE + pickle.BINGET + b"\0" + pickle.TUPLE2) * 30_000 + b"."
    yield "depth", pickle.EMPTY_LIST * 49_000 + pickle.APPEND * 48_999 + b"."
    yield "marks", pickle.MARK * 10**6
    yield "dicts", pickle.EMPTY_DICT * 10**7
    yield (
        "wide text",
        pickle.BINUNICODE + (32 * 2**20 - 10).to_bytes(4, "little") + b"a" * (32 * 2**20 - 14) + "😀".encode() + b".",
    )
    once = pickle.BINUNICODE + (10**6).to_bytes(4, "little") + million.encode() + pickle.BINPUT + b"\0"
    again = encode + pickle.BINGET + b"\0" + short + b"\6latin1" + pickle.TUPLE2 + pickle.REDUCE
    yield "encoded again and again", once + again * 10_000 + b"."
    yield "escapes", pickle.STRING + b"'" + b"\\x00" * (8 * 2**20 - 10) + b"'\n."
    yield "too large", bytes(33 * 2**20)
    array = pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n" + pickle.GLOBAL + b"numpy\nndarray\n"
    array += b"K\0" + pickle.TUPLE1 + short + b"\1b" + pickle.TUPLE3 + pickle.REDUCE
    kind = (
        pickle.GLOBAL
        + b"numpy\ndtype\n"
        + short
        + b"\2f8"
        + pickle.NEWFALSE
        + pickle.NEWTRUE
        + pickle.TUPLE3
        + pickle.REDUCE
    )
    state = (
        b"(K\1("
        + (pickle.BININT + b"\xff\xff\xff\x7f") * 3
        + b"t"
        + kind
        + pickle.NEWFALSE
        + short
        + b"\0t"
        + pickle.BUILD
    )
    yield "shape", array + state + b"."
    # A hundred thousand dicts would do; these are read to the end before they are refused.
    yield "dicts that are read", pickle.MARK + pickle.EMPTY_DICT * 99_000 + pickle.LIST + b"."
    fields = small_fields()
    many = {**fields, "hands_coeffs": np.zeros((90_000, 45), np.float16)}
    yield "rows", pickled(many, 5)
    one = np.zeros((10_000, 3, 100), np.float16)
    most = {**fields, "v_template": one[:, :, 0], "shapedirs": one, "posedirs": np.zeros((10_000, 3, 135), np.float16)}
    most |= {
        "weights": np.zeros((10_000, 16)),
        "J_regressor": np.zeros((16, 10_000)),
        "f": np.zeros((20_000, 3), np.int8),
    }
    yield "the largest model", pickled({**most, "hands_coeffs": np.zeros((10_000, 45))}, 5)
    yield "members of an archive", many_members()
    yield "zeros in an archive", archived({**fields, "hands_coeffs": np.zeros((10**6, 45))})


def many_members():
    """An archive of 300,000 empty members, by hand."""
    local, central = b"PK\3\4" + bytes(26), b"PK\1\2" + bytes(24) + b"\1" + bytes(17) + b"a"
    end = b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + (300_000 * len(central)).to_bytes(4, "little")
    return local + central * 300_000 + end + len(local).to_bytes(4, "little") + b"\0\0"


@pytest.mark.parametrize("name, data", [pytest.param(*bomb, id=bomb[0]) for bomb in bombs()])
def test_memory_stays_below_the_cap(file, name, data):
    path = file(data)
    del data
    tracemalloc.start()
    try:
        if name == "the largest model":
            assert mano.load(path).template.shape == (10_000, 3)
        else:
            refused(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Most are found out long before.
    assert peak < (CAP if path.stat().st_size > 2**20 else 40 * 2**20)


def test_archives_that_claim_more_than_they_hold(file):
    """Sizes come from headers: none is believed."""
    small = np.zeros((2, 45))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        header = io.BytesIO()
        np.save(header, small)
        claim = header.getvalue().replace(b"(2, 45)", b"(9999999, 45)").replace(b"      \n", b"\n")
        claim = claim[:8] + (len(claim) - 10 - small.nbytes).to_bytes(2, "little") + claim[10:]
        archive.writestr("hands_coeffs.npy", claim)
    assert "arrays of at most 4194304 values, got 449999955" in refused(file(buffer.getvalue()))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("hands_coeffs.npy", header.getvalue())
    assert "stored or deflated members" in refused(file(buffer.getvalue()))
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("hands_coeffs.npy", header.getvalue())
    assert "hands_coeffs once, got two of them" in refused(file(buffer.getvalue()))


# --- the left hand's sign --------------------------------------------------------


def spaces(model):
    """Shape directions as the model has them, in another basis, with noise, with turning fingers, of one kind only."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(10, 10)))[0]
    plain = model.shape_directions
    joints = model.joint_regressor @ model.template
    turns = [
        model.weights[:, [joint]] * np.cross(random.normal(size=3) * 0.1, model.template - joints[joint])
        for joint in range(1, 16)
    ]
    yield "its own", plain
    yield "another basis", plain @ basis
    yield "noise", plain + random.normal(size=plain.shape) * 1e-4
    yield "turned fingers", np.concatenate([plain, np.stack(turns, axis=2)], axis=2)
    yield "only turned fingers", np.stack(turns, axis=2)
    yield "only size", 0.05 * (model.template - model.template.mean(axis=0))[:, :, None]


@pytest.mark.parametrize("number", range(6))
def test_the_left_hands_wrong_sign_is_told_from_the_right_one(models, number):
    name, directions = list(spaces(models["left"]))[number]
    good = replace(models["left"], shape_directions=directions)
    bad = replace(models["left"], shape_directions=directions * FLIP)
    assert bad.has_wrong_left_shape and not good.has_wrong_left_shape, name
    assert np.array_equal(bad.with_left_shape_fixed().shape_directions, directions)
    assert good.with_left_shape_fixed() is good
    # Only left hands are known to have it.
    assert not replace(bad, side="right").has_wrong_left_shape and not replace(bad, side=None).has_wrong_left_shape


def test_a_wrong_left_hand_is_read_as_it_is_with_a_warning(file, models):
    """As in MANO's own files: the left hand has the right hand's shape directions."""
    fields = {**models["left"].fields(), "shapedirs": models["right"].shape_directions}
    path = file(pickled(typed(fields), 2, python=2), "MANO_LEFT.pkl")
    with pytest.warns(
        UserWarning, match=r"MANO_LEFT.pkl have the right hand's sign in x.*with_left_shape_fixed\(\)"
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
        from texalign import HandSurface

        assert not HandSurface.from_layer(mano.load(path)).is_right  # needs the faces only


def test_where_the_sign_says_nothing_nothing_is_said(models):
    """Displacements along y alone are the same for both signs; so is no displacement at all."""
    left = models["left"]
    along_y = np.zeros_like(left.shape_directions)
    along_y[:, 1] = left.shape_directions[:, 1]
    for directions in (along_y, np.zeros_like(along_y)):
        assert not replace(left, shape_directions=directions).has_wrong_left_shape


# --- documentation ---------------------------------------------------------------


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

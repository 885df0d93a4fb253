"""MANO files as they come: typed by chumpy, written by Python 2, saved again by Python 3 at any protocol."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from types import ModuleType

import numpy as np
from scipy.sparse import csc_matrix

VERTICES, FACES = 5, 3  # enough to be complete, small enough to be read twenty thousand times


class Ch:
    """As chumpy's own: `__getstate__` leaves out the two dicts that cannot be pickled."""

    def __init__(self, **terms):
        deps = {"label": {"deps": {"x"}, "value": None, "out_of_date": True}}
        internal = dict(_dirty_vars=set(), _itr=None, _parents={}, _cache={"r": None, "drs": {}})
        self.__dict__.update(internal, _make_dense=False, _make_sparse=False, _depends_on_deps=deps, **terms)

    def __getstate__(self):
        state = dict(self.__dict__)
        del state["_parents"], state["_cache"]
        return state


class Select(Ch):
    pass


Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
Select.__module__, Select.__qualname__ = "chumpy.reordering", "Select"


@contextlib.contextmanager
def chumpy_to_pickle():
    """Modules of chumpy's names, for as long as something is pickled."""
    modules = {name: ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    modules["chumpy.ch"].Ch, modules["chumpy.reordering"].Select = Ch, Select
    assert not set(modules) & set(sys.modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def selected(array, extra=3):
    """A Select of the first columns of a Ch that has more, as MANO's `shapedirs`."""
    more = np.concatenate([array, np.full((*array.shape[:2], extra), 9.0)], axis=2)
    chosen = np.arange(more.size).reshape(more.shape)[:, :, : array.shape[2]]
    return Select(a=Ch(x=more), idxs=chosen.ravel(), preferred_shape=chosen.shape)


def small_fields(seed=0):
    """All fields of a model with few vertices; float64 noise, so that most bytes differ from each other."""
    random = np.random.default_rng(seed)
    weights = random.random((VERTICES, 16))
    regressor = random.random((16, VERTICES)) * (random.random((16, VERTICES)) < 0.3)
    return {
        "bs_style": "lbs",
        "bs_type": "lrotmin",
        "f": np.stack([np.arange(FACES), np.arange(FACES) + 1, np.arange(FACES) + 2], axis=1).astype(np.uint32),
        "v_template": random.normal(size=(VERTICES, 3)),
        "shapedirs": random.normal(size=(VERTICES, 3, 2)),
        "posedirs": random.normal(size=(VERTICES, 3, 135)),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "J_regressor": regressor,
        "J": random.normal(size=(16, 3)),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)]),
        "hands_mean": random.normal(size=45),
        "hands_components": random.normal(size=(45, 45)),
        "hands_coeffs": random.normal(size=(3, 45)),
    }


def typed(fields):
    """The fields as MANO's own files hold them: a sparse regressor, chumpy's shape directions."""
    return {**fields, "J_regressor": csc_matrix(fields["J_regressor"]), "shapedirs": selected(fields["shapedirs"])}


PYTHON_2_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "copyreg": "copy_reg",
    "builtins": "__builtin__",
}


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes both as Python 2's `str`, and every module under the name it had then."""

    dispatch = {**pickle._Pickler.dispatch}  # noqa: RUF012

    def save_str(self, value):
        raw = value.encode("latin-1") if isinstance(value, str) else value
        if self.proto == 0:
            self.write(pickle.STRING + repr(raw)[1:].encode() + b"\n")
        elif len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_str

    def save_global(self, value, name=None):
        module = PYTHON_2_MODULES.get(value.__module__, value.__module__)
        self.write(pickle.GLOBAL + f"{module}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[type] = dispatch[type(save_str)] = save_global


def pickled(fields, protocol, python=3):
    with chumpy_to_pickle():
        if python == 3:
            return pickle.dumps(fields, protocol=protocol)
        file = io.BytesIO()
        _Python2Pickler(file, protocol=protocol).dump(fields)
        return file.getvalue()


def archived(fields):
    """The fields as an `.npz`."""
    file = io.BytesIO()
    np.savez_compressed(file, **fields)
    return file.getvalue()

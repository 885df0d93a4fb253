"""What a pickle of arrays may name and what is made of it: inert values, and the arrays that they stand for."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import numpy as np

from texalign.mano.arrays import MAX_VALUES, demand, number_type, refuse, shown

# A chumpy value may select from another that selects from another.
MAX_DEPTH = 8


class Known(Enum):
    """What a name may stand for."""

    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    FROMBUFFER = "numpy.core.numeric._frombuffer"
    CSC = "scipy.sparse.csc.csc_matrix"
    CH = "chumpy.ch.Ch"
    SELECT = "chumpy.reordering.Select"
    RECONSTRUCTOR = "copyreg._reconstructor"
    OBJECT = "builtins.object"
    SET = "builtins.set"
    ENCODE = "_codecs.encode"


NAMES = {
    ("numpy", "ndarray"): Known.NDARRAY,
    ("numpy", "dtype"): Known.DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): Known.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Known.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): Known.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): Known.FROMBUFFER,
    ("scipy.sparse.csc", "csc_matrix"): Known.CSC,
    ("scipy.sparse._csc", "csc_matrix"): Known.CSC,
    ("chumpy.ch", "Ch"): Known.CH,
    ("chumpy.reordering", "Select"): Known.SELECT,
    ("copy_reg", "_reconstructor"): Known.RECONSTRUCTOR,
    ("copyreg", "_reconstructor"): Known.RECONSTRUCTOR,
    ("__builtin__", "object"): Known.OBJECT,
    ("builtins", "object"): Known.OBJECT,
    ("__builtin__", "set"): Known.SET,
    ("builtins", "set"): Known.SET,
    ("_codecs", "encode"): Known.ENCODE,
}
OBJECTS = (Known.CSC, Known.CH, Known.SELECT)


class NumberType:
    """A dtype: its code, and the byte order that its state brings later."""

    def __init__(self, code: Any) -> None:
        self.code = code
        self.order: str | None = None
        number_type(code)

    def dtype(self) -> np.dtype:
        return number_type((self.order or "") + self.code)


class Array:
    """An array, empty until its state comes."""

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value


class Shell:
    """An object of scipy's or chumpy's: which one, and its attributes, empty until its state comes."""

    def __init__(self, kind: Known) -> None:
        self.kind = kind
        self.state: dict[str, Any] | None = None


class DroppedSet:
    """A set. No MANO field is one, and its content is dropped."""


def dense(value: Any, depth: int = 0) -> np.ndarray:
    """The array that a value out of `read_pickle` stands for; the result may share memory with it.

    scipy's csc_matrix is written out. chumpy's Ch is its x, and its Select is a.ravel()[idxs].reshape(preferred_shape).
    """
    demand(depth < MAX_DEPTH, f"at most {MAX_DEPTH} chumpy values inside each other", "more")
    if isinstance(value, Array):
        demand(value.value is not None, "an array with its state", "one without")
        return np.asarray(value.value)
    if not isinstance(value, Shell):
        refuse("an array", shown(value))
    state = value.state
    if state is None:
        refuse(f"a {value.kind.value} with its state", "one without")
    if value.kind is Known.CSC:
        return _written_out(state)
    if value.kind is Known.CH:
        return dense(state.get("x"), depth + 1)
    source, chosen = dense(state.get("a"), depth + 1), dense(state.get("idxs"), depth + 1)
    demand(chosen.dtype.kind in "iu", "a Select's idxs of an integer dtype", chosen.dtype)
    picked = source.reshape(-1)[chosen.reshape(-1)]
    shape = state.get("preferred_shape", picked.shape)
    fits = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    demand(fits and math.prod(shape) == picked.size, f"a preferred_shape of {picked.size} values", shown(shape))
    return picked.reshape(shape)


def _written_out(state: dict[str, Any]) -> np.ndarray:
    """A compressed sparse column matrix: column j holds data[indptr[j]:indptr[j + 1]] in rows indices[…]."""
    shape: Any = state.get("_shape", state.get("shape"))
    fits = isinstance(shape, tuple) and len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape)
    demand(fits and shape[0] * shape[1] <= MAX_VALUES, f"a matrix of at most {MAX_VALUES} values", shown(shape))
    data, rows, starts = (dense(state.get(name), MAX_DEPTH - 1) for name in ("data", "indices", "indptr"))
    whole = rows.dtype.kind in "iu" and starts.dtype.kind in "iu"
    demand(whole, "indices and indptr of integer dtypes", f"{rows.dtype} and {starts.dtype}")
    demand(starts.shape == (shape[1] + 1,), f"indptr ({shape[1] + 1},)", starts.shape)
    starts = starts.astype(np.int64)
    counts = np.diff(starts)
    count = int(starts[-1])
    fits = starts[0] == 0 and bool((counts >= 0).all()) and data.ndim == rows.ndim == 1
    demand(fits and count <= min(len(data), len(rows)), "indptr that rises from 0 to the number of values", "another")
    rows = rows[:count].astype(np.int64)
    demand(bool(((rows >= 0) & (rows < shape[0])).all()), f"row indices from 0 to {shape[0] - 1}", "others")
    matrix = np.zeros(shape)
    np.add.at(matrix, (rows, np.repeat(np.arange(shape[1]), counts)), data[:count].astype(np.float64))
    return matrix

"""The arrays that stand for what a pickle of arrays asks for."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from texalign.mano.arrays import array_of, demand, number_type, shown
from texalign.mano.pickle_reader import Call

# A chumpy value may select from another that selects from another.
MAX_DEPTH = 8
# The joint regressor of 10,000 vertices has 160,000.
MAX_SPARSE = 2**19


def dense(value: Any, depth: int = 0) -> np.ndarray:
    """The array that a value out of a file stands for; the result may share memory with it.

    scipy's csc_matrix is written out. chumpy's Ch is its x, and its Select is a.ravel()[idxs].reshape(preferred_shape).
    """
    if isinstance(value, np.ndarray):
        return value
    demand(depth < MAX_DEPTH, f"at most {MAX_DEPTH} chumpy values inside each other", "more")
    demand(isinstance(value, Call), "an array", shown(value))
    name, state = value.name, value.state
    if name == "_frombuffer":
        raw, kind, shape, order, *axes = value.arguments
        array = array_of(_dtype(kind), shape, _bytes(raw), order == "F")
        # K: as the axes lie in memory, which are put back into the array's own order.
        return array.transpose(*axes) if order == "K" else array
    if name == "_reconstruct":  # with an empty array's shape, which says nothing: the state holds the array
        _, shape, kind, by_columns, raw = state
        return array_of(_dtype(kind), shape, _bytes(raw), by_columns)
    if name == "_reconstructor":
        name = value.arguments[0]
    demand(name in ("csc_matrix", "Ch", "Select"), "an array", shown(name))
    if name == "csc_matrix":
        return _written_out(state)
    if name == "Ch":
        return dense(state["x"], depth + 1)
    source, chosen = dense(state["a"], depth + 1), dense(state["idxs"], MAX_DEPTH - 1)
    picked = source.reshape(-1)[chosen.reshape(-1)]
    return picked.reshape(state.get("preferred_shape", picked.shape))


def _bytes(value: Any) -> bytes:
    """Bytes, or text that stands for them: Python 2's own, or what Python 3 writes in old protocols."""
    if isinstance(value, Call) and value.name == "encode":
        value, encoding = value.arguments
        demand(encoding in ("latin1", "latin-1"), "bytes in latin-1", shown(encoding))
    value = value.encode("latin-1") if isinstance(value, str) else value
    demand(isinstance(value, bytes), "an array's bytes", shown(value))
    return value


def _dtype(kind: Any) -> np.dtype:
    """A dtype of numbers; its byte order comes as its state."""
    demand(isinstance(kind, Call) and kind.name == "dtype", "an array's dtype", shown(kind))
    code, order = kind.arguments[0], kind.state[1] if kind.state else "="
    return number_type(order + code if order in ("<", ">", "|", "=") and isinstance(code, str) else None)


def _written_out(state: dict[str, Any]) -> np.ndarray:
    """A compressed sparse column matrix: column j holds data[indptr[j]:indptr[j + 1]] in rows indices[…]."""
    height, width = map(operator.index, state["_shape"] if "_shape" in state else state["shape"])
    data, rows, starts = (dense(state[name], MAX_DEPTH - 1) for name in ("data", "indices", "indptr"))
    starts = starts.astype(np.int64)
    fits = min(height, width) >= 0 and height * width <= MAX_SPARSE and 0 == starts[0] <= starts[-1] <= MAX_SPARSE
    fits = fits and starts.shape == (width + 1,) and not (rows < 0).any()
    demand(fits, "a sparse matrix whose parts fit together", "another")
    columns = np.repeat(np.arange(width), np.diff(starts))
    matrix = np.zeros((height, width))
    np.add.at(matrix, (rows[: len(columns)], columns), data[: len(columns)])
    return matrix

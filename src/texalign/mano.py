"""Files in the format of MANO's own: writing them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from texalign._checks import expect


def write_mano_fields(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> Path:
    """Write the fields of a MANO model to ``path``; its suffix chooses the format.

    ``.pkl`` becomes a pickled dict of numpy arrays with ``J_regressor`` as a ``scipy.sparse.csc_matrix``, protocol 2
    like the original files, and no chumpy in it. ``.npz`` becomes a plain archive without pickled objects,
    ``J_regressor`` dense. The file appears whole or not at all.

    Args:
        path: where to write; the folder must exist.
        fields: names and values; arrays, strings or ints.

    Returns:
        The path written.

    Raises:
        ValueError: the suffix is neither ``.pkl`` nor ``.npz``.
        ImportError: ``.pkl`` is asked for and scipy is not installed.
    """
    path = Path(path)
    expect(path.suffix in (".pkl", ".npz"), "write_mano", "a path that ends in .pkl or .npz", path.name)
    content = dict(fields)
    if path.suffix == ".pkl":
        content["J_regressor"] = _sparse(np.asarray(content["J_regressor"]))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            if path.suffix == ".pkl":
                pickle.dump(content, file, protocol=2)
            else:
                np.savez_compressed(file, **content)
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp hides its file from everyone else
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _sparse(matrix: np.ndarray) -> Any:
    try:
        from scipy.sparse import csc_matrix
    except ImportError as error:
        raise ImportError(
            "write_mano: a .pkl holds a scipy.sparse matrix, and scipy is not installed: "
            "pip install 'texalign[mano]', or write an .npz"
        ) from error
    return csc_matrix(matrix)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

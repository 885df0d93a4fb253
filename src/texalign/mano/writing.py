from __future__ import annotations

import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from texalign._internal import expect, hand_asset, write_whole
from texalign.hand import PARENTS, relaxed_pose, sample_pose
from texalign.mano.model import ManoModel


def write_mano(path: str | PathLike[str], *, side: Literal["right", "left"] = "right") -> Path:
    """Write the bundled hand as a MANO-format file, for code that can only read those (smplx, manotorch, HaMeR).

    All keys of MANO's own files, with their shapes and dtypes. ``posedirs`` are zero, ``hands_mean`` is the relaxed
    hand, ``hands_components`` the orthonormal principal directions of 1,554 sampled poses, ``hands_coeffs`` those
    poses. MANO's poses and betas do not carry over: rest pose and shape directions are this hand's own.

    Args:
        path: a file that ends in ``.pkl`` (as MANO's, needs scipy) or ``.npz``. smplx takes the hand's side from the
            name, so call it ``MANO_RIGHT.pkl`` or ``MANO_LEFT.pkl``.
        side: "left" writes the mirror image in x, with the faces turned round.

    Returns:
        The path written; the file appears whole or not at all.

    Raises:
        ValueError: another suffix or side.
        ImportError: ``.pkl`` without scipy.

    Example:
        >>> path = write_mano("MANO_RIGHT.npz")
    """
    expect(side in ("right", "left"), "write_mano", "side 'right' or 'left'", repr(side))
    asset = hand_asset()
    mirror = np.array([1.0 if side == "right" else -1.0, 1.0, 1.0])
    # A mirrored rotation turns the other way about the two axes in the mirror's plane.
    turn = np.tile([1.0, mirror[0], mirror[0]], 15)
    poses = sample_pose(1554, torch.Generator().manual_seed(0))[:, 1:].flatten(1).double().numpy() * turn
    mean = relaxed_pose().flatten().double().numpy() * turn
    components = np.linalg.svd(poses - poses.mean(axis=0), full_matrices=True)[2]
    model = ManoModel(
        template=asset["vertices"].astype(np.float64) * mirror,
        shape_directions=asset["shape_directions"].astype(np.float64) * mirror[:, None],
        pose_directions=np.zeros((len(asset["vertices"]), 3, 135)),
        joint_regressor=asset["joint_regressor"].astype(np.float64),
        weights=asset["weights"].astype(np.float64),
        faces=asset["faces"][:, :: int(mirror[0])],
        parents=np.array(PARENTS),
        hand_mean=mean,
        hand_components=components,
        hand_coefficients=(poses - mean) @ components.T,
        side=side,
    )
    return write_mano_fields(path, model.fields())


def write_mano_fields(path: str | PathLike[str], fields: Mapping[str, Any]) -> Path:
    """Write the fields of a MANO model to ``path``; its suffix chooses the format.

    ``.pkl`` becomes a pickled dict of numpy arrays, protocol 2 and ``J_regressor`` a ``scipy.sparse.csc_matrix`` as in
    the original files, without chumpy. ``.npz`` becomes a plain archive without pickled objects, ``J_regressor`` dense.
    The file appears whole or not at all.

    Args:
        path: where to write; the folder must exist.
        fields: names and values; arrays, strings or ints.

    Returns:
        The path written.

    Raises:
        ValueError: the suffix is neither ``.pkl`` nor ``.npz``.
        ImportError: ``.pkl`` is asked for and scipy is not installed.

    Example:
        >>> from texalign.mano import load
        >>> model = load(write_mano("MANO_LEFT.npz", side="left"))
        >>> path = write_mano_fields("FIXED_LEFT.npz", model.with_left_shape_fixed().fields())
    """
    path = Path(path)
    expect(path.suffix in (".pkl", ".npz"), "write_mano", "a path that ends in .pkl or .npz", path.name)
    content = dict(fields)
    if path.suffix == ".pkl":
        try:
            from scipy.sparse import csc_matrix
        except ImportError as error:
            raise ImportError(
                "write_mano: a .pkl holds a scipy.sparse matrix, and scipy is not installed: "
                "pip install 'texalign[mano]', or write an .npz"
            ) from error
        content["J_regressor"] = csc_matrix(content["J_regressor"])

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            if path.suffix == ".pkl":
                pickle.dump(content, file, protocol=2)
            else:
                np.savez_compressed(file, **content)

    return write_whole(path, write)

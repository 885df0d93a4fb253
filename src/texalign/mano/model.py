from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from texalign._internal import hand_asset
from texalign.mano.archive import read_archive
from texalign.mano.arrays import MAX_FILE_BYTES, ManoFileError, demand
from texalign.mano.pickle_reader import read_pickle
from texalign.mano.values import dense
from texalign.surface import relative_winding

JOINTS = 16
# V vertices, F faces, S shape directions, N hands that the pose components come from: MANO has 778, 1,538, 10, 1,554.
_LIMITS = {"V": 10_000, "F": 20_000, "S": 100, "N": 10_000}
# By MANO's own names: `ManoModel`'s name and the shape.
_FLOATS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "v_template": ("template", ("V", 3)),
    "shapedirs": ("shape_directions", ("V", 3, "S")),
    "posedirs": ("pose_directions", ("V", 3, 9 * (JOINTS - 1))),
    "J_regressor": ("joint_regressor", (JOINTS, "V")),
    "weights": ("weights", ("V", JOINTS)),
    "hands_mean": ("hand_mean", (3 * (JOINTS - 1),)),
    "hands_components": ("hand_components", (3 * (JOINTS - 1), 3 * (JOINTS - 1))),
    "hands_coeffs": ("hand_coefficients", ("N", 3 * (JOINTS - 1))),
}
_SHAPES = {name: shape for name, (_, shape) in _FLOATS.items()} | {"f": ("F", 3), "kintree_table": (2, JOINTS)}
# Shape directions are called wrong when mirroring them in x lowers the distortion at least by this factor.
_CLEARLY = 1.25


@dataclass(frozen=True, eq=False)
class ManoModel:
    """What a MANO file holds, by plain names; float64 and int64 numpy arrays.

    V vertices (MANO: 778), F faces (1,538), S shape directions (10), N hands (1,554). MANO's own name in brackets.

    Attributes:
        template: (V, 3) metres, the mean hand at rest (`v_template`).
        shape_directions: (V, 3, S) metres for each unit of beta (`shapedirs`).
        pose_directions: (V, 3, 135) metres for each unit of R − I, the 15 finger joints' rotations row by row
            (`posedirs`).
        joint_regressor: (16, V), from vertices to joints, dense (`J_regressor`).
        weights: (V, 16) skin weights (`weights`).
        faces: (F, 3) (`f`).
        parents: (16,) each joint's parent, −1 for the wrist (`kintree_table[0]`).
        hand_mean: (45,) axis-angle of the mean pose (`hands_mean`).
        hand_components: (45, 45) principal directions of poses, one a row (`hands_components`).
        hand_coefficients: (N, 45) the poses they come from, in them (`hands_coeffs`).
        side: "right" or "left", told from how the faces are wound; None where they are not MANO's faces.
    """

    template: np.ndarray
    shape_directions: np.ndarray
    pose_directions: np.ndarray
    joint_regressor: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    parents: np.ndarray
    hand_mean: np.ndarray
    hand_components: np.ndarray
    hand_coefficients: np.ndarray
    side: Literal["right", "left"] | None

    @property
    def has_wrong_left_shape(self) -> bool:
        """Whether this is a left hand whose shape directions have the right hand's sign in x.

        MANO's own left hand does (https://github.com/vchoutas/smplx/issues/48). Skin that grows or turns keeps the
        shape of small triangles, and with x negated it does not: the sign is called wrong if negating x lowers the
        shape directions' distortion by a quarter or more. `docs/mano-files.md` says how sure this is.
        """
        if self.side != "left":
            return False
        turned = self.shape_directions * np.array([-1.0, 1.0, 1.0])[:, None]
        as_they_are = _distortion(self.template, self.faces, self.shape_directions)
        return as_they_are > _CLEARLY * _distortion(self.template, self.faces, turned)

    def with_left_shape_fixed(self) -> ManoModel:
        """This model with the right signs: shape directions negated in x if `has_wrong_left_shape`.

        Betas then mean the same on both hands. Betas that were fitted with the file as it is need it as it is.
        """
        if not self.has_wrong_left_shape:
            return self
        return replace(self, shape_directions=self.shape_directions * np.array([-1.0, 1.0, 1.0])[:, None])

    def fields(self) -> dict[str, Any]:
        """The same under MANO's own names, for `write_mano_fields`: without chumpy, so that smplx reads it without."""
        return {
            **{name: getattr(self, attribute) for name, (attribute, _) in _FLOATS.items()},
            "f": self.faces.astype(np.uint32),
            "kintree_table": np.array([[2**32 - 1, *self.parents[1:]], range(JOINTS)], dtype=np.int64),
            "J": self.joint_regressor @ self.template,
            "bs_style": "lbs",
            "bs_type": "lrotmin",
        }


def load(path: str | os.PathLike[str]) -> ManoModel:
    """Read a MANO file, genuine or written by `write_mano`, without running anything in it.

    MANO's own files are pickles of Python 2 with chumpy objects in them; unpickling one runs what it says. This reads
    the arrays only, of any pickle protocol, without scipy and chumpy, and refuses everything else by name. An `.npz` of
    the same fields, without objects, is read as well. At most 32 MiB are read, and at most 256 MiB of memory are used.

    Args:
        path: `MANO_RIGHT.pkl`, `MANO_LEFT.pkl`, or an `.npz`. The content tells which; the name does not matter.

    Returns:
        The model as it is in the file. A left hand whose shape directions have the wrong sign, as MANO's own has, is
        read as it is too, with a warning that says what to do.

    Raises:
        ManoFileError: a ValueError. Not a MANO model, a field that is missing, of another shape or dtype or not finite,
            or a file that asks for anything but arrays: the message says what.
        OSError: the file cannot be opened.

    Example:
        >>> from texalign.mano import load, write_mano
        >>> model = load(write_mano("MANO_RIGHT.npz"))
        >>> model.side, model.template.shape
        ('right', (778, 3))
    """
    with Path(path).open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        fields = _fields(data)
        del data  # the fields are copies; both do not fit into the memory promised
        model = _model(fields)
    except ManoFileError as error:
        raise ManoFileError(f"mano.load: {error} in {path}") from None
    # Damaged bytes fail in as many ways as there are opcodes; nothing that they can cause is worth another error.
    except Exception as error:
        raise ManoFileError(f"mano.load: expected a MANO file, got {type(error).__name__} on reading {path}") from error
    if model.has_wrong_left_shape:
        warnings.warn(
            f"mano.load: the shape directions in {path} have the right hand's sign in x, a known fault of MANO's own "
            "left hand: betas mean another shape than on the right hand. load(path).with_left_shape_fixed() puts it "
            "right; keep the file as it is only for betas that were fitted with it as it is",
            stacklevel=2,
        )
    return model


def _fields(data: bytes) -> dict[str, Any]:
    """The known fields of a file, by MANO's own names, as `dense` takes them."""
    demand(len(data) <= MAX_FILE_BYTES, f"at most {MAX_FILE_BYTES} bytes", "more")
    demand(len(data) > 0, "a MANO file", "an empty file")
    pointer = data.startswith(b"version https://git-lfs.github.com/spec/")
    demand(not pointer, "a MANO file", "a Git LFS pointer (`git lfs pull` fetches the file itself)")
    demand(not data[:100].lstrip().startswith(b"<"), "a MANO file", "a web page")
    found = read_archive(data, _SHAPES) if data[:4] == b"PK\x03\x04" else read_pickle(data)
    missing = [name for name in _SHAPES if name not in found]
    demand(not missing, "MANO's fields", f"no {', '.join(missing)}")
    return {name: found[name] for name in _SHAPES}


def _model(fields: Mapping[str, Any]) -> ManoModel:
    """Check shapes, dtypes and values."""
    sizes: dict[str, int] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, shape in _SHAPES.items():
        array = dense(fields[name])
        text = f"{name} (" + ", ".join(str(size) for size in shape) + ")"
        demand(array.ndim == len(shape), text, array.shape)
        for want, got in zip(shape, array.shape):
            size = sizes.setdefault(want, got) if isinstance(want, str) else want
            demand(size == got, text + (f" with {want} = {size}" if size != want else ""), array.shape)
            limit = _LIMITS.get(want, size) if isinstance(want, str) else size
            demand(1 <= got <= limit, f"{text} with {want} from 1 to {limit}", array.shape)
        kind, wanted, dtype = ("f", "floating", np.float64) if name in _FLOATS else ("iu", "integer", np.int64)
        demand(array.dtype.kind in kind, f"{name} of {wanted} dtype", array.dtype)
        arrays[name] = np.array(array, dtype=dtype, order="C")
        demand(bool(np.isfinite(arrays[name]).all()), f"{name} to be finite", "a value that is not")
    faces, tree = arrays["f"], arrays["kintree_table"]
    fits = bool(((faces >= 0) & (faces < sizes["V"])).all())
    demand(fits, f"f from 0 to {sizes['V'] - 1}", "an index out of range")
    parents = tree[0].copy()
    parents[0] = -1  # 2³² − 1 in MANO's files: −1 without a sign
    order = np.arange(JOINTS)
    fits = bool((tree[1] == order).all() and (parents[1:] >= 0).all() and (parents < order).all())
    demand(fits, "kintree_table with every joint after its parent", "another order")
    side = {1: "right", -1: "left"}.get(relative_winding(faces, hand_asset()["faces"]))
    floats = {attribute: arrays[name] for name, (attribute, _) in _FLOATS.items()}
    return ManoModel(**floats, faces=faces, parents=parents, side=side)  # type: ignore[arg-type]


def _distortion(template: np.ndarray, faces: np.ndarray, directions: np.ndarray) -> float:
    """Σ area · |traceless in-plane strain|² of the displacements (V, 3, S), over triangles and directions.

    Zero for whatever grows evenly in all directions or turns, locally as well as on the whole.
    """
    with np.errstate(all="ignore"):  # a file's numbers are finite, and may be as large as they like
        basis, edges = np.linalg.qr(np.swapaxes(template[faces[:, 1:]] - template[faces[:, :1]], 1, 2))
        areas = np.abs(np.linalg.det(edges)) / 2
        kept = areas > 1e-12
        moved = (directions[faces[:, 1:]] - directions[faces[:, :1]])[kept]  # (F, 2, 3, S)
        # In an orthonormal basis of each triangle's plane, (F, 3, 2): how a step in it moves, (F, 2, 2, S).
        strain = np.einsum("fxi,faxs,faj->fijs", basis[kept], moved, np.linalg.inv(edges[kept]), optimize=True)
        stretch, shear = (strain[:, 0, 0] - strain[:, 1, 1]) / 2, (strain[:, 0, 1] + strain[:, 1, 0]) / 2
        return float((areas[kept, None] * (stretch**2 + shear**2)).sum())

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
_FLOATS: dict[str, tuple[int | str, ...]] = {
    "v_template": ("V", 3),
    "shapedirs": ("V", 3, "S"),
    "posedirs": ("V", 3, 9 * (JOINTS - 1)),
    "J_regressor": (JOINTS, "V"),
    "weights": ("V", JOINTS),
    "hands_mean": (3 * (JOINTS - 1),),
    "hands_components": (3 * (JOINTS - 1), 3 * (JOINTS - 1)),
    "hands_coeffs": ("N", 3 * (JOINTS - 1)),
}
_INTEGERS: dict[str, tuple[int | str, ...]] = {"f": ("F", 3), "kintree_table": (2, JOINTS)}
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

        MANO's own left hand does (https://github.com/vchoutas/smplx/issues/48). Told without the right hand's file:
        skin that grows or turns keeps the shape of small triangles. Negating x makes growth a stretch and a turn a
        shear. The shape directions' distortion, Σ area · |traceless in-plane strain|² over all triangles and
        directions, is compared with that of the same directions negated in x; the sign is called wrong if that lowers
        it by a quarter or more. `docs/mano-files.md` says how sure this is.
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
            "bs_style": "lbs",
            "bs_type": "lrotmin",
            "f": self.faces.astype(np.uint32),
            "v_template": self.template,
            "shapedirs": self.shape_directions,
            "posedirs": self.pose_directions,
            "weights": self.weights,
            "J_regressor": self.joint_regressor,
            "J": self.joint_regressor @ self.template,
            "kintree_table": np.array([[2**32 - 1, *self.parents[1:]], range(JOINTS)], dtype=np.int64),
            "hands_mean": self.hand_mean,
            "hands_components": self.hand_components,
            "hands_coeffs": self.hand_coefficients,
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
    """
    model = _read(path)
    if model.has_wrong_left_shape:
        warnings.warn(
            f"mano.load: the shape directions in {path} have the right hand's sign in x, a known fault of MANO's own "
            "left hand: betas mean another shape than on the right hand. load(path).with_left_shape_fixed() puts it "
            "right; keep the file as it is only for betas that were fitted with it as it is",
            stacklevel=2,
        )
    return model


def _read(path: str | os.PathLike[str]) -> ManoModel:
    with Path(path).open("rb") as file:
        return _parse(file.read(MAX_FILE_BYTES + 1), path)


def _parse(data: bytes, path: str | os.PathLike[str]) -> ManoModel:
    try:
        demand(len(data) <= MAX_FILE_BYTES, f"at most {MAX_FILE_BYTES} bytes", "more")
        return _model(_arrays(data))
    except ManoFileError as error:
        raise ManoFileError(f"mano.load: {error} in {path}") from None
    # Damaged bytes fail in as many ways as there are opcodes; nothing that they can cause is worth another error.
    except Exception as error:
        raise ManoFileError(f"mano.load: expected a MANO file, got {type(error).__name__} on reading {path}") from error


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    """The known fields of a file, by MANO's own names."""
    names = {**_FLOATS, **_INTEGERS}
    if data[:4] == b"PK\x03\x04":
        found: Mapping[str, Any] = read_archive(data, names)
    else:
        found = read_pickle(data)
    missing = [name for name in names if name not in found]
    demand(not missing, "MANO's fields", f"no {', '.join(missing)}")
    return {name: found[name] if isinstance(found[name], np.ndarray) else dense(found[name]) for name in names}


def _model(arrays: Mapping[str, np.ndarray]) -> ManoModel:
    """Check shapes, dtypes and values."""
    sizes: dict[str, int] = {}
    for name, shape in {**_FLOATS, **_INTEGERS}.items():
        array = arrays[name]
        text = "(" + ", ".join(str(size) for size in shape) + ")"
        demand(array.ndim == len(shape), f"{name} {text}", array.shape)
        for want, got in zip(shape, array.shape):
            size = sizes.setdefault(want, got) if isinstance(want, str) else want
            demand(size == got, f"{name} {text}" + (f" with {want} = {size}" if size != want else ""), array.shape)
            limit = _LIMITS.get(want, size) if isinstance(want, str) else size
            demand(1 <= got <= limit, f"{name} {text} with {want} from 1 to {limit}", array.shape)
        kinds, wanted = ("f", "a floating dtype") if name in _FLOATS else ("iu", "an integer dtype")
        demand(array.dtype.kind in kinds, f"{name} of {wanted}", array.dtype)
    floats = {name: np.array(arrays[name], dtype=np.float64, order="C") for name in _FLOATS}
    for name, values in floats.items():
        demand(bool(np.isfinite(values).all()), f"{name} to be finite", "a value that is not")
    faces, tree = (np.array(arrays[name], dtype=np.int64, order="C") for name in ("f", "kintree_table"))
    fits = bool(((faces >= 0) & (faces < sizes["V"])).all())
    demand(fits, f"f from 0 to {sizes['V'] - 1}", "an index out of range")
    parents = tree[0].copy()
    parents[0] = -1  # 2³² − 1 in MANO's files: −1 without a sign
    order = np.arange(JOINTS)
    fits = bool((tree[1] == order).all() and (parents[1:] >= 0).all() and (parents < order).all())
    demand(fits, "kintree_table with every joint after its parent", "another order")
    winding = relative_winding(faces, hand_asset()["faces"])
    return ManoModel(
        template=floats["v_template"],
        shape_directions=floats["shapedirs"],
        pose_directions=floats["posedirs"],
        joint_regressor=floats["J_regressor"],
        weights=floats["weights"],
        faces=faces,
        parents=parents,
        hand_mean=floats["hands_mean"],
        hand_components=floats["hands_components"],
        hand_coefficients=floats["hands_coeffs"],
        side={1: "right", -1: "left"}.get(winding),  # type: ignore[arg-type]
    )


def _distortion(template: np.ndarray, faces: np.ndarray, directions: np.ndarray) -> float:
    """Σ area · |traceless in-plane strain|² of the displacements (V, 3, S), over triangles and directions.

    Zero for whatever grows evenly in all directions or turns, locally as well as on the whole.
    """
    with np.errstate(all="ignore"):  # a file's numbers are finite, and may be as large as they like
        first, second = np.moveaxis(template[faces[:, 1:]] - template[faces[:, :1]], 1, 0)
        normal = np.cross(first, second)
        kept = np.linalg.norm(normal, axis=1) > 1e-12
        first, second, normal = first[kept], second[kept], normal[kept]
        moved = (directions[faces[:, 1:]] - directions[faces[:, :1]])[kept]  # (F, 2, 3, S)
        # In the orthonormal basis along, across of each triangle's plane its edges are (a, 0) and (b, c).
        a = np.linalg.norm(first, axis=1, keepdims=True)
        along = first / a
        across = np.cross(normal, along)
        across = across / np.linalg.norm(across, axis=1, keepdims=True)
        b, c = (second * along).sum(axis=1, keepdims=True), (second * across).sum(axis=1, keepdims=True)
        by_along = np.einsum("fxs,fax->fas", moved[:, 0], np.stack([along, across], axis=1)) / a[:, None]
        by_across = np.einsum("fxs,fax->fas", moved[:, 1], np.stack([along, across], axis=1))
        by_across = (by_across - b[:, None] * by_along) / c[:, None]
        stretch, shear = (by_along[:, 0] - by_across[:, 1]) / 2, (by_along[:, 1] + by_across[:, 0]) / 2
        return float((np.linalg.norm(normal, axis=1, keepdims=True) / 2 * (stretch**2 + shear**2)).sum())

"""Hands as a network predicted them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from texalign._internal import expect
from texalign.camera import PinholeCamera
from texalign.hand import TIP_VERTICES, HandModel, ManoParameters, mano_hand, rotation_vectors
from texalign.photographs import FARTHEST, NEAREST

WHO = "align"
# By the names that HaMeR's and WiLoR's code has for them.
_NAMES = {
    "vertices": ("vertices", "pred_vertices", "verts"),
    "cam_t": ("cam_t", "pred_cam_t_full", "cam_t_full"),
    "focal": ("focal", "scaled_focal_length"),
    "is_right": ("is_right", "right"),
}
# In place of vertices.
_MANO = ("global_orient", "hand_pose", "betas")
# Of the network's crop, not of the photograph.
_CROP = ("pred_cam_t", "focal_length")
# What numpy raises for files that are no archive, damaged, or of no arrays.
_UNREADABLE = (ValueError, TypeError, AttributeError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error)
# How far the product of a rotation matrix and its transpose may lie from 1: bfloat16 rounds by 0.004.
_ROUNDED = 0.05


@dataclass(frozen=True, eq=False)
class PredictedHand:
    """One hand.

    Attributes:
        joints: (21, 3) metres, camera frame, of the hand as it is.
        keypoints: (21, 2) pixels of the photograph.
        is_right: its side.
        focal: pixels of the photograph.
    """

    joints: Tensor
    keypoints: Tensor
    is_right: bool
    focal: float


def read_predictions(path: Path, size: tuple[int, int], layer: Any = None) -> list[PredictedHand]:
    """The hands of an .npz file with ``vertices`` (N, 778, 3), ``cam_t`` (N, 3), ``focal`` and ``is_right`` (N,).

    Vertices are MANO's, metres, of the hand as it is (HaMeR's demo mirrors left ones back before it draws them);
    ``vertices + cam_t`` lie before the photograph's camera, whose principal point is its middle. In their place the
    file may have MANO's parameters as these networks predict them, a right hand's for either side: ``global_orient``
    and ``hand_pose``, rotation matrices or axis-angles of 1 and 15 joints, and ``betas``. Joints are this library's:
    means of the vertices around them.

    Args:
        path: the file.
        size: (H, W) of the photograph.
        layer: smplx's, of the user's MANO_RIGHT.pkl, or None.

    Raises:
        ValueError: no such archive, arrays that are missing or do not fit, MANO's parameters without a layer, or hands
            that are not before the camera.
    """
    names = _NAMES | {name: (name,) for name in _MANO}
    try:
        with np.load(path) as file:
            arrays = {name: file[alias] for name, some in names.items() for alias in some[::-1] if alias in file.files}
            crops = [name for name in _CROP if name in file.files]
    except _UNREADABLE as error:
        raise ValueError(f"{WHO}: expected an archive of plain arrays in {path}, got {error}") from error
    for name, values in arrays.items():
        numbers = values.dtype.kind in "biuf"
        expect(
            numbers and np.isfinite(values).all(), WHO, f"finite numbers as {name} in {path}", _told(values, numbers)
        )
    posed = "vertices" not in arrays and all(name in arrays for name in _MANO)
    missing = [name for name in _NAMES if name not in arrays and not (posed and name == "vertices")]
    wanted = f"vertices, or {', '.join(_MANO)}; cam_t, focal and is_right in {path}"
    hint = f" of the photograph, only the crop's {' and '.join(crops)}" if crops else ""
    expect(not missing, WHO, wanted, f"no {', '.join(missing)}{hint}")
    count = arrays["is_right"].size
    expect(count > 0, WHO, f"a hand in {path}", "none")
    vertices = _posed(arrays, count, path, layer) if posed else arrays["vertices"]
    wanted = f"vertices ({count}, 778, 3), as many as is_right, in {path}"
    expect(_is_of(vertices, count, 778 * 3) and vertices.shape[-2:] == (778, 3), WHO, wanted, vertices.shape)
    vertices = vertices.reshape(count, 778, 3)
    focal, wanted = arrays["focal"].astype(np.float64).ravel(), f"cam_t ({count}, 3) and one or {count} focal in {path}"
    fits = _is_of(arrays["cam_t"], count, 3) and focal.size in (1, 2, count, 2 * count)
    expect(fits, WHO, wanted, f"{arrays['cam_t'].shape} and {arrays['focal'].shape}")
    if focal.size != count:  # one for all, or of x and y
        if focal.size % 2 == 0:
            alike = np.isclose(focal[::2], focal[1::2], rtol=0.01).all()
            expect(alike, WHO, f"one focal length for x and y in {path}", focal.tolist())
        focal = focal[::2] if focal.size == 2 * count else np.full(count, focal[0])
    placed = torch.from_numpy(vertices.astype(np.float32) + arrays["cam_t"].reshape(-1, 1, 3).astype(np.float32))
    depth = placed[..., 2]
    good = bool(((depth > NEAREST) & (depth < FARTHEST)).all()) and bool((np.isfinite(focal) & (focal > 0)).all())
    wanted = f"hands {NEAREST:g} to {FARTHEST:g} m before the camera and focal lengths in pixels in {path}"
    expect(good, WHO, wanted, f"{float(depth.min()):g} to {float(depth.max()):g} m and {focal.min():g}")
    model, height, width = HandModel(), *size
    base = torch.einsum("jv,nvc->njc", model.joint_regressor, placed)
    joints = torch.cat([base, placed[:, list(TIP_VERTICES)]], dim=1)[:, model.joint_order]
    hands = []
    for number in range(count):
        is_right = bool(arrays["is_right"].ravel()[number] > 0.5)
        corners = (placed[number] - placed[number].mean(dim=0))[model.faces]
        volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum()
        sides = ("left", "right")
        said = f"vertices of a {sides[not is_right]} hand: mirror x of vertices and cam_t"
        expect(bool(volume > 0) == is_right, WHO, f"hand {number} of {path} as a {sides[is_right]} hand", said)
        camera = PinholeCamera(torch.full((1, 2), float(focal[number])), torch.tensor([[width / 2, height / 2]]))
        keypoints = camera.project(joints[number][None])[0]
        inside = ((keypoints > 0) & (keypoints < torch.tensor([width, height]))).all(dim=1).float().mean().item()
        expect(inside > 0.25, WHO, f"hand {number} of {path} in the photograph", f"{inside:.0%} of its joints there")
        hands.append(PredictedHand(joints[number], keypoints, is_right, float(focal[number])))
    return hands


def _posed(arrays: dict[str, np.ndarray], count: int, path: Path, layer: Any) -> np.ndarray:
    """Vertices (N, 778, 3) of MANO's parameters, mirrored for left hands, as HaMeR's demo mirrors them."""
    expect(layer is not None, WHO, f"--mano MANO_RIGHT.pkl, to pose the MANO parameters in {path}", "none")
    betas, wanted = _floats(arrays["betas"]), f"betas ({count}, {layer.num_betas}) in {path}"
    expect(_is_of(arrays["betas"], count, int(layer.num_betas)), WHO, wanted, tuple(betas.shape))
    betas = betas.reshape(count, -1)
    orient = _axis_angles(arrays["global_orient"], count, 1, f"global_orient in {path}")
    pose = _axis_angles(arrays["hand_pose"], count, 15, f"hand_pose in {path}")
    with torch.no_grad():
        vertices, _ = mano_hand(layer, ManoParameters(orient, pose, betas, torch.zeros(count, 3)))
    mirrored = torch.from_numpy(arrays["is_right"].ravel() <= 0.5)[:, None]
    vertices[..., 0] = torch.where(mirrored, -vertices[..., 0], vertices[..., 0])
    return vertices.numpy()


def _axis_angles(values: np.ndarray, count: int, joints: int, name: str) -> Tensor:
    """(N, 3 · joints), of as many axis-angles or rotation matrices."""
    numbers = _floats(values)
    wanted = f"axis-angles ({count}, {3 * joints}) or rotation matrices ({count}, {joints}, 3, 3) as {name}"
    matrices = values.shape[-2:] == (3, 3) and _is_of(values, count, 9 * joints)
    vectors = values.shape[-1:] in ((3,), (3 * joints,)) and _is_of(values, count, 3 * joints)
    expect(matrices or vectors, WHO, wanted, values.shape)
    if not matrices:
        return numbers.reshape(count, 3 * joints)
    numbers = numbers.reshape(count, joints, 3, 3)
    off = (numbers @ numbers.transpose(2, 3) - torch.eye(3)).abs()
    rotations = bool((off < _ROUNDED).all()) and bool((torch.linalg.det(numbers) > 0).all())
    expect(rotations, WHO, f"rotation matrices as {name}", "others")
    return rotation_vectors(numbers).flatten(1)


def _is_of(values: np.ndarray, count: int, numbers: int) -> bool:
    """Whether it holds so many numbers for each hand, hands along the first axis; a single one may go without."""
    return values.size == count * numbers and (count == 1 or values.shape[0] == count)


def _told(values: np.ndarray, numbers: bool) -> str:
    return f"{int((~np.isfinite(values)).sum())} others" if numbers else f"dtype {values.dtype}"


def _floats(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))

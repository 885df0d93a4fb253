"""Hands as a network predicted them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from texalign._internal import expect
from texalign.camera import PinholeCamera
from texalign.hand import TIP_VERTICES, HandModel

WHO = "align"
# By the names that HaMeR's and WiLoR's code has for them, the whole photograph's first.
_NAMES = {
    "vertices": ("vertices", "pred_vertices", "verts"),
    "cam_t": ("cam_t", "pred_cam_t_full", "cam_t_full", "pred_cam_t"),
    "focal": ("focal", "scaled_focal_length", "focal_length"),
    "is_right": ("is_right", "right"),
}


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


def read_predictions(path: Path, size: tuple[int, int]) -> list[PredictedHand]:
    """The hands of an .npz file with ``vertices`` (N, 778, 3), ``cam_t`` (N, 3), ``focal`` and ``is_right`` (N,).

    Vertices are MANO's, metres, of the hand as it is (HaMeR's demo mirrors left ones back before it draws them);
    ``vertices + cam_t`` lie before the photograph's camera, whose principal point is its middle. Joints are this
    library's: means of the vertices around them.

    Args:
        path: the file.
        size: (H, W) of the photograph.

    Raises:
        ValueError: no such archive, arrays that are missing or do not fit, or hands that are not before the camera.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[alias] for name, some in _NAMES.items() for alias in some[::-1] if alias in file.files}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{WHO}: expected an archive of plain arrays in {path}, got {error}") from error
    missing = [name for name in _NAMES if name not in arrays]
    expect(not missing, WHO, f"vertices, cam_t, focal and is_right in {path}", f"no {', '.join(missing)}")
    vertices = arrays["vertices"].reshape(-1, *arrays["vertices"].shape[-2:])
    count = len(vertices)
    expect(vertices.shape[1:] == (778, 3), WHO, f"vertices (N, 778, 3) in {path}", arrays["vertices"].shape)
    fits = arrays["cam_t"].size == 3 * count and arrays["is_right"].size == count
    expect(fits, WHO, f"cam_t ({count}, 3) and is_right ({count},) in {path}", "others")
    focal = arrays["focal"].astype(np.float64).ravel()
    focal = np.broadcast_to(focal[: 1 if focal.size in (1, 2) else None], (count,)).copy() if focal.size else focal
    placed = torch.from_numpy(vertices.astype(np.float32) + arrays["cam_t"].reshape(-1, 1, 3).astype(np.float32))
    good = bool(placed.isfinite().all()) and bool((placed[..., 2] > 0).all()) and bool((focal > 0).all())
    expect(good, WHO, f"hands before the camera and focal lengths in pixels in {path}", "others")
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

"""Real photographs with joints, read from the folder that TEXALIGN_REAL_DATA names, never part of the project."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import texalign as ta


@dataclass(frozen=True)
class Photographs:
    """Frames of a left hand, mirrored into the right hand's frame.

    Attributes:
        image: (B, 3, S, S) in [0, 1].
        mask: (B, 1, S, S), a pseudo mask (GrabCut), not ground truth.
        camera: of the S × S image.
        joints: (B, 21, 3) metres, camera frame, true.
        joints_image: (B, 21, 2) pixels, true.
        detections: (B, 21, 2) pixels, of a detector; NaN where it missed.
    """

    image: Tensor
    mask: Tensor
    camera: ta.PinholeCamera
    joints: Tensor
    joints_image: Tensor
    detections: Tensor


def folder() -> Path | None:
    """Where the photographs lie, if anywhere."""
    path = os.environ.get("TEXALIGN_REAL_DATA")
    return Path(path) if path and (Path(path) / "annotations.npz").exists() else None


def load(root: Path, ids: range | list[int], size: int) -> Photographs:
    """Read frames by id, resize them to S × S by area, and mirror them.

    Annotations count pixels at their centres: half a pixel is added before anything else.
    """
    from PIL import Image

    frames = list(ids)
    with np.load(root / "annotations.npz") as data:
        rows = [data["ids"].tolist().index(frame) for frame in frames]
        full = int(data["image_size"])
        intrinsics = torch.from_numpy(data["K_crop"][rows]).float()
        joints = torch.from_numpy(data["joints_cam_cm"][rows]).float() / 100
        marks = [torch.from_numpy(data[key][rows]).float() for key in ("joints_px", "mediapipe_px")]
    scale = size / full

    def read(name: str, mode: str) -> Tensor:
        paths = [root / name.format(frame) for frame in frames]
        images = [np.asarray(Image.open(path).convert(mode), dtype=np.float32) / 255 for path in paths]
        stack = torch.from_numpy(np.stack(images))
        stack = stack[:, None] if mode == "L" else stack.permute(0, 3, 1, 2)
        return torch.nn.functional.interpolate(stack, size=size, mode="area").flip(-1)

    mirror = torch.tensor([-1.0, 1.0, 1.0])
    points = [torch.stack([size - (m[..., 0] + 0.5) * scale, (m[..., 1] + 0.5) * scale], dim=-1) for m in marks]
    camera = ta.PinholeCamera(intrinsics[:, :2] * scale, (intrinsics[:, 2:] + 0.5) * scale).mirrored(size)
    image, mask = read("images/{:05d}.jpg", "RGB"), read("pseudo_masks/{:05d}.png", "L")
    return Photographs(image, mask, camera, joints * mirror, points[0], points[1])

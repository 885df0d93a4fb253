"""Reading a folder of real photographs of hands with keypoints; its format is in docs/photographs.md."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from texalign._internal import expect
from texalign.camera import PinholeCamera

WHO = "read_photographs"
# Keypoints are the first of these that the folder has; the last one are true ones.
KEYPOINTS = ("keypoints_px", "mediapipe_px", "joints_px")
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
MASK_FOLDERS = ("masks", "pseudo_masks")
# The arrays with a row for every photograph, and the shape of a row; "V" is any number above 0.
_ROWS: dict[str, tuple[int | str, ...]] = {
    "K_crop": (4,),
    **dict.fromkeys(KEYPOINTS, (21, 2)),
    "joints_cam_cm": (21, 3),
    "vertices_cam_cm": ("V", 3),
    "hand_id": (),
}


@dataclass(frozen=True, eq=False)
class Photographs:
    """Right hands, or left hands in a mirror.

    Attributes:
        ids: (B,) the photographs' numbers.
        image: (B, 3, S, S) sRGB in [0, 1].
        camera: of the S × S images.
        keypoints: (B, 21, 2) pixels, of a detector or an annotator; NaN where unknown.
        mask: (B, 1, S, S) in [0, 1], hand skin, or None.
        joints: (B, 21, 3) metres, camera frame, true, or None.
        joints_image: (B, 21, 2) pixels, true, or None.
        vertices: (B, V, 3) metres, camera frame, or None.
        hand_id: (B,) int64, equal where photographs show the same hand in the same light; None if unknown.
    """

    ids: tuple[int, ...]
    image: Tensor
    camera: PinholeCamera
    keypoints: Tensor
    mask: Tensor | None
    joints: Tensor | None
    joints_image: Tensor | None
    vertices: Tensor | None
    hand_id: Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.ids)

    def select(self, rows: Tensor) -> Photographs:
        """Some of them, by row (N,) int64."""
        tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors().items()}
        ids = tuple(self.ids[row] for row in rows.tolist())
        return replace(self, ids=ids, camera=self.camera[rows.to(self.camera.device)], **tensors)

    def to(self, device: torch.device | str) -> Photographs:
        """The same on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, camera=self.camera.to(device), **tensors)

    def fingerprint(self) -> str:
        """A hexadecimal digest of all tensors: other photographs have another one."""
        digest = hashlib.sha256(repr(self.ids).encode())
        named = {**self._tensors(), "focal": self.camera.focal, "principal": self.camera.principal}
        for name, tensor in sorted(named.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, Any]:
        names = ("image", "keypoints", "mask", "joints", "joints_image", "vertices", "hand_id")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def photograph_ids(folder: str | Path) -> tuple[int, ...]:
    """The numbers of the photographs in a folder, in its own order.

    Raises:
        FileNotFoundError, ValueError: as `read_photographs`, as far as the annotations go.
    """
    return tuple(_read_annotations(Path(folder))["ids"].tolist())


def read_photographs(folder: str | Path, ids: Sequence[int] | None = None, image_size: int = 128) -> Photographs:
    """Read photographs by number, resize them by area, and mirror left hands. Needs pillow.

    They are kept in memory: 0.2 MB for each at 128 pixels.

    Args:
        folder: see docs/photographs.md.
        ids: which; None takes all.
        image_size: S, pixels.

    Raises:
        FileNotFoundError: no annotations, or no image or mask of that number.
        ValueError: a number or array that is missing or has a wrong shape or value, or a bad image.
        MissingExtraError: pillow is not installed.
    """
    folder = Path(folder)
    expect(isinstance(image_size, int) and image_size > 0, WHO, "image_size > 0", repr(image_size))
    data = _read_annotations(folder)
    row_of = {number: row for row, number in enumerate(data["ids"].tolist())}
    numbers = tuple(row_of) if ids is None else tuple(int(number) for number in ids)
    missing = sorted(set(numbers) - set(row_of))
    expect(not missing, WHO, f"numbers in {folder / 'annotations.npz'}", missing[:5])
    expect(len(numbers) > 0, WHO, "at least one photograph", "none")
    rows = np.array([row_of[number] for number in numbers])
    chosen = {name: data[name][rows] for name in _ROWS if name in data}
    _check_values(chosen, numbers)
    size = int(data["image_size"])
    left = torch.from_numpy(np.broadcast_to(data["hand"] == "left", len(row_of))[rows].copy())
    scale = image_size / size

    def points(name: str) -> Tensor | None:
        if name not in chosen:
            return None
        # Annotations count pixels at their centres.
        pixels = (torch.from_numpy(chosen[name]).float() + 0.5) * scale
        flipped = torch.stack([image_size - pixels[..., 0], pixels[..., 1]], dim=-1)
        return torch.where(left[:, None, None], flipped, pixels)

    def space(name: str) -> Tensor | None:
        if name not in chosen:
            return None
        metres = torch.from_numpy(chosen[name]).float() / 100
        return torch.where(left[:, None, None], metres * torch.tensor([-1.0, 1.0, 1.0]), metres)

    def pictures(paths: list[Path], mode: str) -> Tensor:
        stack = torch.stack([_read_picture(path, mode, size, image_size) for path in paths])
        return torch.where(left[:, None, None, None], stack.flip(-1), stack)

    intrinsics = torch.from_numpy(chosen["K_crop"]).float()
    camera = PinholeCamera(intrinsics[:, :2] * scale, (intrinsics[:, 2:] + 0.5) * scale)
    principal = torch.where(left[:, None], camera.mirrored(image_size).principal, camera.principal)
    keypoints = next(marks for name in KEYPOINTS if (marks := points(name)) is not None)
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    return Photographs(
        ids=numbers,
        image=pictures([_find(folder / "images", number) for number in numbers], "RGB"),
        camera=PinholeCamera(camera.focal, principal),
        keypoints=keypoints,
        mask=None if masks is None else pictures([_find(masks, number) for number in numbers], "L"),
        joints=space("joints_cam_cm"),
        joints_image=points("joints_px"),
        vertices=space("vertices_cam_cm"),
        hand_id=torch.from_numpy(chosen["hand_id"].astype(np.int64)) if "hand_id" in chosen else None,
    )


def _read_annotations(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of annotations.npz that are known, with every name, shape and kind checked."""
    path = folder / "annotations.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{WHO}: expected {path} (see docs/photographs.md), got no such file")
    known = ("ids", "image_size", "hand", *_ROWS)
    try:
        with np.load(path) as file:
            data = {name: file[name] for name in known if name in file.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{WHO}: expected an archive of plain arrays in {path}, got {error}") from error
    absent = [name for name in ("ids", "image_size", "hand", "K_crop") if name not in data]
    expect(not absent, WHO, f"the arrays ids, image_size, hand and K_crop in {path}", f"no {', '.join(absent)}")
    expect(any(name in data for name in KEYPOINTS), WHO, f"one of {', '.join(KEYPOINTS)} in {path}", "none of them")
    ids, size, hand = data["ids"], data["image_size"], data["hand"]
    whole = ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    expect(whole, WHO, "ids (N,) of whole numbers", f"{ids.shape} of {ids.dtype}")
    expect(len(np.unique(ids)) == len(ids), WHO, "ids that differ", "a number twice")
    positive = size.size == 1 and np.issubdtype(size.dtype, np.integer) and size.item() > 0
    expect(positive, WHO, "image_size, one whole number above 0", size)
    expect(hand.shape in ((), ids.shape), WHO, f"hand, one word or ({len(ids)},)", hand.shape)
    words = set(hand.reshape(-1).tolist())
    expect(words <= {"left", "right"}, WHO, "hand of 'left' and 'right'", words)
    for name, row in _ROWS.items():
        if name in data:
            shape, got = (len(ids), *row), data[name].shape
            text = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
            fits = len(got) == len(shape) and all(
                size > 0 if want == "V" else size == want for want, size in zip(shape, got)
            )
            expect(fits, WHO, f"{name} {text}", got)
            kind, text = (np.integer, "whole numbers") if name == "hand_id" else (np.number, "numbers")
            expect(np.issubdtype(data[name].dtype, kind), WHO, f"{name} of {text}", data[name].dtype)
    return data


def _check_values(chosen: Mapping[str, np.ndarray], numbers: Sequence[int]) -> None:
    """Refuse values that are no camera and no mesh. Keypoints may be unknown."""
    camera = chosen["K_crop"]
    bad = ~(np.isfinite(camera).all(axis=1) & (camera[:, :2] > 0).all(axis=1))
    _expect_none(bad, numbers, "K_crop finite, with focal lengths above 0", camera)
    if "vertices_cam_cm" in chosen:
        vertices = chosen["vertices_cam_cm"]
        # A comparison with NaN is False as well.
        bad = ~(np.isfinite(vertices).all(axis=(1, 2)) & (vertices[..., 2] > 0).all(axis=1))
        _expect_none(bad, numbers, "vertices_cam_cm finite and before the camera", vertices[:, :, 2].min(axis=1))


def _expect_none(bad: np.ndarray, numbers: Sequence[int], expected: str, values: np.ndarray) -> None:
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"{WHO}: expected {expected}, got {values[first]} for photograph {numbers[first]}")


def _find(folder: Path, number: int) -> Path:
    for suffix in IMAGE_SUFFIXES:
        if (path := folder / f"{number:05d}{suffix}").is_file():
            return path
    raise FileNotFoundError(f"{WHO}: expected {folder / f'{number:05d}'}.jpg, .jpeg or .png, got no such file")


def _read_picture(path: Path, mode: str, size: int, image_size: int) -> Tensor:
    """(C, S, S) in [0, 1]."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        from texalign._internal import MissingExtraError

        raise MissingExtraError('reading photographs needs pillow: pip install "texalign[demo]"') from error
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert(mode), dtype=np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{WHO}: expected an image in {path}, got {error}") from error
    got = f"{pixels.shape[1]} × {pixels.shape[0]} in {path}"
    expect(pixels.shape[:2] == (size, size), WHO, f"images of image_size {size} × {size}", got)
    channels = torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)
    return interpolate(channels[None], size=image_size, mode="area")[0]

"""Reading a folder of real photographs of hands with keypoints; its format is in docs/photographs.md."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from texalign._internal import PIXEL_CENTRE, SMALLEST_HAND, expect, expect_pixels, hand_extent
from texalign.camera import PinholeCamera
from texalign.photographs.image_files import read_image, read_mask
from texalign.photographs.keypoints import LONGEST_FOCAL, SHORTEST_FOCAL, known_points

WHO = "read_photographs"
# Keypoints are the first of these that the folder has; the last one are true ones.
KEYPOINTS = ("keypoints_px", "mediapipe_px", "joints_px")
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
MASK_FOLDERS = ("masks", "pseudo_masks")
# The arrays with a row for every photograph, and the shape of a row: "V" is any number above 0, "2|3" both of them.
_ROWS: dict[str, tuple[int | str, ...]] = {
    "K_crop": (4,),
    **dict.fromkeys(KEYPOINTS, (21, "2|3")),
    "joints_cam_cm": (21, 3),
    "vertices_cam_cm": ("V", 3),
    "hand_id": (),
}
# Centimetres between which the longest side of a hand's box lies: a child's fist, a giant's hand.
_SMALLEST, _LARGEST = 3, 60
# Of the 21: fewer do not determine a hand's pose.
_FEWEST_KEYPOINTS = 11
# With fewer of the keypoints on skin, masks and keypoints are not of the same photographs.
_FEWEST_ON_SKIN = 0.25


@dataclass(frozen=True, eq=False)
class Photographs:
    """Right hands, or left hands in a mirror.

    Attributes:
        ids: (B,) the photographs' numbers.
        image: (B, 3, S, S) sRGB in [0, 1].
        camera: of the S × S images.
        keypoints: (B, 21, 2) pixels, of a detector or an annotator; NaN where missing.
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

    def fittable(self) -> Tensor:
        """Which have keypoints enough to fit a hand to: 11 of the 21 or more, over at least 4 pixels; (B,) bool."""
        known = self.keypoints.isfinite().all(dim=-1).sum(dim=1)
        return (known >= _FEWEST_KEYPOINTS) & (hand_extent(self.keypoints) >= SMALLEST_HAND)

    def on_skin(self, points: Tensor) -> Tensor:
        """Which points (B, N, 2), pixels, lie in the image, and on the mask's skin if there is one: (B, N) bool."""
        inside = ((points >= 0) & (points < self.image.shape[-1])).all(dim=-1)
        if self.mask is None:
            return inside
        column, row = torch.where(inside[..., None], points, 0).long().unbind(dim=-1)
        return inside & (self.mask[torch.arange(len(row), device=row.device)[:, None], 0, row, column] > 0.5)

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

    Example:
        >>> from importlib.resources import files
        >>> len(photograph_ids(files("texalign") / "assets/people"))  # the demo's
        12
    """
    return tuple(_read_annotations(Path(folder))["ids"].tolist())


def read_photographs(folder: str | Path, ids: Sequence[int] | None = None, image_size: int = 128) -> Photographs:
    """Read photographs by number, resize them by area, and mirror left hands. Needs pillow.

    They are kept in memory: 0.2 MB for each at 128 pixels. A warning says if all masks are empty or full, or miss the
    keypoints.

    Args:
        folder: see docs/photographs.md.
        ids: which; None takes all.
        image_size: S, pixels.

    Raises:
        FileNotFoundError: no annotations, or no image or mask of that number.
        ValueError: a number or array that is missing or has a wrong shape or value, keypoints that are no pixels, two
            files of one number, or a bad image.
        MissingExtraError: pillow is not installed.

    Example:
        >>> from importlib.resources import files
        >>> folder = files("texalign") / "assets/people"  # the demo's
        >>> read_photographs(folder, ids=photograph_ids(folder)[:2], image_size=64).image.shape
        torch.Size([2, 3, 64, 64])
    """
    folder = Path(folder)
    expect(isinstance(image_size, int) and image_size > 0, WHO, "image_size > 0", repr(image_size))
    data = _read_annotations(folder)
    row_of = {number: row for row, number in enumerate(data["ids"].tolist())}
    numbers = tuple(row_of) if ids is None else tuple(np.asarray(ids).tolist())
    missing = sorted(set(numbers) - set(row_of))
    expect(not missing, WHO, f"numbers in {folder / 'annotations.npz'}", missing[:5])
    expect(len(numbers) > 0, WHO, "at least one photograph", "none")
    rows = np.array([row_of[number] for number in numbers])
    chosen = {name: data[name][rows] for name in _ROWS if name in data}
    size = int(data["image_size"])
    _check_values(chosen, numbers, size)
    left = torch.from_numpy(np.broadcast_to(data["hand"] == "left", len(row_of))[rows].copy())
    scale = image_size / size

    def points(name: str) -> Tensor | None:
        if name not in chosen:
            return None
        pixels, _ = known_points(chosen[name], f"{WHO}: {name}")
        expect_pixels(pixels, (size, size), f"{WHO}: {name}")
        pixels = pixels * scale
        flipped = torch.stack([image_size - pixels[..., 0], pixels[..., 1]], dim=-1)
        return torch.where(left[:, None, None], flipped, pixels)

    def space(name: str) -> Tensor | None:
        if name not in chosen:
            return None
        metres = torch.from_numpy(chosen[name]).float() / 100
        return torch.where(left[:, None, None], metres * torch.tensor([-1.0, 1.0, 1.0]), metres)

    def pictures(folder: Path, read: Callable[[Path, tuple[int, int]], Tensor]) -> Tensor:
        paths = _files(folder, numbers)
        stack = torch.cat([interpolate(read(path, (size, size))[None], size=image_size, mode="area") for path in paths])
        return torch.where(left[:, None, None, None], stack.flip(-1), stack)

    intrinsics = torch.from_numpy(chosen["K_crop"]).float()
    camera = PinholeCamera(intrinsics[:, :2] * scale, (intrinsics[:, 2:] + PIXEL_CENTRE) * scale)
    principal = torch.where(left[:, None], camera.mirrored(image_size).principal, camera.principal)
    keypoints = next(marks for name in KEYPOINTS if (marks := points(name)) is not None)
    some = "vertices_cam_cm" in chosen or bool(keypoints.isfinite().any())
    expect(some, WHO, "known keypoints, or vertices_cam_cm", f"none in {len(numbers)} photographs")
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    photographs = Photographs(
        ids=numbers,
        image=pictures(folder / "images", _read_square),
        camera=PinholeCamera(camera.focal, principal),
        keypoints=keypoints,
        mask=None if masks is None else pictures(masks, read_mask),
        joints=space("joints_cam_cm"),
        joints_image=points("joints_px"),
        vertices=space("vertices_cam_cm"),
        hand_id=torch.from_numpy(chosen["hand_id"].astype(np.int64)) if "hand_id" in chosen else None,
    )
    if photographs.mask is not None:
        _look_at(photographs, photographs.mask > 0.5, masks)
    return photographs


def _read_annotations(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of annotations.npz that are known, with every name, shape and kind checked."""
    path = folder / "annotations.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{WHO}: expected {path} (see docs/photographs.md), got no such file")
    known = ("ids", "image_size", "hand", *_ROWS)
    try:
        with np.load(path) as file:
            data = {name: file[name] for name in known if name in file.files}
    except Exception as error:  # numpy and zipfile raise errors of many kinds
        raise ValueError(f"{WHO}: expected an archive of plain arrays in {path}, got {error}") from error
    absent = [name for name in ("ids", "image_size", "hand", "K_crop") if name not in data]
    expect(not absent, WHO, f"the arrays ids, image_size, hand and K_crop in {path}", f"no {', '.join(absent)}")
    expect(any(name in data for name in KEYPOINTS), WHO, f"one of {', '.join(KEYPOINTS)} in {path}", "none of them")
    ids, size, hand = data["ids"], data["image_size"], data["hand"]
    whole = ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    expect(whole, WHO, "ids (N,) of whole numbers", f"{ids.shape} of {ids.dtype}")
    expect(len(np.unique(ids)) == len(ids), WHO, "ids that differ", "a number twice")
    if hand.dtype.kind in "SU":
        data["hand"] = hand = np.char.lower(hand.astype(str))
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
                size > 0 if want == "V" else str(size) in str(want).split("|") for want, size in zip(shape, got)
            )
            expect(fits, WHO, f"{name} {text}", got)
            kinds, text = ("iu", "whole numbers") if name == "hand_id" else ("iuf", "numbers")
            expect(data[name].dtype.kind in kinds, WHO, f"{name} of {text}", data[name].dtype)
    return data


def _check_values(chosen: Mapping[str, np.ndarray], numbers: Sequence[int], size: int) -> None:
    """Refuse values that are no camera and no hand. Keypoints and true joints may be unknown."""
    camera = chosen["K_crop"].astype(np.float64)
    focal = camera[:, :2]
    # A comparison with NaN is False; what float32 cannot hold is no camera either.
    low, high = SHORTEST_FOCAL * size, LONGEST_FOCAL * size
    good = ((focal > low) & (focal < high)).all(axis=1) & (abs(camera) < 1e9).all(axis=1)
    good &= focal.max(axis=1) < 2 * focal.min(axis=1)
    wanted = f"K_crop of fx, fy, cx, cy in pixels, fx and fy alike, {low:g} to {high:g}"
    _expect_all(good, numbers, wanted, camera)
    for name in ("vertices_cam_cm", "joints_cam_cm"):
        if name in chosen:
            points = np.where(np.isfinite(chosen[name]), chosen[name].astype(np.float64), np.nan)
            some = np.isnan(points).any(axis=(1, 2)) & (name == "joints_cam_cm")
            nearest, extent = points[..., 2].min(axis=1), (points.max(axis=1) - points.min(axis=1)).max(axis=1)
            _expect_all((nearest > 0) | some, numbers, f"{name} finite and before the camera", nearest)
            good = (extent > _SMALLEST) & (extent < _LARGEST)
            wanted = f"{name} in centimetres, a hand of {_SMALLEST} to {_LARGEST}"
            _expect_all(good | some, numbers, wanted, extent)


def _expect_all(good: np.ndarray, numbers: Sequence[int], expected: str, values: np.ndarray) -> None:
    if not good.all():
        first = int(good.argmin())
        raise ValueError(f"{WHO}: expected {expected}, got {values[first]} for photograph {numbers[first]}")


def _files(folder: Path, numbers: Sequence[int]) -> list[Path]:
    """The image file of every number."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    found = []
    for stem in (f"{number:05d}" for number in numbers):
        if stem not in files:
            raise FileNotFoundError(f"{WHO}: expected {folder / stem}.jpg, .jpeg or .png, got no such file")
        expect(len(files[stem]) == 1, WHO, f"one file {folder / stem}", [path.name for path in files[stem]])
        found += files[stem]
    return found


def _read_square(path: Path, size: tuple[int, int]) -> Tensor:
    image = read_image(path)
    got = f"{image.shape[2]} × {image.shape[1]} in {path}"
    expect(image.shape[1:] == size, WHO, f"images of image_size {size[1]} × {size[0]}", got)
    return image


def _look_at(photographs: Photographs, skin: Tensor, folder: Path | None) -> None:
    """Warn of masks that say nothing, or something else than the keypoints."""
    found = None
    share = photographs.on_skin(photographs.keypoints).sum() / photographs.keypoints.isfinite().all(dim=-1).sum()
    if skin.all() or not skin.any():
        found = f"are {'full' if skin.all() else 'empty'} in all {len(skin)} photographs"
    elif share < _FEWEST_ON_SKIN:
        found = f"have {share:.0%} of the keypoints on skin: inverted, turned, or of other photographs?"
    if found is not None:
        warnings.warn(f"{WHO}: the masks in {folder} {found}", UserWarning, stacklevel=3)

"""Keypoints as files hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from texalign._internal import FEWEST_KEYPOINTS, PIXEL_CENTRE, expect, expect_pixels

WHO = "read_keypoints"
# Of the image's side: a shorter focal length would see more than 157 degrees, a longer one less than a tenth of one.
SHORTEST_FOCAL, LONGEST_FOCAL = 0.1, 1000.0
# COCO's visibility goes up to 2, and heat maps overshoot 1.
_LARGEST_CONFIDENCE = 2.0
_FORMS = '21 points [x, y] or [x, y, confidence], alone or as {"hand": "left", "keypoints": [...]}'


@dataclass(frozen=True, eq=False)
class HandKeypoints:
    """Keypoints of one hand in one photograph.

    Attributes:
        points: (21, 2) pixels of the upright photograph, in the order of `texalign.hand.JOINT_NAMES`; the first pixel's
            centre is (0.5, 0.5). NaN where missing.
        confidence: (21,) in [0, 1], 0 where missing.
        is_right: whether it is a right hand; None if not said.
        focal: pixels; None if not said.
    """

    points: Tensor
    confidence: Tensor
    is_right: bool | None = None
    focal: float | None = None


def read_keypoints(source: object, size: Sequence[int] | None = None) -> HandKeypoints:
    """Keypoints of one hand from a JSON file, or from what such a file holds.

    Args:
        source: a path, or 21 rows [x, y] or [x, y, confidence] (nested lists, an array, a tensor, or 63 numbers in a
            row), or a mapping with these as ``keypoints`` and, optional, ``hand`` ("left" or "right"), ``is_right``
            (these words, true, false, 1 or 0) and ``focal`` (pixels). x and y are pixels of the upright photograph,
            counted from the first one's centre at (0, 0). A point is missing if its confidence is 0 or below, if one of
            its numbers is null or not finite, or if it lies at (0, 0) exactly.
        size: (H, W) of the upright photograph, to check against; None checks what it can.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another form or value; fewer than four known points; points that are no pixels of the photograph.

    Example:
        >>> rows = [[10.0 * joint, 20.0, 0.9] for joint in range(21)]
        >>> hand = read_keypoints({"hand": "left", "keypoints": rows}, size=(48, 640))
        >>> hand.is_right, hand.points[1]
        (False, tensor([10.5000, 20.5000]))
    """
    content = _json(Path(source)) if isinstance(source, (str, Path)) else source
    if isinstance(content, Mapping):
        expect("keypoints" in content, WHO, _FORMS, _told(content))
        values, described = content["keypoints"], content
    else:
        values, described = content, {}
    rows = _numbers(values)
    if rows.shape in ((42,), (63,)):
        rows = rows.reshape(21, -1)
    expect(rows.shape in ((21, 2), (21, 3)), WHO, _FORMS, f"numbers of shape {rows.shape}")
    points, confidence = known_points(rows, WHO)
    known = int((confidence > 0).sum())
    expect(known >= FEWEST_KEYPOINTS, WHO, f"at least {FEWEST_KEYPOINTS} known keypoints of 21", known)
    expect_pixels(points[None], size, WHO)
    if size is not None:
        limit = torch.tensor([size[1], size[0]])
        far = ((points < -limit) | (points > 2 * limit)).any(dim=1)
        expect(not far.any(), WHO, "keypoints no farther outside the image than it is large", points[far].tolist())
    return HandKeypoints(points, confidence, _is_right(described), _focal(described.get("focal"), size))


def known_points(rows: np.ndarray, who: str) -> tuple[Tensor, Tensor]:
    """A file's points (..., 2) or (..., 3) as pixels (..., 2), NaN where missing, and confidences (...) in [0, 1]."""
    values = torch.from_numpy(rows.astype(np.float64)).float()
    pixels = values[..., :2]
    confidence = torch.ones(pixels.shape[:-1])
    if values.shape[-1] == 3:
        given = values[..., 2]
        # -1 also says missing; other numbers would be depths.
        bad = given.isfinite() & ((given > _LARGEST_CONFIDENCE) | ((given < 0) & (given != -1)))
        wanted = f"a confidence in [0, {_LARGEST_CONFIDENCE:g}] as third number of a point"
        expect(not bad.any(), who, wanted, f"{given[bad][:1].sum():g}")
        confidence = given.nan_to_num(0.0).clamp(0, 1)
    missing = (confidence == 0) | ~pixels.isfinite().all(dim=-1) | (pixels == 0).all(dim=-1)
    points = torch.where(missing[..., None], torch.nan, pixels + PIXEL_CENTRE)
    return points, torch.where(missing, 0.0, confidence)


def _json(path: Path) -> Any:
    try:
        # Editors on Windows begin a file with a mark of its encoding.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{WHO}: expected {path}, got no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{WHO}: expected JSON in UTF-8 in {path}, got {error}") from error


def _numbers(values: object) -> np.ndarray:
    """Nested lists, an array or a tensor as float64, NaN for null."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{WHO}: expected {_FORMS}, got {_told(values)}")
    rows = [list(row) if isinstance(row, (list, tuple, np.ndarray)) else [row] for row in values]
    lengths = sorted({len(row) for row in rows})
    for number in (number for row in rows for number in row):
        plain = number is None or (isinstance(number, Real) and not isinstance(number, bool))
        expect(plain, WHO, f"numbers or null in {_FORMS}", _told(number))
    expect(len(lengths) == 1, WHO, _FORMS, f"{len(rows)} points, of {' or '.join(map(str, lengths)) or 'no'} numbers")
    try:
        array = np.array([[math.nan if number is None else float(number) for number in row] for row in rows])
    except OverflowError as error:
        raise ValueError(f"{WHO}: expected pixels, got a number of hundreds of digits") from error
    return array[:, 0] if lengths == [1] else array


def _is_right(described: Mapping[Any, Any]) -> bool | None:
    sides = set()
    for key in ("hand", "is_right"):
        value = described.get(key)
        word = value.strip().lower() if isinstance(value, str) else None
        if word in ("left", "right"):
            sides.add(word == "right")
        elif key == "is_right" and isinstance(value, (bool, np.bool_, Real)) and value in (0, 1):
            sides.add(bool(value))
        else:
            wanted = '"left" or "right" as hand, or these words, true, false, 1 or 0 as is_right'
            expect(value is None, WHO, wanted, _told(value))
    expect(len(sides) < 2, WHO, "hand and is_right to agree", "two sides")
    return next(iter(sides), None)


def _focal(value: object, size: Sequence[int] | None) -> float | None:
    if value is None:
        return None
    least, most = (limit * max(size) for limit in (SHORTEST_FOCAL, LONGEST_FOCAL)) if size is not None else (0.0, 1e9)
    focal = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    expect(least < focal < most, WHO, f"focal in pixels, {least:g} to {most:g}", _told(value))
    return focal


def _told(value: object) -> str:
    """A value of a file in a few words."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(str(key) for key in value) or 'nothing'}"[:80]
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"{type(value).__name__} {value!r}"[:80]

"""What `align` is given for a photograph: the picture, its hands and its focal length."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import expect
from texalign.cli.align_crops import HandCrop, crop_hand
from texalign.cli.align_predictions import read_predictions
from texalign.photographs import HandKeypoints, detect_hands, read_focal, read_image, read_keypoints, read_mask

WHO = "align"
# Of the photograph's longer side: between phones' (0.75) and a little zoom.
GUESSED_FOCAL = 0.8


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph's hands.

    Attributes:
        path: its file.
        size: width, height.
        focal_from: where the hands' focal length comes from.
        crops: of its hands, from left to right, or as the keypoints' file has them.
    """

    path: Path
    size: tuple[int, int]
    focal_from: str
    crops: list[HandCrop]


def read_photo(
    path: Path,
    image_size: int,
    keypoints: Path | None = None,
    mask: Path | None = None,
    predictions: Path | None = None,
    side: str | None = None,
    model: Path | None = None,
    layer: Any = None,
) -> Photo:
    """Read a photograph, find its hands and cut them out.

    Args:
        path: an image file.
        image_size: S of the crops.
        keypoints: a file of them; None lets the detector find them.
        mask: a file of skin's mask, or None.
        predictions: a network's, in place of keypoints, or None.
        side: "left" or "right" of all hands; None takes the file's or the detector's.
        model: the detector's.
        layer: smplx's, which poses predicted MANO parameters, or None.

    Raises:
        OSError, ValueError: a file that cannot be read, or no hand.
    """
    image = read_image(path)
    height, width = image.shape[1:]
    skin = None if mask is None else read_mask(mask, (height, width))
    if predictions is not None:
        return _predicted(path, image, image_size, predictions, skin, layer)
    if keypoints is not None:
        hands = _listed(keypoints, (height, width))
    else:
        with _quiet():
            found = detect_hands(image, model)
        expect(len(found) > 0, WHO, f"a hand in {path}", "none that the detector finds: give --keypoints")
        hands = [HandKeypoints(hand.keypoints[:, :2], hand.keypoints[:, 2], hand.is_right) for hand in found]
    if side is None:
        untold = f'"hand": "left" or "right" in {keypoints}, or --side'
        expect(all(hand.is_right is not None for hand in hands), WHO, untold, "neither")
    given = {hand.focal for hand in hands if hand.focal is not None}
    expect(len(given) < 2, WHO, f"one focal in {keypoints}, the photograph's", f"{len(given)} of them")
    focal, told = (given.pop(), "keypoints' file") if given else (read_focal(path), "EXIF")
    if focal is None:
        focal, told = GUESSED_FOCAL * max(height, width), f"a guess, {GUESSED_FOCAL} of the longer side"
    crops = [
        crop_hand(image, hand.points, side == "right" if side else bool(hand.is_right), focal, image_size, skin)
        for hand in hands
    ]
    return Photo(path, (width, height), told, crops)


def _predicted(path: Path, image: Tensor, image_size: int, predictions: Path, skin: Tensor | None, layer: Any) -> Photo:
    height, width = image.shape[1:]
    crops = []
    for hand in read_predictions(predictions, (height, width), layer):
        crop = crop_hand(image, hand.keypoints, hand.is_right, hand.focal, image_size, skin)
        crops.append(replace(crop, joints=crop.in_space(hand.joints)))
    return Photo(path, (width, height), "predictions' file", crops)


def check_detector(model: Path | None) -> None:
    """Raise what the detector would, before anything is read; a model is fetched here."""
    with _quiet():
        detect_hands(torch.zeros(3, 1, 1), model)


def _listed(path: Path, size: tuple[int, int]) -> list[HandKeypoints]:
    """The hands of a file: one as `read_keypoints` takes it, or a list of such mappings."""
    content: object = None
    with contextlib.suppress(OSError, ValueError, RecursionError):  # of which `read_keypoints` says more
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, list) and content and all(isinstance(hand, Mapping) for hand in content):
        return [read_keypoints(hand, size) for hand in content]
    return [read_keypoints(path, size)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what native code writes to standard error: MediaPipe warns of itself at every start."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

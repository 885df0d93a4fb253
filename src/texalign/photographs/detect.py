"""Finding hands in a photograph with MediaPipe."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from texalign._internal import expect_floating
from texalign.photographs.detect_mediapipe import Finder, Found, new_finder

# What the detector is shown: the whole photograph, then with so large a share of its longer side added all around.
# Hands that fill the photograph or leave it are found in the wider ones.
_MARGINS = (0.0, 0.25, 0.6)
# Pixels of a shown image's longer side. The detector looks at 192 of them, and at 224 of each hand.
_SMALLEST, _LARGEST = 512, 1600
# If nothing was found: windows of this share of each side, at all corners and in the middle, show small hands.
_WINDOW = 0.55
# The detector's own threshold, and one at which it finds fists and grips too, taken where nothing else was found.
_NORMAL, _LOW = 0.5, 0.05
# Hands whose keypoints lie this near, as a share of the hand's extent, are one hand found twice.
_SAME = 0.3
# Of a point outside of the photograph, where the detector only guesses.
_GUESSED = 0.5


class DetectedHand(NamedTuple):
    """What `detect_hands` finds.

    Attributes:
        keypoints: (21, 3) x, y and confidence, in the order of `texalign.hand.JOINT_NAMES`; pixels of the image, whose
            first one's centre is (0.5, 0.5). MediaPipe gives a hand one score, its certainty of the side: all 21 have
            it, and points outside of the image half of it.
        is_right: whether it is a right hand.
        box: (4,) left, top, right, bottom of the keypoints, pixels.
    """

    keypoints: Tensor
    is_right: bool
    box: Tensor


def detect_hands(image: Tensor, model: str | Path | None = None) -> list[DetectedHand]:
    """Hands in a photograph, from left to right, with 21 keypoints each, by MediaPipe. Needs ``texalign[photos]``.

    The photograph is shown to the detector as it is and with margins, which finds hands at its border; where this finds
    none, in parts, which finds small hands, and with a low threshold, which finds fists and grips, and now and then a
    hand where none is. A tenth of a second for each look on one thread, three looks to twelve.

    The detector's joints are not exactly MANO's: wrist and base of the thumb are defined elsewhere, by about 10 pixels
    of a hand of 256.

    Args:
        image: (3, H, W) in [0, 1], upright.
        model: ``hand_landmarker.task``, for releases of MediaPipe since 0.10.30, which come without models. None: the
            models inside older releases, or a file that is fetched once and kept in the user's cache.

    Returns:
        A list, empty where there is no hand.

    Raises:
        MissingExtraError: MediaPipe or pillow is not installed.
        OSError: the model cannot be read, or fetched.
        ValueError: an image of another shape, or a fetched file that is not the model.

    Example:
        >>> for hand in detect_hands(read_image("photo.jpg")):  # doctest: +SKIP
        ...     print("right" if hand.is_right else "left", hand.keypoints[:, :2])
    """
    expect_floating(image, "detect_hands", "image", (3, "H", "W"))
    with new_finder(model) as finder:
        hands: list[Found] = []
        for margin in _MARGINS:
            _add(hands, _look(finder, image, _grown(image, margin), _NORMAL))
        for window in _parts(image) if not hands else ():
            _add(hands, _look(finder, image, window, _NORMAL))
        for margin in _MARGINS if not hands else ():
            _add(hands, _look(finder, image, _grown(image, margin), _LOW))
    size = torch.tensor([image.shape[2], image.shape[1]])
    detected = []
    for points, is_right, score in hands:
        xy = torch.from_numpy(points).float()
        inside = ((xy >= 0) & (xy <= size)).all(dim=1, keepdim=True)
        keypoints = torch.cat([xy, score * torch.where(inside, 1.0, _GUESSED)], dim=1)
        detected.append(DetectedHand(keypoints, is_right, torch.cat([xy.amin(dim=0), xy.amax(dim=0)])))
    return sorted(detected, key=lambda hand: float(hand.box[0] + hand.box[2]))


def _grown(image: Tensor, margin: float) -> tuple[int, int, int, int]:
    height, width = image.shape[1:]
    more = round(margin * max(height, width))
    return -more, -more, width + more, height + more


def _parts(image: Tensor) -> list[tuple[int, int, int, int]]:
    """Corners and middle, none where the photograph is too small to hide a hand."""
    height, width = image.shape[1:]
    if max(height, width) < _SMALLEST:
        return []
    high, wide = round(_WINDOW * height), round(_WINDOW * width)
    down, right = height - high, width - wide
    corners = [(0, 0), (right, 0), (0, down), (right, down), (right // 2, down // 2)]
    return [(left, top, left + wide, top + high) for left, top in corners]


def _look(finder: Finder, image: Tensor, window: tuple[int, int, int, int], threshold: float) -> list[Found]:
    """Hands in a window (left, top, right, bottom), which may reach beyond the image, in the image's pixels."""
    left, top, right, bottom = window
    height, width = image.shape[1:]
    shown = image[:, max(top, 0) : bottom, max(left, 0) : right]
    shown = pad(shown, (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)))
    longer = max(shown.shape[1:])
    scale = min(max(longer, _SMALLEST), _LARGEST) / longer
    if scale != 1:
        size = [max(1, round(scale * side)) for side in shown.shape[1:]]
        shown = interpolate(shown[None], size=size, mode="bilinear", antialias=scale < 1, align_corners=False)[0]
    pixels = (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    span, corner = np.array([right - left, bottom - top]), np.array([left, top])
    return [(points * span + corner, is_right, score) for points, is_right, score in finder.find(pixels, threshold)]


def _add(hands: list[Found], others: list[Found]) -> None:
    """Add those that are not there yet."""
    for other in others:
        extents = [np.ptp(points, axis=0).max() for points, _, _ in (*hands, other)]
        distances = [np.linalg.norm(points - other[0], axis=1).mean() for points, _, _ in hands]
        if all(distance > _SAME * max(extent, extents[-1]) for distance, extent in zip(distances, extents)):
            hands.append(other)

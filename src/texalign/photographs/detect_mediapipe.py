"""MediaPipe's two interfaces, as one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from texalign._internal import MissingExtraError
from texalign.photographs.detect_model_file import model_file

# Points (21, 2) as shares of the shown image's width and height, whether it is a right hand, and the score.
Found = tuple[np.ndarray, bool, float]

_MOST_HANDS = 8
_MISSING = 'finding hands needs MediaPipe: pip install "texalign[photos]", or give keypoints of your own'


class Finder(Protocol):
    """Finds hands in one image."""

    def __enter__(self) -> Finder: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def find(self, image: np.ndarray, threshold: float) -> list[Found]:
        """Hands in an image (H, W, 3) uint8, contiguous, at a threshold of detection in [0, 1]."""


def new_finder(model: str | Path | None) -> Finder:
    """The interface that the installed release has; with a model, that of models in files."""
    try:
        import mediapipe
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    if model is None and hasattr(mediapipe, "solutions"):
        return _Solution(mediapipe)
    return _Task(mediapipe, model_file(model))


class _Many:
    """One detector for each threshold, made when it is needed, closed at the end."""

    def __init__(self) -> None:
        self._made: dict[float, Any] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *reason: Any) -> None:
        self._closing.close()

    def _of(self, threshold: float) -> Any:
        if threshold not in self._made:
            self._made[threshold] = self._closing.enter_context(self._new(threshold))
        return self._made[threshold]

    def _new(self, threshold: float) -> Any:
        raise NotImplementedError


class _Solution(_Many):
    """Releases up to 0.10.21, with their models inside."""

    def __init__(self, mediapipe: Any) -> None:
        super().__init__()
        self._hands = mediapipe.solutions.hands.Hands

    def _new(self, threshold: float) -> Any:
        return self._hands(static_image_mode=True, max_num_hands=_MOST_HANDS, min_detection_confidence=threshold)

    def find(self, image: np.ndarray, threshold: float) -> list[Found]:
        result = self._of(threshold).process(image)
        sides = [side.classification[0] for side in result.multi_handedness or ()]
        # It takes every image for a mirror's: its left hand is a right one.
        return [
            (_points(hand.landmark), side.label == "Left", float(side.score))
            for hand, side in zip(result.multi_hand_landmarks or (), sides)
        ]


class _Task(_Many):
    """Releases with a model in a file."""

    def __init__(self, mediapipe: Any, model: Path) -> None:
        super().__init__()
        # As bytes: its own reader takes no path with other letters than ASCII on Windows.
        self._mediapipe, self._model = mediapipe, model.read_bytes()

    def _new(self, threshold: float) -> Any:
        tasks = self._mediapipe.tasks
        options = tasks.vision.HandLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=self._model),
            num_hands=_MOST_HANDS,
            min_hand_detection_confidence=threshold,
        )
        return tasks.vision.HandLandmarker.create_from_options(options)

    def find(self, image: np.ndarray, threshold: float) -> list[Found]:
        shown = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=image)
        result = self._of(threshold).detect(shown)
        # This one does not take images for a mirror's.
        return [
            (_points(hand), side[0].category_name == "Right", float(side[0].score))
            for hand, side in zip(result.hand_landmarks, result.handedness)
        ]


def _points(landmarks: Any) -> np.ndarray:
    return np.array([[point.x, point.y] for point in landmarks], dtype=np.float64)

"""A stand-in for MediaPipe: it takes rectangles of plain colours for hands, and fails where the real one does."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np

# A right hand, a left one, and a fist, which is found only at a low threshold.
RIGHT, LEFT, FIST = (255, 0, 0), (0, 0, 255), (0, 255, 0)
TEMPLATE = np.random.default_rng(0).uniform(size=(21, 2))
TEMPLATE[:2] = 0, 1  # the keypoints' box is the rectangle


def hand_points(left, top, right, bottom):
    """Keypoints (21, 2) of a rectangle."""
    return np.array([left, top]) + TEMPLATE * np.array([right - left, bottom - top])


def _found(image, threshold):
    assert image.dtype == np.uint8 and image.ndim == 3 and image.flags.c_contiguous
    height, width = image.shape[:2]
    for colour in (RIGHT, LEFT, FIST):
        row, column = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(axis=2))
        if not len(row) or (colour == FIST and threshold > 0.1):
            continue
        box = np.array([column.min(), row.min(), column.max() + 1, row.max() + 1]) / [width, height, width, height]
        share = max(box[2] - box[0], box[3] - box[1])
        if 0.1 < share < 0.8 and box[:2].min() > 0 and box[2:].max() < 1:
            yield colour, [SimpleNamespace(x=x, y=y, z=0.0) for x, y in hand_points(*box)]


class _Hands:
    def __init__(self, static_image_mode, max_num_hands, min_detection_confidence):
        assert static_image_mode and max_num_hands > 1
        self.threshold, self.open = min_detection_confidence, True

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.open = False

    def process(self, image):
        assert self.open
        hands = list(_found(image, self.threshold))
        sides = [
            SimpleNamespace(classification=[SimpleNamespace(label="Right" if colour == LEFT else "Left", score=0.9)])
            for colour, _ in hands
        ]
        return SimpleNamespace(
            multi_hand_landmarks=[SimpleNamespace(landmark=points) for _, points in hands] or None,
            multi_handedness=sides or None,
        )


def _landmarker(options):
    assert options.base_options.model_asset_buffer == b"the model"

    def detect(image):
        hands = list(_found(image.data, options.min_hand_detection_confidence))
        return SimpleNamespace(
            hand_landmarks=[points for _, points in hands],
            handedness=[
                [SimpleNamespace(category_name="Left" if colour == LEFT else "Right", score=0.9)] for colour, _ in hands
            ],
        )

    return nullcontext(SimpleNamespace(detect=detect))


def install(monkeypatch, release):
    """Let ``import mediapipe`` find it: "solutions" as releases up to 0.10.21 are, "tasks" as the current ones."""
    module = ModuleType("mediapipe")
    if release == "solutions":
        module.solutions = SimpleNamespace(hands=SimpleNamespace(Hands=_Hands))
    module.Image, module.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB=1)
    module.tasks = SimpleNamespace(
        BaseOptions=SimpleNamespace,
        vision=SimpleNamespace(
            HandLandmarkerOptions=SimpleNamespace, HandLandmarker=SimpleNamespace(create_from_options=_landmarker)
        ),
    )
    monkeypatch.setitem(sys.modules, "mediapipe", module)

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mediapipe_double
import texalign.photographs.detect_model_file as files
from mediapipe_double import FIST, LEFT, RIGHT, hand_points
from texalign._internal import MissingExtraError
from texalign.photographs import detect_hands

REAL = os.environ.get("TEXALIGN_REAL_DATA")


@pytest.fixture(params=["solutions", "tasks"])
def model(request, monkeypatch, tmp_path):
    """The model to give, with either of MediaPipe's interfaces."""
    mediapipe_double.install(monkeypatch, request.param)
    if request.param == "solutions":
        return None
    (tmp_path / "hand_landmarker.task").write_bytes(b"the model")
    return tmp_path / "hand_landmarker.task"


def photograph(*hands, size=(300, 400)):
    """Rectangles (colour, left, top, right, bottom) on grey."""
    image = torch.full((3, *size), 0.5)
    for colour, left, top, right, bottom in hands:
        image[:, max(top, 0) : bottom, max(left, 0) : right] = torch.tensor(colour)[:, None, None] / 255
    return image


def test_a_hand_has_keypoints_in_pixels_a_side_and_a_box(model):
    (hand,) = detect_hands(photograph((RIGHT, 100, 60, 180, 200)), model)
    assert hand.keypoints.shape == (21, 3) and hand.is_right is True
    # The photograph is enlarged before it is looked at: edges are known to half a pixel.
    assert np.abs(hand.keypoints[:, :2].numpy() - hand_points(100, 60, 180, 200)).max() < 1
    assert (hand.keypoints[:, 2] == 0.9).all()
    assert (hand.box - torch.tensor([100.0, 60.0, 180.0, 200.0])).abs().max() < 1


def test_sides_are_those_of_the_person_and_hands_are_counted_from_the_left(model):
    hands = detect_hands(photograph((RIGHT, 250, 60, 330, 200), (LEFT, 40, 80, 120, 220)), model)
    assert [hand.is_right for hand in hands] == [False, True]


def test_a_hand_seen_in_several_looks_is_one_hand(model):
    assert len(detect_hands(photograph((RIGHT, 150, 100, 220, 200)), model)) == 1


def test_a_hand_at_the_border_is_found_and_what_lies_outside_is_less_certain(model):
    (hand,) = detect_hands(photograph((LEFT, 320, 100, 400, 220)), model)
    assert (hand.box - torch.tensor([320.0, 100.0, 400.0, 220.0])).abs().max() < 2
    outside = hand.keypoints[:, 0] > 400
    assert (hand.keypoints[:, 2] == torch.where(outside, 0.45, 0.9)).all()


def test_a_hand_that_fills_the_photograph_is_found(model):
    (hand,) = detect_hands(photograph((RIGHT, 5, 5, 115, 115), size=(120, 120)), model)
    assert (hand.box - torch.tensor([5.0, 5.0, 115.0, 115.0])).abs().max() < 2


def test_a_small_hand_in_a_large_photograph_is_found(model):
    (hand,) = detect_hands(photograph((RIGHT, 900, 80, 990, 160), size=(900, 1200)), model)
    assert (hand.box - torch.tensor([900.0, 80.0, 990.0, 160.0])).abs().max() < 2


def test_a_fist_is_found_where_nothing_else_is(model):
    fist = (FIST, 100, 60, 180, 200)
    assert len(detect_hands(photograph(fist), model)) == 1
    (hand,) = detect_hands(photograph(fist, (RIGHT, 250, 60, 330, 200)), model)
    assert hand.box[0] > 200


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (1, 700), (300, 400)])
def test_a_photograph_without_hands_gives_an_empty_list(model, size):
    assert detect_hands(torch.full((3, *size), 0.5), model) == []


def test_what_is_no_image_is_refused(model):
    with pytest.raises(ValueError, match=r"detect_hands: expected image \(3, H, W\), got \(1, 8, 8\)"):
        detect_hands(torch.zeros(1, 8, 8), model)


def test_without_mediapipe_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[photos\]"'):
        detect_hands(torch.zeros(3, 8, 8))


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A server of the model's file, and an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    content = b"the model"
    (folder / "hand_landmarker.task").write_bytes(content)

    class Silent(http.server.SimpleHTTPRequestHandler):
        asked = 0

        def do_GET(self):
            Silent.asked += 1
            super().do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(files, "URL", f"http://127.0.0.1:{server.server_port}/hand_landmarker.task")
    monkeypatch.setattr(files, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(files, "_BYTES", len(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mediapipe_double.install(monkeypatch, "tasks")
    yield folder, tmp_path / "cache" / "texalign" / "hand_landmarker.task", Silent
    server.shutdown()
    server.server_close()


def test_the_model_is_fetched_once_with_a_progress_bar(served, capsys):
    _, cached, server = served
    for _ in range(2):
        assert len(detect_hands(photograph((RIGHT, 100, 60, 180, 200)))) == 1
    assert server.asked == 1 and cached.read_bytes() == b"the model"
    assert [file.name for file in cached.parent.iterdir()] == [cached.name]
    assert capsys.readouterr().err.count("MediaPipe's hand model: 100%") >= 1


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(served):
    folder, cached, _ = served
    (folder / "hand_landmarker.task").write_bytes(b"the m0del and more")
    with pytest.raises(ValueError, match=r"expected a file of SHA-256 \w{64} at http"):
        detect_hands(photograph())
    assert not list(cached.parent.iterdir())


def test_offline_the_error_says_what_to_do(served, monkeypatch):
    _, cached, _ = served
    monkeypatch.setattr(files, "URL", "http://127.0.0.1:1/hand_landmarker.task")
    with pytest.raises(
        OSError, match=r'could not be fetched from http.*--model FILE.*pip install "mediapipe<=0.10.21"'
    ):
        detect_hands(photograph())
    assert not list(cached.parent.iterdir())


def test_a_model_that_is_not_there_is_named(monkeypatch):
    mediapipe_double.install(monkeypatch, "tasks")
    with pytest.raises(FileNotFoundError, match=r"hand_landmarker.task in nowhere.task, got no such file"):
        detect_hands(photograph(), "nowhere.task")


@pytest.mark.skipif(REAL is None, reason="TEXALIGN_REAL_DATA names no photographs")
def test_the_real_detector_finds_hands_and_sides_on_photographs_of_people():
    """With MediaPipe ≤ 0.10.21 or, for later releases, its model at TEXALIGN_HAND_MODEL."""
    mediapipe = pytest.importorskip("mediapipe")
    model = os.environ.get("TEXALIGN_HAND_MODEL")
    if model is None and not hasattr(mediapipe, "solutions"):
        pytest.skip("TEXALIGN_HAND_MODEL names no model")
    folder = Path(REAL).parents[1] / "people" / "sld"
    with np.load(folder / "annotations.npz") as annotations:
        rows = range(0, len(annotations["ids"]), 100)
        known = {row: (annotations["ids"][row], annotations["hand"][row]) for row in rows}
        points = annotations["mediapipe_px"][list(rows)] + 0.5
    hits = 0
    for (number, side), expected in zip(known.values(), points):
        image = np.array(Image.open(folder / "images" / f"{number:05d}.jpg").convert("RGB"))
        hands = detect_hands(torch.from_numpy(image).permute(2, 0, 1) / 255, model)
        near = [np.linalg.norm(hand.keypoints[:, :2].numpy() - expected, axis=1).mean() < 12 for hand in hands]
        hits += any(ok and hand.is_right == (side == "right") for ok, hand in zip(near, hands))
    # Of 16 photographs; another release of the detector may miss one that this one found.
    assert hits >= 0.8 * len(known)

"""Keypoints in the forms in which detectors and data sets write them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from photograph_folder import write_folder
from texalign.photographs import HandKeypoints, read_image, read_keypoints, read_photographs

# 21 points on an image of 100 × 80 pixels, none of them at (0, 0).
ROWS = np.stack([np.linspace(5.0, 95.0, 21), 40 + 30 * np.sin(np.arange(21.0))], axis=1)
SIZE = 80, 100


def changed(change, rows=ROWS):
    rows = rows.copy()
    change(rows)
    return rows


def with_confidence(confidence):
    return np.concatenate([ROWS, np.broadcast_to(confidence, (21,))[:, None]], axis=1)


def same_points(found, missing=()):
    expected = torch.from_numpy(ROWS).float() + 0.5
    expected[list(missing)] = math.nan
    torch.testing.assert_close(found.points, expected, equal_nan=True)
    assert (found.confidence == 0).nonzero()[:, 0].tolist() == list(missing)


@pytest.mark.parametrize("name, content", [
    ("a bare list", ROWS.tolist()),
    ("keypoints alone", {"keypoints": ROWS.tolist()}),
    ("confidences", {"keypoints": with_confidence(0.7).tolist()}),
    ("63 numbers in a row, as COCO-WholeBody has them", {"keypoints": with_confidence(2).ravel().tolist()}),
    ("42 numbers in a row", ROWS.ravel().tolist()),
    ("an array", ROWS.astype(np.float32)),
    ("a tensor", {"keypoints": torch.from_numpy(ROWS)}),
    ("rows that are arrays", list(ROWS)),
])  # fmt: skip
def test_every_common_form_gives_the_same_points(name, content):
    found = read_keypoints(content, SIZE)
    same_points(found)
    assert found.points.dtype == found.confidence.dtype == torch.float32 and found.is_right is found.focal is None
    assert found.confidence.tolist() == pytest.approx([0.7 if name == "confidences" else 1.0] * 21)


@pytest.mark.parametrize("name, rows", [
    ("confidence 0", with_confidence(np.where(np.isin(np.arange(21), [3, 20]), 0, 0.4))),
    ("confidence -1", with_confidence(np.where(np.isin(np.arange(21), [3, 20]), -1, 1))),
    ("no confidence", with_confidence(np.where(np.isin(np.arange(21), [3, 20]), np.nan, 1))),
    ("(0, 0, 0)", changed(lambda rows: rows.__setitem__([3, 20], 0), with_confidence(1))),
    ("(0, 0)", changed(lambda rows: rows.__setitem__([3, 20], 0))),
    ("NaN", changed(lambda rows: rows.__setitem__(([3, 20], [0, 1]), np.nan))),
    ("infinite", changed(lambda rows: rows.__setitem__(([3, 20], [0, 1]), [np.inf, -np.inf]))),
    ("null", [[None, None] if i == 3 else [1.0, None] if i == 20 else row for i, row in enumerate(ROWS.tolist())]),
])  # fmt: skip
def test_missing_points_are_absent_in_every_spelling(tmp_path, name, rows):
    same_points(read_keypoints(rows, SIZE), missing=[3, 20])
    path = tmp_path / "keypoints.json"
    path.write_text(json.dumps({"keypoints": np.asarray(rows, dtype=float).tolist()}))
    same_points(read_keypoints(path, SIZE), missing=[3, 20])


@pytest.mark.parametrize("described, is_right", [
    ({"hand": "left"}, False), ({"hand": "Right"}, True), ({"is_right": "Right"}, True), ({"is_right": "left "}, False),
    ({"is_right": True}, True), ({"is_right": False}, False), ({"is_right": 1}, True), ({"is_right": 0.0}, False),
    ({"is_right": np.bool_(True)}, True), ({"hand": "right", "is_right": 1}, True), ({"hand": None}, None), ({}, None),
])  # fmt: skip
def test_the_side_is_read_in_words_and_as_a_flag(described, is_right):
    assert read_keypoints({**described, "keypoints": ROWS}).is_right is is_right


def test_a_file_of_a_windows_editor_is_read_and_the_focal_length_with_it(tmp_path):
    path = tmp_path / "keypoints.json"
    path.write_text(json.dumps({"hand": "left", "keypoints": ROWS.tolist(), "focal": 90}), encoding="utf-8-sig")
    found = read_keypoints(str(path), SIZE)
    assert found.focal == 90.0 and found.is_right is False
    same_points(found)


FORMS = r"21 points \[x, y\] or \[x, y, confidence\]"


@pytest.mark.parametrize("content, message", [
    # no pixels
    (ROWS / [100, 80], r"in pixels, got normalised ones, from 0\.05 to 0\.95: multiply them by the image's width"),
    (ROWS / [50, 40] - 1, r"got normalised ones, from -0\.90 to "),
    (changed(lambda rows: rows.__setitem__(slice(5, None), 0), ROWS / 100), "got normalised ones"),
    (5 + ROWS / 100, r"keypoints over at least 4 pixels, got over 0\.9"),
    (np.zeros((21, 2)), "at least 4 known keypoints of 21, got 0"),
    (with_confidence(0), "at least 4 known keypoints of 21, got 0"),
    (ROWS + 500, r"on the upright image of 100 × 80, got 0% of them there; they run from 5\d\d\.\d to 595\.0"),
    (changed(lambda rows: rows.__setitem__(4, [1e9, 5])), r"no farther outside the image than it is large, got \[\[1"),
    # other forms
    (ROWS[:20], rf"expected {FORMS}.*, got numbers of shape \(20, 2\)"),
    (np.zeros((2, 21, 2)), rf"{FORMS}.*, got numbers of shape \(2, 21, 2\)"),
    (with_confidence(-20), r"a confidence in \[0, 2\] as third number of a point, got -20"),
    (with_confidence(97), r"a confidence in \[0, 2\] as third number of a point, got 97"),
    ([*ROWS.tolist()[:20], [1.0]], rf"{FORMS}.*, got 21 points, of 1 or 2 numbers"),
    ([], rf"{FORMS}.*, got 0 points, of no numbers"),
    ([[]] * 21, rf"{FORMS}.*, got numbers of shape \(21, 0\)"),
    ({}, rf"{FORMS}.*, got an object with nothing"),
    ({"people": [{"hand_right_keypoints_2d": [0] * 63}]}, rf"{FORMS}.*, got an object with people"),
    ([{"keypoints": []}] * 2, rf"numbers or null in {FORMS}.*, got an object with keypoints"),
    ([{"x": 1.0, "y": 2.0}] * 21, rf"numbers or null in {FORMS}.*, got an object with x, y"),
    ([["3", "4"]] * 21, rf"numbers or null in {FORMS}.*, got str '3'"),
    ([[True, False]] * 21, rf"numbers or null in {FORMS}.*, got bool True"),
    ([[[1, 2], 3]] * 21, rf"numbers or null in {FORMS}.*, got a list of 2"),
    (ROWS.astype(str), rf"{FORMS}.*, got ndarray "),
    ([[10**400, 1]] * 21, "expected pixels, got a number of hundreds of digits"),
    (3, rf"{FORMS}.*, got int 3"),
    (None, rf"{FORMS}.*, got NoneType None"),
    ({"keypoints": "412, 655"}, rf"{FORMS}.*, got str '412, 655'"),
    # what is said beside them
    ({"keypoints": ROWS, "hand": "both"}, "expected \"left\" or \"right\" as hand, .*, got str 'both'"),
    ({"keypoints": ROWS, "hand": 1}, r"1 or 0 as is_right, got int 1"),
    ({"keypoints": ROWS, "is_right": 2}, r"1 or 0 as is_right, got int 2"),
    ({"keypoints": ROWS, "is_right": [True]}, r"1 or 0 as is_right, got a list of 1"),
    ({"keypoints": ROWS, "is_right": False, "hand": "right"}, "expected hand and is_right to agree, got two sides"),
    *(({"keypoints": ROWS, "focal": focal}, rf"expected focal in pixels, 10 to 100000, got {told}") for focal, told in (
        (0, "int 0"), (-90, "int -90"), (1.2, r"float 1\.2"), (math.nan, "float nan"), (math.inf, "float inf"),
        (1e38, "float 1e\\+38"),
        ("long", "str 'long'"), (True, "bool True"), ([90, 90], "a list of 2"),
    )),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_words(content, message):
    with pytest.raises(ValueError, match=f"^read_keypoints: .*{message}"):
        read_keypoints(content, SIZE)


@pytest.mark.parametrize(
    "content", [b"", b"{", "[1, é]".encode("latin-1"), "[1]".encode("utf-16"), b"[" * 100_000, b"\x00"]
)
def test_files_that_are_no_json_are_named(tmp_path, content):
    path = tmp_path / "keypoints.json"
    with pytest.raises(FileNotFoundError, match=r"read_keypoints: expected .*keypoints\.json, got no such file"):
        read_keypoints(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"read_keypoints: expected JSON in UTF-8 in .*keypoints\.json, got "):
        read_keypoints(path)


def test_both_file_formats_count_whole_pixels_at_their_centres(tmp_path):
    marks = np.stack([np.arange(21.0) % 7, np.arange(21.0) % 11], axis=1) + 2
    marks[8] = [3, 5]
    write_folder(tmp_path, 1, 16, masks=False, hand=np.array("right"), keypoints_px=marks[None])
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[5, 3] = 255
    path = tmp_path / "images" / "00007.png"
    Image.fromarray(picture).save(path)
    (tmp_path / "keypoints.json").write_text(json.dumps(marks.tolist()))
    folder, image = read_photographs(tmp_path, image_size=16), read_image(path)
    found = read_keypoints(tmp_path / "keypoints.json", image.shape[1:])
    assert torch.equal(found.points, folder.keypoints[0]) and torch.equal(image, folder.image[0])
    # The pixel of row 5 and column 3 has its centre at (3.5, 5.5).
    assert image[0].nonzero().tolist() == [[5, 3]] and found.points[8].tolist() == [3.5, 5.5]


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)
coordinates = st.floats(-200, 200) | st.none() | st.floats()
hands = st.lists(st.lists(coordinates, min_size=2, max_size=2), min_size=21, max_size=21) | st.lists(
    st.lists(coordinates, min_size=3, max_size=3), min_size=21, max_size=21
)


@given(
    content=values
    | hands
    | st.fixed_dictionaries(
        {"keypoints": hands | values}, optional={"hand": values, "is_right": values, "focal": values}
    )
)
def test_any_json_is_one_hand_or_a_value_error(content):
    for given_content in (content, json.loads(json.dumps(content))):
        try:
            found = read_keypoints(given_content, SIZE)
        except (ValueError, FileNotFoundError) as error:
            assert str(error).startswith("read_keypoints: expected ")
            assert isinstance(error, ValueError) or isinstance(content, str), "a string is a path"
        else:
            assert isinstance(found, HandKeypoints)
            known = found.confidence > 0
            assert known.sum() >= 4 and found.points[known].isfinite().all() and found.points[~known].isnan().all()

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import texalign as ta
from texalign import viz
from texalign._internal import MissingExtraError


def test_to_uint8_rounds_clamps_and_moves_colour_last():
    image = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, float("nan")]).reshape(1, 1, 6).repeat(3, 1, 1)
    image[1] = 0.2
    pixels = viz.to_uint8(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 6, 3)
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]
    assert (pixels[..., 1] == 51).all()
    assert viz.to_uint8(torch.zeros(2, 3, 4, 5, requires_grad=True, dtype=torch.float64)).shape == (2, 4, 5, 3)
    with pytest.raises(ValueError, match=r"to_uint8: expected image \(\[B,\] 3, H, W\), got \(4, 5\)"):
        viz.to_uint8(torch.zeros(4, 5))


def test_save_png_is_lossless_and_keeps_the_old_picture_when_writing_fails(tmp_path, monkeypatch):
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    path = viz.save_png(tmp_path / "picture.png", image)

    def fail(self, file, **options):
        file.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        viz.save_png(path, torch.zeros(3, 2, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    assert np.array_equal(np.array(Image.open(path)), viz.to_uint8(image))


def test_an_animation_keeps_its_frames_colours_and_times(tmp_path):
    frames = torch.full((3, 3, 24, 32), 0.25)
    frames[..., 16:] = 0.75
    for number, frame in enumerate(frames):
        frame[:, 4:8, 4 * number : 4 * number + 4] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    path = viz.save_gif(tmp_path / "moving.gif", frames, [200, 50, 1000])
    assert [file.name for file in tmp_path.iterdir()] == ["moving.gif"]
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (3, (32, 24), 0)
        for number, expected in enumerate(frames):
            picture.seek(number)
            assert picture.info["duration"] == [200, 50, 1000][number]
            shown = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
            assert (shown - expected).abs().max() < 0.05
    with pytest.raises(ValueError, match="expected milliseconds for 3 frames, got 1"):
        viz.save_gif(path, frames, [100])


def test_overlay_composites_premultiplied_colour():
    coverage = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 1, 3)
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    nothing = torch.zeros(1, 1, 3)
    rendering = ta.Rendering(red * coverage, coverage, nothing.long(), coverage, torch.zeros(1, 1, 3, 2), nothing)
    background = torch.full((1, 3, 1, 3), 0.4)
    full, half = viz.overlay(background, rendering), viz.overlay(background, rendering, alpha=0.5)
    torch.testing.assert_close(full[0, :, 0].T, torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.2, 0.2], [0.4, 0.4, 0.4]]))
    torch.testing.assert_close(half[0, :, 0, 0], torch.tensor([0.7, 0.2, 0.2]))
    assert torch.equal(viz.overlay(background, rendering, alpha=0.0), background)


def test_an_outline_runs_around_the_hand_and_leaves_it_to_be_seen():
    image = torch.full((1, 3, 20, 30), 0.5)
    coverage = torch.zeros(1, 1, 20, 30)
    coverage[..., 6:14, 8:20] = 1
    drawn = viz.outline(image, coverage, colour=(1.0, 0.0, 0.25), width=2)
    line = (drawn == torch.tensor([1.0, 0.0, 0.25])[:, None, None]).all(dim=1)[0]
    expected = torch.zeros(20, 30, dtype=torch.bool)
    expected[4:16, 6:22] = True
    expected[6:14, 8:20] = False
    assert torch.equal(line, expected)
    # Dark on both sides of the line, untouched in the middle and far outside.
    assert drawn[0, 0, 6, 10] == drawn[0, 0, 3, 10] == pytest.approx(0.2)
    assert drawn[0, 0, 9, 12] == drawn[0, 0, 1, 1] == 0.5
    assert torch.equal(viz.outline(image, torch.zeros_like(coverage)), image)
    with pytest.raises(ValueError, match=r"outline: expected coverage \(1, 1, 20, 30\)"):
        viz.outline(image, coverage[..., 1:])


def test_marks_lie_on_their_points():
    image = torch.full((2, 3, 16, 16), 0.5)
    points = torch.tensor([[[4.5, 10.5], [float("nan"), 3.0]], [[-50.0, 2.0], [12.0, 12.0]]])
    drawn = viz.mark(image, points, colour=(0.0, 1.0, 0.0), radius=1.2)
    green = (drawn == torch.tensor([0.0, 1.0, 0.0])[:, None, None]).all(dim=1)
    assert green[0].nonzero().tolist() == [[9, 4], [10, 3], [10, 4], [10, 5], [11, 4]]
    assert green[1].nonzero().tolist() == [[11, 11], [11, 12], [12, 11], [12, 12]]
    assert torch.equal(viz.mark(image, torch.full((2, 1, 2), float("nan"))), image)


def test_contact_sheet_places_images_and_labels():
    black, grey = torch.zeros(3, 40, 60), torch.full((3, 40, 60), 0.5)
    plain = viz.contact_sheet([[black, grey], [grey]])
    assert plain.shape == (3, 80, 120)
    assert plain[:, :40, :60].eq(0).all() and plain[:, :40, 60:].eq(0.5).all()
    assert plain[:, 40:, :60].eq(0.5).all() and plain[:, 40:, 60:].eq(1).all()
    labelled = viz.contact_sheet([[black, grey], [grey]], ["first", "second"], ["a", "b"])
    assert labelled.shape == (3, 100, 140)
    assert torch.equal(labelled[:, 20:, 20:], plain)
    assert labelled[:, :20, :20].eq(1).all()
    for box in (labelled[:, :20, 20:80], labelled[:, :20, 80:], labelled[:, 20:60, :20], labelled[:, 60:, :20]):
        assert box.min() < 0.5 and box.max() == 1


def test_row_labels_read_upwards():
    sheet = viz.contact_sheet([[torch.ones(3, 120, 60)]], row_labels=["W....."])
    ink = (1 - sheet[0, :, :20]).sum(1)
    rows = ink.nonzero()[:, 0]
    middle = (rows.min() + rows.max()) // 2
    assert ink[: middle + 1].sum() < ink[middle + 1 :].sum()  # the W lies below its full stops


def test_contact_sheet_says_what_is_wrong():
    small, wide = torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)
    with pytest.raises(ValueError, match=r"images of one size, \(3, 2, 2\), got \(3, 2, 3\)"):
        viz.contact_sheet([[small, wide]])
    with pytest.raises(ValueError, match="expected 1 row labels or none, got 2"):
        viz.contact_sheet([[small]], ("a", "b"))


def test_uv_checker_alternates_and_tells_every_cell_apart():
    texture = viz.uv_checker(64, cells=8, labels=False)
    assert texture.shape == (1, 3, 64, 64) and texture.min() >= 0 and texture.max() <= 1
    cells = texture[0].unflatten(1, (8, 8)).unflatten(3, (8, 8))
    assert (cells.amax((2, 4)) - cells.amin((2, 4))).max() < 1e-6  # each cell has one colour, to 8 ulps of 1
    colours = cells[:, :, 0, :, 0].flatten(1).T
    assert torch.cdist(colours, colours).add(torch.eye(64)).min() > 0.01
    written, blank = viz.uv_checker(256, cells=8), viz.uv_checker(256, cells=8, labels=False)
    assert (written <= blank).all() and (written != blank).any(dim=1).float().mean() > 0.02


def test_text_without_pillow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "texalign\[demo\]"'):
        viz.contact_sheet([[torch.ones(3, 20, 20)]], column_labels=["a"])
    assert viz.contact_sheet([[torch.ones(3, 20, 20)]]).shape == (3, 20, 20)  # no text, no pillow

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from photograph_folder import write_folder
from texalign.cli import demo, demo_fits, demo_hands, demo_table, main
from texalign.cli.demo_fits import ALONE, START, TOGETHER
from texalign.hand import Hand, pose_hand

CELL, LABEL = 256, 36
HANDS, SIZE, STEPS = 3, 64, 6


@pytest.fixture(scope="module")
def shortened():
    """A demo of few, small hands and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FULL", demo.Plan(HANDS, 2, SIZE, STEPS))
        patch.setattr(demo, "FIT_STEPS", 20)
        yield demo


@pytest.fixture(scope="module")
def ran(shortened, tmp_path_factory):
    return shortened.run(tmp_path_factory.mktemp("demo"), seed=3)


def test_hands_are_in_sight_whole_near_of_skin_and_misplaced():
    hands, model, start = demo_hands.synthetic_hands(8, SIZE, seed=1)
    assert len(hands) == 8 and hands.image.shape == (8, 3, SIZE, SIZE)
    assert (hands.vertices[..., 2].mean(dim=1) < demo_hands.FARTHEST + 0.2).all()
    pixels = hands.camera.project(hands.vertices)
    assert (pixels > 0).all() and (pixels < SIZE).all()
    assert ((pixels.amax(dim=1) - pixels.amin(dim=1)).amax(dim=1) > SIZE / 2).all()
    red, green, blue = ((hands.image * hands.mask).sum(dim=(2, 3)) / hands.mask.sum(dim=(2, 3))).unbind(dim=1)
    # Chosen by the pixels that nothing hides; a quarter of these may be anything.
    assert (red > 0.2).all() and (red + 0.1 > green).all() and (red + 0.1 > blue).all()
    with torch.no_grad():
        moved = (pose_hand(model, start).vertices - hands.vertices).norm(dim=-1).mean(dim=1)
    assert moved.min() > 0.001 and moved.max() < 0.1  # metres: some 0.015 in the mean
    noise = hands.keypoints - hands.joints_image
    assert 0.8 < noise.std() < 1.2  # 2 px at 128; five standard deviations of 336 values
    torch.testing.assert_close(hands.camera.project(hands.joints), hands.joints_image)


def test_the_true_parameters_give_the_true_vertices_and_seeds_other_hands(monkeypatch):
    monkeypatch.setattr(demo_hands, "disturbed", lambda parameters, generator: parameters)
    (hands, model, start), (again, _, _), (other, _, _) = (demo_hands.synthetic_hands(3, 16, s) for s in (2, 2, 3))
    with torch.no_grad():
        posed = pose_hand(model, start)
    torch.testing.assert_close(posed.vertices, hands.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(posed.joints, hands.joints, atol=1e-5, rtol=0)
    assert torch.equal(hands.image, again.image) and not torch.equal(hands.image, other.image)


def test_both_fits_start_at_the_same_place_and_keep_the_shape():
    hands, model, start = demo_hands.synthetic_hands(2, SIZE, seed=1)
    ticks = []
    alignment = demo_fits.align(model, hands, start, steps=3, tick=lambda: ticks.append(1))
    assert len(ticks) == 3 and alignment.weight > 0
    for name in (ALONE, TOGETHER):
        track = alignment.tracks[name]
        assert len(track) == 4
        assert torch.equal(track[0], alignment.hands[START].vertices)
        assert torch.equal(track[-1], alignment.hands[name].vertices)
    palms = [(hand.joints[:, 5] - hand.joints[:, 17]).norm(dim=-1) for hand in alignment.hands.values()]
    torch.testing.assert_close(torch.stack(palms), palms[0].expand(3, -1), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_texture_loss_brings_vertices_nearer_than_keypoints_alone():
    hands, model, start = demo_hands.synthetic_hands(8, 96, seed=1)
    alignment = demo_fits.align(model, hands, start, steps=40)
    alone, together = (demo_table.measure(hands, alignment.hands[name]) for name in (ALONE, TOGETHER))
    # Means over all hands differ by a seventh, whatever the seed, far more than rounding; single hands prove nothing.
    assert together["vertices in the image", "px"].mean() < alone["vertices in the image", "px"].mean()
    iou = demo_table.IOU, ""
    assert together[iou].mean() > alone[iou].mean()


def test_the_table_holds_what_the_meshes_say(ran):
    generated = ran.parts[0]
    hands, rows = generated.hands, {row.name: row for row in generated.rows}
    assert len(rows) == 7
    for column, name in enumerate((START, ALONE, TOGETHER)):
        vertices = generated.meshes[name]
        flat = (hands.camera.project(vertices) - hands.camera.project(hands.vertices)).norm(dim=-1).mean()
        assert rows["vertices in the image"].values[column] == pytest.approx(flat.item(), rel=1e-4)


def test_the_table_tells_what_should_become_better_from_what_need_not(ran):
    truth, shown = ("not shown to the fits", "shown to the fits")
    for part in ran.parts:
        lines = demo_table.table_lines(part.rows)
        heads = [number for number, line in enumerate(lines) if line.startswith((truth, shown))]
        assert lines[heads[0]].startswith(truth) and heads == [1, len(lines) - 2]
        assert lines[-1].startswith(demo_table.SHOWN) and lines[-3].startswith(demo_table.IOU)
    assert len(lines) == 5, "of real hands the outline is known, and a detector's keypoints"
    for line, row in zip(lines[2::2], part.rows):
        start, alone, together = map(
            float, line.removeprefix(row.name).removeprefix(" px").split()[-4 - bool(row.unit) :][:3]
        )
        assert (start, alone, together) == pytest.approx(row.values, abs=0.006)


def test_real_hands_are_of_people_that_no_training_has_seen(ran):
    part = ran.parts[1]
    assert part.source == demo.PEOPLE and len(part.hands) == 2
    with np.load(demo.PEOPLE / "annotations.npz") as file:
        assert len(file["ids"]) == len(set(file["person"].tolist())) == 12
        assert file["person"].min() >= 120  # trainings and choices use people 0 to 119
    assert sum(file.stat().st_size for file in demo.PEOPLE.rglob("*") if file.is_file()) < 300_000
    assert "Apache License" in (demo.PEOPLE / "LICENSE").read_text()
    assert "arXiv:2011.08927" in (demo.PEOPLE / "README.md").read_text()


def test_joints_are_measured_where_they_are_known(ran):
    hands = ran.parts[0].hands
    moved = Hand(hands.vertices, hands.joints + torch.tensor([0.003, 0.0, 0.004]))
    some = hands.joints_image.clone()
    some[:, 3] = torch.nan
    found = demo_table.measure(replace(hands, joints_image=some), moved)
    assert found["joints, relative to the wrist", "mm"].abs().max() < 1e-2
    offset = (hands.camera.project(moved.joints) - hands.joints_image).norm(dim=-1)
    others = [joint for joint in range(21) if joint != 3]
    torch.testing.assert_close(found["joints in the image", "px"], offset[:, others].mean(dim=1))


@pytest.mark.parametrize("sheet, rows", [("contact_sheet.png", HANDS), ("real_hands.png", 2)])
def test_a_sheet_has_a_row_for_each_hand_and_start_end_and_truth_in_one_column(ran, sheet, rows):
    with Image.open(next(file for file in ran.files if file.name == sheet)) as picture:
        # Two lines of words above.
        assert picture.size == (LABEL + 4 * CELL, 3 * LABEL // 2 + rows * CELL)
        pixels = np.asarray(picture).astype(int)
    cells = pixels[-rows * CELL :, LABEL:].reshape(rows, CELL, 4, CELL, 3).swapaxes(1, 2)

    def share(column, colour):
        return (np.abs(cells[:, column] - np.array(colour)).sum(-1) < 60).mean(axis=(1, 2))

    for column, end in ((1, (26, 217, 255)), (2, (26, 255, 51))):
        assert (share(column, end) > 0.003).all() and (share(column, end) < 0.2).all()
        assert (share(column, (255, 255, 255)) > 0.0001).all()  # the truth, where the end does not lie on it
    assert (share(1, (255, 140, 0)).mean() > 0.001) and (share(2, (255, 140, 0)).mean() > 0.001)


def test_the_readmes_picture_is_a_sheet_of_six_hands():
    docs = Path(__file__).parents[2] / "docs" / "images"
    for name in ("alignment.png", "real_hands.png"):
        with Image.open(docs / name) as picture:
            assert picture.size == (LABEL + 4 * CELL, 3 * LABEL // 2 + demo.SHOWN * CELL), "copy the demo's"


def test_the_animation_moves_and_loops(ran):
    with Image.open(next(file for file in ran.files if file.suffix == ".gif")) as picture:
        assert picture.size == (22 + HANDS * 160, 2 * 160)
        assert picture.n_frames == STEPS + 1
        assert picture.info["loop"] == 0
        first = np.asarray(picture.convert("RGB"))
        picture.seek(STEPS)
        assert not np.array_equal(first, np.asarray(picture.convert("RGB"))) and picture.info["duration"] == 2000


@pytest.mark.slow
def test_a_seeded_demo_is_the_same_again(shortened, ran, tmp_path):
    again = shortened.run(tmp_path, seed=3)
    for part, other in zip(again.parts, ran.parts):
        assert part.rows == other.rows
        assert all(torch.equal(part.meshes[name], other.meshes[name]) for name in part.meshes)
    for one, other in zip(again.files, ran.files):
        assert one.read_bytes() == other.read_bytes()


def test_the_bar_is_full_in_the_end_and_counts_drawing(shortened, tmp_path, monkeypatch):
    bars, drawn = [], []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.count = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            assert error == (None, None, None)

        def update(self, count=1):
            self.count += count

    def save(path, image):
        drawn.append(bars[0].count)
        return path

    monkeypatch.setattr(demo, "_require_extra", lambda: Bar)
    monkeypatch.setattr(demo, "save_png", save)
    demo.run(tmp_path, count=1)
    assert bars[0].count == bars[0].total
    # When the last sheet is drawn, its own ticks are still to come.
    assert drawn[-1] == bars[0].total - demo.TICKS


def test_photographs_are_fitted_from_their_keypoints_alone(shortened, tmp_path):
    batch = write_folder(tmp_path / "photographs", count=5, size=SIZE, seed=4, left_share=0.5)
    summary = shortened.run(tmp_path / "out", images=tmp_path / "photographs")
    (part,) = summary.parts
    assert part.hands.ids == (7, 9)  # spread evenly over 7 to 11
    torch.testing.assert_close(part.hands.joints, batch.canonical().joints[[0, 2]], atol=1e-4, rtol=0)
    rows = {row.name: row.values for row in part.rows}
    # The keypoints are the true ones here: the fit lies on them.
    assert max(rows["joints in the image"]) < 3
    assert min(rows[demo_table.IOU]) > 0.3
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["alignment.gif", "contact_sheet.png"]


@pytest.mark.slow
def test_photographs_without_keypoints_are_left_out(shortened, tmp_path, capsys):
    marks = np.full((3, 21, 2), np.nan)
    with pytest.raises(ValueError, match="demo: expected photographs with 11 keypoints or more, got none of 2"):
        write_folder(tmp_path / "none", count=3, size=SIZE, keypoints_px=marks)
        shortened.run(tmp_path / "out", images=tmp_path / "none")
    assert not (tmp_path / "out").exists()
    batch = write_folder(tmp_path / "some", count=3, size=SIZE, masks=False, left_share=0)
    marks[1:] = (batch.camera.project(batch.joints) - 0.5).numpy()[1:]
    with np.load(tmp_path / "some" / "annotations.npz") as file:
        np.savez(tmp_path / "some" / "annotations.npz", **{**file, "keypoints_px": marks})
    arguments = ["--images", str(tmp_path / "some"), "--output", str(tmp_path / "out")]
    assert main(["demo", *arguments]) == 0
    assert f"1 photographs of {tmp_path / 'some'}, {SIZE} px; the start is a fit to their keypoints; 1 left out" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_photographs_without_truth_are_measured_by_their_keypoints(shortened, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FIT_STEPS", 100)
    none = {"joints_px": None, "joints_cam_cm": None, "vertices_cam_cm": None}
    write_folder(tmp_path / "photographs", count=1, size=SIZE, masks=False, **none)
    (part,) = shortened.run(tmp_path / "out", images=tmp_path / "photographs", count=4).parts
    (row,) = part.rows
    assert row.name == demo_table.SHOWN and row.unit == "px"
    assert row.values[1] < 2  # the fit that sees nothing but keypoints stays on them

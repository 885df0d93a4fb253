from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from photograph_folder import write_folder
from texalign.cli import demo, demo_fits, demo_hands, demo_table, main
from texalign.cli.demo_fits import ALONE, START, TOGETHER
from texalign.hand import Hand, pose_hand

CELL, LABEL = 160, 22
HANDS, SIZE, STEPS = 3, 64, 4


@pytest.fixture(scope="module")
def shortened():
    """A demo of few, small hands and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FAST", demo.Plan(HANDS, 2, SIZE, STEPS))
        yield demo


@pytest.fixture(scope="module")
def ran(shortened, tmp_path_factory):
    return shortened.run(tmp_path_factory.mktemp("fast"), fast=True, seed=3)


def test_hands_are_in_sight_near_and_misplaced():
    hands, model, start = demo_hands.synthetic_hands(8, SIZE, seed=1)
    assert len(hands) == 8 and hands.image.shape == (8, 3, SIZE, SIZE)
    assert (hands.vertices[..., 2].mean(dim=1) < demo_hands.FARTHEST + 0.2).all()
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
    alignment = demo_fits.align(model, hands, start, steps=3)
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
    iou = "mask, intersection over union", ""
    assert together[iou].mean() > alone[iou].mean()


def test_the_table_holds_what_the_meshes_say(ran):
    hands, rows = ran.hands, {row.name: row for row in ran.rows}
    assert len(rows) == 7
    for column, name in enumerate((START, ALONE, TOGETHER)):
        vertices = ran.meshes[name]
        absolute = 1000 * (vertices - hands.vertices).norm(dim=-1).mean()
        assert rows["vertices"].values[column] == pytest.approx(absolute.item(), rel=1e-4)
        flat = (hands.camera.project(vertices) - hands.camera.project(hands.vertices)).norm(dim=-1).mean()
        assert rows["vertices in the image"].values[column] == pytest.approx(flat.item(), rel=1e-4)


def test_joints_are_measured_where_they_are_known(ran):
    moved = Hand(ran.hands.vertices, ran.hands.joints + torch.tensor([0.003, 0.0, 0.004]))
    some = ran.hands.joints_image.clone()
    some[:, 3] = torch.nan
    found = demo_table.measure(replace(ran.hands, joints_image=some), moved)
    assert found["joints, relative to the wrist", "mm"].abs().max() < 1e-2
    offset = (ran.hands.camera.project(moved.joints) - ran.hands.joints_image).norm(dim=-1)
    others = [joint for joint in range(21) if joint != 3]
    torch.testing.assert_close(found["joints in the image", "px"], offset[:, others].mean(dim=1))


def test_the_sheet_has_a_row_for_each_hand_and_seven_columns(ran):
    sheet = ran.files[0]
    assert sheet.name == "contact_sheet.png"
    with Image.open(sheet) as picture:
        assert picture.size == (LABEL + 7 * CELL, LABEL + HANDS * CELL)
        pixels = np.asarray(picture).astype(int)
    cells = pixels[LABEL:, LABEL:].reshape(HANDS, CELL, 7, CELL, 3).swapaxes(1, 2)
    for column, colour in ((1, (255, 140, 0)), (2, (26, 217, 255)), (3, (26, 255, 51))):
        near = (np.abs(cells[:, column] - np.array(colour)).sum(-1) < 60).mean(axis=(1, 2))
        assert (near > 0.003).all() and (near < 0.2).all()
    # Between the atlas's charts the texture is grey.
    assert (cells[:, 4, 0, 0] == 217).all()


def test_the_animation_moves_and_loops(ran):
    with Image.open(ran.files[1]) as picture:
        assert picture.size == (LABEL + HANDS * CELL, 2 * CELL)
        assert picture.n_frames == 3  # 4 steps by twos, and the end
        assert picture.info["loop"] == 0
        first = np.asarray(picture.convert("RGB"))
        picture.seek(2)
        assert not np.array_equal(first, np.asarray(picture.convert("RGB"))) and picture.info["duration"] == 2000


def test_a_seeded_demo_is_the_same_again(shortened, ran, tmp_path):
    again = shortened.run(tmp_path, fast=True, seed=3)
    assert again.rows == ran.rows
    assert all(torch.equal(again.meshes[name], ran.meshes[name]) for name in ran.meshes)
    for one, other in zip(again.files, ran.files):
        assert one.read_bytes() == other.read_bytes()


def test_photographs_are_fitted_from_their_keypoints_alone(shortened, tmp_path):
    batch = write_folder(tmp_path / "photographs", count=5, size=SIZE, seed=4, left_share=0.5)
    summary = shortened.run(tmp_path / "out", fast=True, images=tmp_path / "photographs")
    assert summary.hands.ids == (7, 9)  # spread evenly over 7 to 11
    torch.testing.assert_close(summary.hands.joints, batch.canonical().joints[[0, 2]], atol=1e-4, rtol=0)
    rows = {row.name: row.values for row in summary.rows}
    # The keypoints are the true ones here: the fit lies on them.
    assert max(rows["joints in the image"]) < 3
    assert min(rows["mask, intersection over union"]) > 0.3
    with Image.open(summary.files[0]) as picture:
        assert picture.size == (LABEL + 7 * CELL, LABEL + 2 * CELL)


@pytest.mark.slow
def test_photographs_without_keypoints_are_left_out(shortened, tmp_path, capsys):
    marks = np.full((3, 21, 2), np.nan)
    with pytest.raises(ValueError, match="demo: expected photographs with 11 keypoints or more, got none of 2"):
        write_folder(tmp_path / "none", count=3, size=SIZE, keypoints_px=marks)
        shortened.run(tmp_path / "out", fast=True, images=tmp_path / "none")
    assert not (tmp_path / "out").exists()
    batch = write_folder(tmp_path / "some", count=3, size=SIZE, masks=False, left_share=0)
    marks[1:] = (batch.camera.project(batch.joints) - 0.5).numpy()[1:]
    with np.load(tmp_path / "some" / "annotations.npz") as file:
        np.savez(tmp_path / "some" / "annotations.npz", **{**file, "keypoints_px": marks})
    arguments = ["--images", str(tmp_path / "some"), "--output", str(tmp_path / "out"), "--fast"]
    assert main(["demo", *arguments]) == 0
    assert f"1 photographs of {tmp_path / 'some'}, {SIZE} px; the start is a fit to their keypoints; 1 left out" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_photographs_without_truth_are_measured_by_their_keypoints(shortened, tmp_path):
    none = {"joints_px": None, "joints_cam_cm": None, "vertices_cam_cm": None}
    write_folder(tmp_path / "photographs", count=1, size=SIZE, masks=False, **none)
    summary = shortened.run(tmp_path / "out", fast=True, images=tmp_path / "photographs", count=4)
    (row,) = summary.rows
    assert row.name == "joints to the keypoints given" and row.unit == "px"
    assert row.values[1] < 2  # the fit that sees nothing but keypoints stays on them

"""Fits to photographs of many people: who is drawn together, what is measured where, and one run of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import texalign as ta
from fits import across_people, people_fits
from fits.across_people import BUNDLED, MASK, AcrossPeople
from fits.comparison import interval, relative_change
from fits.people import generated, inside_photograph, moved, read_people
from fits.people_fits import (
    BASE,
    arm_table,
    errors,
    fitted,
    labels_of,
    mask_term,
    skin_table,
    start_of,
    texture_term,
    weight_at_one,
)
from photograph_folder import write_folder

SIZE = 64


@pytest.fixture(scope="module")
def renderer():
    return ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE, backend="torch")


@pytest.fixture(scope="module")
def hands():
    return generated(6, SIZE, seed=3)


def test_people_are_drawn_whole_and_single_images_as_ever():
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    of_two = interval(values, torch.tensor([7, 7, 7, 2, 2, 2]))
    assert of_two == pytest.approx((0.5, 0.0, 1.0))
    of_six = interval(values)
    assert of_six[0] == pytest.approx(0.5)
    assert 0 < of_six[1] < of_six[2] < 1
    assert interval(values, torch.arange(6)) == of_six


def test_a_person_of_many_photographs_weighs_as_many():
    values, base = torch.tensor([2.0, 2.0, 2.0, 1.0]), torch.ones(4)
    middle, low, high = relative_change(values, base, torch.tensor([0, 0, 0, 1]))
    assert (middle, low, high) == pytest.approx((0.75, 0.0, 1.0))


def test_black_rows_at_the_border_are_outside_the_photograph_and_dark_ones_within_are_not():
    image = torch.full((1, 3, 10, 10), 0.5)
    image[:, :, :2], image[:, :, :, 7:], image[:, :, 5] = 0, 0, 0
    expected = torch.zeros(10, 10)
    expected[3:, :6] = 1  # and one pixel further
    assert torch.equal(inside_photograph(image)[0, 0], expected)
    assert inside_photograph(torch.full((1, 3, 4, 4), 0.5)).all()


def test_each_person_gives_so_many_photographs(tmp_path, renderer):
    person = np.array([0, 0, 0, 4, 4, 9])
    write_folder(tmp_path / "some", 6, SIZE, left_share=0, person=person, vertices_cam_cm=None)
    people = read_people(tmp_path / "some", [0, 9], 2, renderer, tmp_path)
    assert people.person.unique().tolist() == [0, 9]
    assert len(people) + people.left_out == 3
    shown = (people.mask * people.counted).sum(dim=(1, 2, 3))
    assert (shown > 0.7 * people.mask.sum(dim=(1, 2, 3))).all()


def test_masks_are_moved_right_and_down_by_shares_of_the_side():
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., 4, 4] = 1
    there = torch.zeros(1, 1, 10, 10)
    there[..., 5, 2] = 1
    assert torch.allclose(moved(mask, -0.2, 0.1), there, atol=1e-5)


def test_a_start_has_no_gradient_to_balance_with_and_a_disturbed_one_has(hands, renderer, monkeypatch):
    labels = labels_of(hands, 0)
    start = start_of(hands, labels)
    term = texture_term(ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), reduction="none"))
    weight = weight_at_one(hands, labels, start, term)
    monkeypatch.setattr(people_fits, "disturbed", lambda start, generator: start)
    assert weight > 5 * weight_at_one(hands, labels, start, term)
    assert 0.5 < weight < 50


def test_masks_make_fits_cover_their_hands_better(hands, renderer):
    labels = labels_of(hands, 0)
    start, term = start_of(hands, labels), mask_term(renderer)
    alone, together = (
        errors(hands, fitted(hands, labels, start, *added), renderer) for added in ((None, 0.0), (term, 8.0))
    )
    assert sum(together["IoU"]) > sum(alone["IoU"]) + 0.03 * len(hands)
    of_masks, of_joints = ("IoU", "boundary F"), ("2D joints, px", "PA-MPJPE, mm", "root-relative MPJPE, mm")
    assert set(alone) == {*of_masks, "to the detector's joints, px", *of_joints}


def test_skin_is_sorted_from_light_to_dark(hands):
    iou = {BASE: {"IoU": [0.5] * 6}, "arm": {"IoU": [0.6] * 6}}
    light, middle, dark = skin_table(iou, "arm", hands)
    assert light["median luminance"] > middle["median luminance"] > dark["median luminance"]
    assert light["IoU change"].startswith("+0.100")
    assert light["worse in IoU"] == 0


def test_seeds_of_the_noise_are_averaged_by_photograph_and_counted_one_by_one(hands):
    runs = [{BASE: {"IoU": [0.5] * 6}, MASK: {"IoU": [iou] * 6}} for iou in (0.6, 0.49)]
    base, mask = arm_table(runs, [{BASE: 0.0, MASK: 2.0}, {BASE: 0.0, MASK: 4.0}], hands)
    assert base["IoU change"].startswith("+0.000")
    assert mask["IoU change"] == "+0.045 (+0.045 … +0.045)"
    assert (mask["weight"], mask["worse in IoU"]) == (3.0, 0.5)


def test_the_tables_of_a_run_and_the_same_again_without_a_fit(tmp_path, renderer, monkeypatch):
    for name, person in (("hgr", [0, 0, 1, 1]), ("sld", [0, 1, 2, 3])):
        write_folder(tmp_path / name, 4, SIZE, left_share=0, person=np.array(person), vertices_cam_cm=None)
    changes = {"HGR": (0, 1), "SLD": range(4), "EACH": 2, "LABELS": {"detector + noise": 0}, "NOISE_SEEDS": (0,)}
    for name, value in changes.items():
        monkeypatch.setattr(across_people, name, value)
    monkeypatch.setattr(people_fits, "STEPS", 2)

    def tables(section="final_tables"):
        priors = {"bundled": ta.UVTextureEncoder.from_pretrained()}
        return getattr(AcrossPeople(renderer, priors, tmp_path, None, tmp_path / "keep"), section)()

    found = tables()
    rows = {row["variant"]: row for row in found["sld, detector + noise"]}
    assert list(rows) == [BASE, BUNDLED, "+ loss, mean colour", "+ plain difference", "+ mask"]
    assert rows[BASE]["weight"] == 0
    assert all(row["weight"] > 0 for name, row in rows.items() if name != BASE)
    assert (tmp_path / "keep" / "worst hgr.png").exists()
    monkeypatch.setattr(across_people, "fitted", None)
    assert tables() == found
    of_noise = {f"{name}, detector + noise{of}" for name in ("hgr", "sld") for of in ("", ", seed 0")}
    assert set(tables("noise_tables")) == of_noise

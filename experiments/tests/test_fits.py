"""On real photographs, where TEXALIGN_REAL_DATA names their folder: the prior transfers, the loss pulls hands home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import texalign as ta
from fits import prior
from fits import real_refinement as real
from fits.synthetic_refinement import with_loss
from texalign.hand import HandModel, pose_hand
from texalign.photographs import read_photographs

ROOT, SIZE = os.environ.get("TEXALIGN_REAL_DATA", ""), 128
FRAMES = [325, 340, 355, 370, 380, 390]

pytestmark = pytest.mark.skipif(
    not (Path(ROOT) / "annotations.npz").is_file(), reason="TEXALIGN_REAL_DATA names no folder of photographs"
)


@pytest.fixture(scope="module")
def fitted():
    photographs = read_photographs(ROOT, FRAMES, SIZE)
    return photographs, real.true_fits(photographs)


@pytest.fixture(scope="module")
def renderer():
    return ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE, backend="torch")


def test_the_camera_projects_the_true_joints_onto_their_marks(fitted):
    photographs, _ = fitted
    assert (photographs.camera.project(photographs.joints) - photographs.joints_image).abs().max() < 1e-3


def test_a_prior_that_has_seen_no_photograph_predicts_one(fitted, renderer):
    photographs, fit = fitted
    with torch.no_grad():
        vertices = pose_hand(HandModel(), fit).vertices
        errors = prior.errors_on(ta.UVTextureEncoder.from_pretrained(), renderer, photographs, vertices)["visible"]
    assert sum(errors["prior"]) < 0.7 * sum(errors["mean"])


def test_the_loss_pulls_hands_over_their_pixels(fitted, renderer):
    photographs, fit = fitted
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), reduction="none")
    labels, start = real.starts(photographs, fit, seed=0)
    alone, together = (
        {key: sum(values) / len(values) for key, values in real.errors(photographs, end, renderer).items()}
        for end in (
            real.fitted(photographs, labels, start, None),
            real.fitted(photographs, labels, start, with_loss(loss_fn, 4)),
        )
    )
    assert together["IoU"] > alone["IoU"] + 0.03
    assert together["PA-MPJPE, mm"] < alone["PA-MPJPE, mm"]
    assert together["2D joints, px"] < alone["2D joints, px"]

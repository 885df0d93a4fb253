"""On real photographs, where TEXALIGN_REAL_DATA names their folder: the prior transfers, the loss pulls hands home."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import texalign as ta

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import alignment
import fitting
import photographs

FRAMES = [325, 340, 355, 370, 380, 390]

pytestmark = pytest.mark.skipif(
    photographs.folder() is None, reason="TEXALIGN_REAL_DATA names no folder of photographs"
)


@pytest.fixture(scope="module")
def fitted(hand):
    frames = photographs.load(photographs.folder(), FRAMES, alignment.SIZE)
    return frames, fitting.fit_to_joints(hand, frames.joints, 200)


def test_the_camera_projects_the_true_joints_onto_their_marks(fitted):
    frames, _ = fitted
    assert (frames.camera.project(frames.joints) - frames.joints_image).abs().max() < 1e-3


def test_a_prior_that_has_seen_no_photograph_predicts_one(fitted, hand, surface):
    frames, fit = fitted
    renderer = ta.TexturedHandRenderer(surface, alignment.SIZE, backend="torch")
    with torch.no_grad():
        vertices = fitting.pose_hand(hand, fit).vertices
    encoder = ta.UVTextureEncoder.from_pretrained()
    assert alignment.prior_on_photographs(encoder, renderer, vertices, frames)["ratio"] < 0.7


def test_the_loss_pulls_hands_over_their_pixels(fitted, hand, surface):
    frames, fit = fitted
    renderer = ta.TexturedHandRenderer(surface, alignment.SIZE, backend="torch")
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), reduction="none")
    generator = torch.Generator().manual_seed(0)
    labels = alignment.noisy_labels(frames, generator)
    plain = alignment.labels_objective(hand, frames, labels, None)
    start = fitting.refine(hand, alignment.disturbed(fit, generator), plain, 100, alignment.RATE)

    def texture(posed):
        return 2 * loss_fn(posed.vertices, frames.camera, frames.image, generator=generator)

    results = []
    for extra in (None, texture):
        objective = alignment.labels_objective(hand, frames, labels, extra)
        end = fitting.refine(hand, start, objective, alignment.STEPS, alignment.RATE)
        results.append({key: value.mean() for key, value in alignment.measure(hand, renderer, end, frames).items()})
    alone, together = results
    assert together["iou"] > alone["iou"] + 0.02
    assert together["pa_mpjpe_mm"] < alone["pa_mpjpe_mm"]

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from texalign._rotations import rotation_matrices
from texalign.metrics import mask_iou, point_error, procrustes_aligned


def points(batch=3, count=21, seed=0):
    return torch.randn(batch, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(values, scale=1.7):
    turn = rotation_matrices(torch.tensor([[0.3, -1.1, 2.0]], dtype=values.dtype))
    return scale * values @ turn.transpose(1, 2) + torch.tensor([0.4, -2.0, 5.0], dtype=values.dtype)


def test_point_error_by_hand():
    true = torch.zeros(2, 2, 2)
    predicted = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert point_error(predicted, true).tolist() == [2.5, 1.0]


def test_alignment_undoes_a_similarity():
    true = points()
    torch.testing.assert_close(procrustes_aligned(moved(true), true), true)
    # And the error that is left does not depend on where the prediction was.
    predicted = true + 0.3 * points(seed=1)
    first, second = (point_error(procrustes_aligned(some, true), true) for some in (predicted, moved(predicted, 0.2)))
    torch.testing.assert_close(first, second)
    assert first.min() > 0.05


def test_alignment_agrees_with_scipy():
    true, predicted = points(), points() + 0.4 * points(seed=2)
    aligned = procrustes_aligned(predicted, true)
    for sample in range(3):
        _, _, disparity = procrustes(true[sample].numpy(), predicted[sample].numpy())
        centred = true[sample] - true[sample].mean(dim=0)
        mine = (aligned[sample] - true[sample]).square().sum() / centred.square().sum()
        assert mine.item() == pytest.approx(disparity, rel=1e-9)


def test_no_alignment_is_better():
    true, predicted = points(1), points(1) + 0.4 * points(1, seed=3)
    best = (procrustes_aligned(predicted, true) - true).square().sum()
    generator = np.random.default_rng(0)
    aligned = procrustes_aligned(predicted, true)
    middle = aligned.mean(dim=1, keepdim=True)
    for _ in range(50):
        turn = torch.from_numpy(Rotation.from_rotvec(0.1 * generator.normal(size=3)).as_matrix())
        shift = torch.from_numpy(0.02 * generator.normal(size=3))
        other = (aligned - middle) @ turn.T * (1 + 0.05 * float(generator.normal())) + middle + shift
        assert (other - true).square().sum() > best


def test_a_mirror_image_is_not_the_hand():
    true = points()
    mirrored = true * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert point_error(procrustes_aligned(mirrored, true), true).min() > 0.2


def test_points_in_one_place_stay_finite():
    true = points()
    aligned = procrustes_aligned(torch.ones_like(true), true)
    assert torch.isfinite(aligned).all()
    torch.testing.assert_close(aligned, true.mean(dim=1, keepdim=True).expand_as(true))


def test_mask_iou_by_hand():
    first = torch.zeros(4, 1, 4, 4)
    second = torch.zeros(4, 1, 4, 4)
    first[0, 0, :2], second[0, 0, 1:3] = 1, 0.9  # one row of three
    first[1, 0, :2] = 1  # nothing in common
    first[2], second[2] = 1, 1
    assert mask_iou(first, second).tolist() == pytest.approx([1 / 3, 0, 1, 1])  # the last: both empty
    assert mask_iou(torch.full((1, 1, 2, 2), 0.4), torch.ones(1, 1, 2, 2)).item() == 0

"""Weight 0, NaN or "not selected" means absent: what stands there changes nothing."""

from __future__ import annotations

import pytest
import torch

import texalign as ta
from texalign.adapters import translation_from_joints
from texalign.hand import fit_to_joints, pose_hand, sample_pose
from texalign.metrics import mpjpe_mm, pa_mpjpe_mm, procrustes_aligned

ANYTHING = [torch.nan, torch.inf, 1e30, 0.0]


@pytest.fixture(scope="module")
def joints(hand):
    """(3, 21, 3) metres, half a metre away."""
    pose = sample_pose(3, torch.Generator().manual_seed(2))
    return hand(pose).joints + torch.tensor([0.01, -0.02, 0.5])


@pytest.mark.parametrize("missing", [[20], [0], [5, 9], [0, 5, 9, 13], [3, 7, 11, 19]])
def test_a_fit_to_joints_ignores_those_that_are_not_known(hand, joints, missing):
    spoilt = joints.clone()
    spoilt[1, missing] = torch.nan
    fitted = pose_hand(hand, fit_to_joints(hand, spoilt, steps=150)).joints
    assert torch.isfinite(fitted).all()
    known = [joint for joint in range(21) if joint not in missing]
    # Half a finger's width: the hand is fitted, where one NaN used to make all of it NaN.
    assert (fitted[1, known] - joints[1, known]).norm(dim=-1).mean() < 0.008
    # The others' fits know nothing of it: their start is the same, and Adam goes its way by each number alone.
    whole = pose_hand(hand, fit_to_joints(hand, joints, steps=150)).joints
    assert (fitted[[0, 2]] - whole[[0, 2]]).norm(dim=-1).max() < 1e-3


def test_a_hand_of_which_nothing_is_known_stops_no_batch(hand, joints):
    spoilt = joints.clone()
    spoilt[2] = torch.nan
    assert torch.isfinite(pose_hand(hand, fit_to_joints(hand, spoilt, steps=3)).joints).all()


@pytest.mark.parametrize("anything", ANYTHING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_a_joint_without_confidence_does_not_move_the_hand(joints, anything, dtype):
    camera = ta.PinholeCamera(torch.full((3, 2), 300.0), torch.full((3, 2), 64.0))
    seen = camera.project(joints)
    relative = joints - joints[:, :1]
    confidence = torch.ones(3, 21, dtype=dtype)
    confidence[1, 4] = 0
    relative[1, 4], seen[1, 4] = anything, anything
    moved = translation_from_joints(relative, seen, camera, confidence)
    # float32 pixels of 1e-5 at 300 pixels focal length and half a metre: some hundredths of a millimetre.
    torch.testing.assert_close(moved, joints[:, 0], atol=1e-4, rtol=0)


def test_a_joint_that_is_not_finite_is_left_out_without_being_named(joints):
    camera = ta.PinholeCamera(torch.full((3, 2), 300.0), torch.full((3, 2), 64.0))
    seen = camera.project(joints)
    seen[0, 7] = torch.nan
    moved = translation_from_joints(joints - joints[:, :1], seen, camera)
    torch.testing.assert_close(moved, joints[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("anything", ANYTHING)
def test_metrics_do_not_see_what_is_not_selected(joints, anything):
    predicted = joints + 0.01 * torch.randn(joints.shape)
    among = torch.ones(3, 21, dtype=torch.bool)
    among[:, [2, 17]] = False
    expected = [metric(predicted, joints, among=among) for metric in (mpjpe_mm, pa_mpjpe_mm)]
    few = [joint for joint in range(21) if joint not in (2, 17)]
    for metric, value in zip((mpjpe_mm, pa_mpjpe_mm), expected):
        torch.testing.assert_close(value, metric(predicted[:, few], joints[:, few]), rtol=1e-5, atol=1e-4)
    for spoilt in (predicted, joints):
        other = spoilt.clone()
        other[:, [2, 17]] = anything
        pair = (other, joints) if spoilt is predicted else (predicted, other)
        for metric, value in zip((mpjpe_mm, pa_mpjpe_mm), expected):
            torch.testing.assert_close(metric(*pair, among=among), value, rtol=1e-5, atol=1e-4)


def test_alignment_by_some_points_moves_all(joints):
    turned = 1.3 * joints.flip(-1)[..., [0, 2, 1]] + 0.2
    among = torch.zeros(3, 21, dtype=torch.bool)
    among[:, :8] = True
    torch.testing.assert_close(procrustes_aligned(turned, joints, among=among), joints, atol=1e-5, rtol=0)

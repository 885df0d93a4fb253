from __future__ import annotations

import math

import pytest
import torch

import texalign as ta
from texalign.hand import (
    FITTED_SHAPE,
    HandParameters,
    anatomy_loss,
    fit_to_joints,
    fit_to_keypoints,
    keypoint_loss,
    keypoint_objective,
    pose_hand,
    refine,
    resting,
    sample_pose,
)

SIZE = 128


@pytest.fixture(scope="module")
def hands(hand):
    """Four hands that the parameters can express, cameras, and the true 2D joints."""
    generator = torch.Generator().manual_seed(3)
    low, high = hand.angle_limits.expand(4, 15, 3, 2).unbind(-1)
    angles = torch.lerp(low, high, 0.3 + 0.4 * torch.rand(4, 15, 3, generator=generator))
    orientation = sample_pose(4, generator)[:, 0]
    shape = 0.7 * torch.randn(4, len(FITTED_SHAPE), generator=generator)
    true = HandParameters(angles, orientation, torch.tensor([[0.01, -0.02, 0.6]]).expand(4, 3).clone(), shape)
    camera = ta.PinholeCamera(torch.full((4, 2), 330.0), torch.full((4, 2), SIZE / 2))
    posed = pose_hand(hand, true)
    middle = posed.vertices.mean(dim=1) * torch.tensor([1.0, 1.0, 0.0])
    true = HandParameters(angles, orientation, true.translation - middle, shape)
    posed = pose_hand(hand, true)
    return true, posed, camera, camera.project(posed.joints)


def pixel_error(hand, parameters, camera, keypoints):
    with torch.no_grad():
        return (camera.project(pose_hand(hand, parameters).joints) - keypoints).norm(dim=-1)


def test_the_fitted_shape_lands_in_its_betas():
    shape = torch.arange(1.0, 1 + len(FITTED_SHAPE))[None]
    zero = torch.zeros(1, 3)
    betas = HandParameters(torch.zeros(1, 15, 3), zero, zero, shape).betas()
    assert betas[0, list(FITTED_SHAPE)].tolist() == shape[0].tolist()
    assert betas.sum() == shape.sum() and betas.shape == (1, 10)


def test_the_keypoint_loss_by_hand(hands):
    _, posed, camera, keypoints = hands
    offset = torch.zeros_like(keypoints)
    offset[0, 0, 0] = 3.0  # d² = 9
    offset[1, :, 1] = 4.0  # 16
    offset[2, 5] = math.nan
    offset[3] = 1e6
    loss = keypoint_loss(posed.joints, camera, keypoints + offset, 4.0)
    torch.testing.assert_close(loss, torch.tensor([9 / 25 / 21, 0.5, 0.0, 1.0]), atol=1e-4, rtol=0)


def test_the_keypoint_losss_gradient(hands):
    _, posed, camera, keypoints = hands
    camera, marks = camera.to(torch.float64), keypoints.double() + 3
    marks[:, 3] = math.nan
    joints = posed.joints.double().requires_grad_()
    (gradient,) = torch.autograd.grad(keypoint_loss(joints, camera, marks, 4.0).sum(), joints)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 3] == 0).all() and (gradient[:, 4].abs().sum(dim=-1) > 0).all()
    assert torch.autograd.gradcheck(lambda points: keypoint_loss(points, camera[:1], marks[:1], 4.0), joints[:1])


def test_anatomy_by_hand(hand):
    rest = resting(hand, 2)
    assert anatomy_loss(hand, rest).tolist() == [0.0, 0.0]
    beyond = rest.angles.clone()
    beyond[1, 4, 0] = hand.angle_limits[4, 0, 1] + 0.5
    shape = rest.shape.clone()
    shape[1, 0] = 2.0
    loss = anatomy_loss(hand, HandParameters(beyond, rest.orientation, rest.translation, shape))
    assert loss.tolist() == pytest.approx([0.0, 20 * 0.25 + 0.02 * 4], rel=1e-4)


def test_refining_lowers_the_objective_and_leaves_the_start_alone(hand, hands):
    true, posed, camera, keypoints = hands
    start = HandParameters(true.angles + 0.1, true.orientation + 0.1, true.translation + 0.01, true.shape)
    kept = [tensor.clone() for tensor in start.tensors()]
    plain = keypoint_objective(hand, camera, keypoints, 4.0)
    more = keypoint_objective(hand, camera, keypoints, 4.0, lambda posed: posed.joints[:, 0, 2])
    torch.testing.assert_close(more(true, posed) - plain(true, posed), posed.joints[:, 0, 2])
    told = []
    end = refine(hand, start, plain, 30, progress=lambda step, parameters, posed: told.append(step))
    before, after = (plain(some, pose_hand(hand, some)) for some in (start, end))
    assert (after < 0.5 * before).all()
    assert all(torch.equal(tensor, old) for tensor, old in zip(start.tensors(), kept))
    assert told == list(range(30))
    assert not any(tensor.requires_grad for tensor in end.tensors())


def test_a_fit_to_joints_finds_them(hand, hands):
    _, posed, _, _ = hands
    found = fit_to_joints(hand, posed.joints, 150)
    error = (pose_hand(hand, found).joints - posed.joints).norm(dim=-1).mean(dim=1)
    assert error.max() < 0.004
    assert (pose_hand(hand, found).vertices - posed.vertices).norm(dim=-1).mean() < 0.006


def test_a_fit_to_keypoints_from_nothing_finds_them(hand, hands):
    _, _, camera, keypoints = hands
    marks = keypoints.clone()
    marks[1, [4, 17]] = math.nan
    marks[2, 8] += 60  # a gross outlier
    found = fit_to_keypoints(hand, camera, marks, 4.0, steps=120)
    error = pixel_error(hand, found, camera, keypoints)
    assert error.median() < 1.5 and error[0].median() < 1.5
    assert error[1, [4, 17]].max() < 25, "anatomy says where an unknown joint may be"
    vertices = pose_hand(hand, found).vertices
    assert ((vertices[..., 2] > 0.2) & (vertices[..., 2] < 2)).all()


def test_a_batch_does_not_matter_to_its_samples(hand, hands):
    """In float64: Adam makes a step of any gradient, so that in float32 rounding decides about idle angles."""
    _, _, camera, keypoints = hands
    camera, keypoints = camera.to(torch.float64), keypoints.double()
    one = torch.tensor([3])
    alone = fit_to_keypoints(hand, camera[one], keypoints[one], 4.0, steps=10)
    together = fit_to_keypoints(hand, camera, keypoints, 4.0, steps=10)
    first, second = (pixel_error(hand, some, camera[one], keypoints[one]) for some in (alone, together.select(one)))
    assert first.dtype == torch.float64
    # Pixels. Rounding of 1e-14 grows in ten steps of Adam, to 1e-5 as measured.
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_nothing_known_and_no_sample(hand, hands):
    camera = hands[2]
    found = fit_to_keypoints(hand, camera, torch.full((4, 21, 2), math.nan), 4.0, steps=4)
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors())
    assert fit_to_keypoints(hand, camera[:0], torch.zeros(0, 21, 2), 4.0, steps=2).angles.shape == (0, 15, 3)
    assert fit_to_joints(hand, torch.zeros(0, 21, 3), 2).angles.shape == (0, 15, 3)


def test_errors_name_expected_and_got(hand, hands):
    with pytest.raises(ValueError, match="fit_to_joints: expected joints"):
        fit_to_joints(hand, torch.zeros(2, 20, 3))
    with pytest.raises(ValueError, match=r"fit_to_keypoints: expected keypoints \(B, 21, 2\), got \(4, 21, 3\)"):
        fit_to_keypoints(hand, hands[2], torch.zeros(4, 21, 3), 4.0)
    with pytest.raises(ValueError, match=r"fit_to_keypoints: expected keypoints in pixels, got normalised ones"):
        fit_to_keypoints(hand, hands[2], hands[3] / 256, 4.0)
    with pytest.raises(ValueError, match=r"fit_to_keypoints: expected keypoints over at least 4 pixels, got over 0"):
        fit_to_keypoints(hand, hands[2], torch.full((4, 21, 2), 40.0), 4.0)


@pytest.mark.parametrize("inside", [True, False])
def test_fits_make_gradients_of_their_own_in_inference_mode(hand, hands, inside):
    _, posed, camera, keypoints = hands
    with torch.inference_mode():
        camera, keypoints, joints = camera.to(torch.float32), keypoints.clone(), posed.joints.clone()
        assert keypoints.is_inference()
    with torch.inference_mode(inside):
        fits = fit_to_keypoints(hand, camera, keypoints, 4.0, steps=4), fit_to_joints(hand, joints, 2)
    expected = fit_to_keypoints(hand, hands[2], hands[3], 4.0, steps=4), fit_to_joints(hand, posed.joints, 2)
    for found, other in zip(fits, expected):
        assert not found.angles.is_inference()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found.tensors(), other.tensors()))

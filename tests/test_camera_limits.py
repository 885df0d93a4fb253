"""Cameras that a pinhole camera cannot express, and the turned one that it can."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import texalign as ta

INTRINSICS = torch.tensor([[300.0, 0.0, 64.0], [0.0, 300.0, 70.0], [0.0, 0.0, 1.0]])


def in_plane(angle):
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@given(angle=st.floats(-3, 3), scale=st.floats(0.2, 5), shift=st.tuples(st.floats(-99, 99), st.floats(-99, 99)))
def test_a_rotated_crop_is_the_rotated_camera_of_rotated_points(angle, scale, shift):
    """What a loader's similarity does to the pixels, `rotated` and `cropped` do to the camera."""
    camera = ta.PinholeCamera.from_intrinsics(INTRINSICS.double())
    points = torch.randn(1, 20, 3, dtype=torch.float64) * 0.05 + torch.tensor([0.0, 0.0, 0.5])
    turn, shift = in_plane(angle).double(), torch.tensor(shift, dtype=torch.float64)
    expected = scale * camera.project(points) @ turn.T + shift
    turned, rotation = camera.rotated(angle, about=(0, 0))
    crop = turned.cropped(-shift / scale, scale)
    assert torch.allclose(crop.focal, scale * camera.focal)
    torch.testing.assert_close(crop.project(points @ rotation.transpose(1, 2)), expected, rtol=1e-6, atol=1e-4)


def test_a_camera_turns_about_its_principal_point_by_default():
    camera = ta.PinholeCamera.from_intrinsics(INTRINSICS)
    turned, _ = camera.rotated(torch.tensor([0.7]))
    torch.testing.assert_close(turned.principal, camera.principal)


@pytest.mark.parametrize("degrees", [0.1, 5, 30, -60])
def test_intrinsics_with_a_rotation_are_refused(degrees):
    crop = torch.eye(3)
    crop[:2, :2] = 1.3 * in_plane(math.radians(degrees))
    with pytest.raises(
        ValueError, match=r"from_intrinsics: expected K with K\[0, 1\] = K\[1, 0\] = 0.*rotated\(angle\)"
    ):
        ta.PinholeCamera.from_intrinsics(torch.stack([INTRINSICS, crop @ INTRINSICS]))


@pytest.mark.parametrize("row, column, value", [(0, 1, 2.0), (1, 0, -2.0), (2, 0, 0.01), (2, 2, 2.0)])
def test_intrinsics_that_no_pinhole_camera_has_are_refused(row, column, value):
    matrix = INTRINSICS.clone()
    matrix[row, column] = value
    with pytest.raises(ValueError, match="from_intrinsics: expected K with"):
        ta.PinholeCamera.from_intrinsics(matrix)


def test_a_skew_of_rounding_is_none():
    matrix = INTRINSICS.clone()
    matrix[0, 1] = 1e-3
    torch.testing.assert_close(ta.PinholeCamera.from_intrinsics(matrix).focal, torch.tensor([[300.0, 300.0]]))


def test_two_focal_lengths_cannot_be_turned():
    camera = ta.PinholeCamera(torch.tensor([[300.0, 310.0]]), torch.tensor([[64.0, 64.0]]))
    with pytest.raises(ValueError, match="rotated: expected fx = fy"):
        camera.rotated(0.2)


def test_numbers_and_tuples_are_as_good_as_tensors():
    camera = ta.PinholeCamera(torch.full((3, 2), 300.0), torch.full((3, 2), 64.0))
    expected = camera.cropped(torch.tensor([10.0, 20.0]), torch.tensor(0.5))
    for left_top, scale in (((10, 20), 0.5), ([10.0, 20.0], (0.5, 0.5)), ((10, 20), torch.full((3, 1), 0.5))):
        crop = camera.cropped(left_top, scale)
        assert torch.equal(crop.focal, expected.focal) and torch.equal(crop.principal, expected.principal)
    with pytest.raises(ValueError, match=r"cropped: expected scale \(3, 2\), \(3, 1\), \(2,\) or a number, got \(3,\)"):
        camera.cropped((10, 20), (1, 2, 3))
    with pytest.raises(TypeError, match="project: expected points to be a torch.Tensor, got tuple"):
        camera.project((1.0, 2.0, 3.0))

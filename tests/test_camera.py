from __future__ import annotations

import pytest
import torch

import texalign as ta


def camera(fx=100.0, fy=200.0, cx=32.0, cy=24.0):
    return ta.PinholeCamera(torch.tensor([[fx, fy]]), torch.tensor([[cx, cy]]))


def test_project_equals_a_hand_computed_number():
    # 100 · 0.1 / 0.5 + 32 = 52; 200 · (−0.05) / 0.5 + 24 = 4
    pixel = camera().project(torch.tensor([[[0.1, -0.05, 0.5]]]))
    torch.testing.assert_close(pixel, torch.tensor([[[52.0, 4.0]]]))


def test_homogeneous_is_the_projection_times_depth():
    points = torch.randn(1, 7, 3) + torch.tensor([0.0, 0.0, 5.0])
    homogeneous = camera().homogeneous(points)
    torch.testing.assert_close(homogeneous[..., :2] / homogeneous[..., 2:], camera().project(points))


def test_a_point_on_the_axis_of_a_centred_camera_lies_on_the_corner_between_the_middle_pixels():
    """Pixel (i, j) has its centre at (j + 0.5, i + 0.5): the middle of 64 pixels is 32, an edge, not a centre."""
    K = torch.tensor([[100.0, 0, 32.0], [0, 100.0, 32.0], [0, 0, 1]])
    axis = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert ta.PinholeCamera.from_intrinsics(K).project(axis).tolist() == [[[32.0, 32.0]]]
    # The same matrix from a data set whose integer coordinates are pixel centres means the centre of pixel 32.
    assert ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5).project(axis).tolist() == [[[32.5, 32.5]]]


def test_a_small_triangle_around_a_projected_point_lights_the_pixel_the_convention_names(surface):
    """The whole chain: a point drawn at integer-centre pixel (row 3, column 5) must light array element [3, 5]."""
    from texalign.rasterize import torch_backend

    K = torch.tensor([[[50.0, 0, 4.0], [0, 50.0, 4.0], [0, 0, 1]]])
    ours = ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5)
    centre = torch.tensor([(5 - 4) / 50.0, (3 - 4) / 50.0, 1.0])
    triangle = centre + torch.tensor([[-0.005, -0.004, 0], [0.0, 0.006, 0], [0.005, -0.004, 0]])
    found = torch_backend.rasterize(ours.homogeneous(triangle[None]), torch.tensor([[0, 1, 2]]), 8, 8, near=0.1)
    assert (found.face_index[0] == 0).nonzero().tolist() == [[3, 5]]


def test_weak_perspective_equals_the_formula():
    cam = torch.tensor([[8.0, 0.01, -0.02]])
    ours, translation = ta.PinholeCamera.from_weak_perspective(cam, image_size=224, focal=1000.0)
    # tz = 2 · 1000 / (224 · 8) = 1.116071 m
    torch.testing.assert_close(translation, torch.tensor([[0.01, -0.02, 1.1160714]]))
    point = torch.tensor([[[0.03, 0.05, 0.0]]])
    pixel = ours.project(point + translation[:, None])
    # In the plane z = 0 weak perspective is exact: 112 · (1 + s (x + tx))
    torch.testing.assert_close(pixel, torch.tensor([[[112 * (1 + 8 * 0.04), 112 * (1 + 8 * 0.03)]]]))


def test_hamer_equals_its_own_formula():
    """HaMeR: cam_t = (tx, ty, 2·5000 / (256 s + 1e-9)); px = 5000 (V + cam_t)_xy / z + 128; array index = px."""
    pred_cam = torch.tensor([[9.0, 0.013, -0.021], [6.0, 0.0, 0.0]])
    points = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    ours, translation = ta.PinholeCamera.from_hamer(pred_cam)
    cam_t = torch.stack([pred_cam[:, 1], pred_cam[:, 2], 2 * 5000.0 / (256 * pred_cam[:, 0] + 1e-9)], dim=-1)
    torch.testing.assert_close(translation, cam_t)
    moved = points + cam_t[:, None]
    expected = 5000.0 * moved[..., :2] / moved[..., 2:] + 128
    pixel = ours.project(points + translation[:, None])
    # Array index px has its centre at px + 0.5.
    torch.testing.assert_close(pixel, expected + 0.5, atol=1e-3, rtol=0)


def test_mirrored_maps_pixels_to_width_minus_x():
    points = torch.tensor([[[0.1, 0.2, 1.5], [-0.3, 0.1, 2.0]]])
    pixel = camera(cx=20.0).project(points)
    flipped = camera(cx=20.0).mirrored(64).project(points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(flipped, torch.stack([64 - pixel[..., 0], pixel[..., 1]], dim=-1))
    # Integer-centre annotations mirror as x → 63 − x, as the photographs' own documentation does with 255.
    assert camera(cx=20.5).mirrored(64).principal[0, 0].item() - 0.5 == 63 - 20


def test_cropped_follows_pixels():
    points = torch.tensor([[[0.1, 0.2, 1.5], [-0.3, 0.1, 2.0]]])
    left_top, scale = torch.tensor([[10.0, -5.0]]), torch.tensor([[0.5, 2.0]])
    expected = (camera().project(points) - left_top) * scale
    torch.testing.assert_close(camera().cropped(left_top, scale).project(points), expected)


@pytest.mark.parametrize(
    ("index", "rows"), [([2, 0, 2], [2, 0, 2]), ([False, True, True], [1, 2]), ([], []), ([1], [1])]
)
def test_selected_cameras_see_what_they_saw(index, rows):
    focal = torch.tensor([[100.0, 110.0], [200.0, 220.0], [300.0, 330.0]])
    three = ta.PinholeCamera(focal, focal / 7)
    index = torch.tensor(index, dtype=torch.bool if index and isinstance(index[0], bool) else torch.int64)
    points = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0)) + 1
    some = three[index]
    assert some.batch_size == len(rows)
    assert torch.equal(some.project(points[rows]), three.project(points)[rows])


def test_projection_is_differentiable_in_points_and_camera():
    focal = torch.tensor([[100.0, 90.0]], dtype=torch.float64, requires_grad=True)
    principal = torch.tensor([[30.0, 20.0]], dtype=torch.float64, requires_grad=True)
    points = (torch.rand(1, 3, 3, dtype=torch.float64) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p, x: ta.PinholeCamera(f, p).project(x), (focal, principal, points))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ta.PinholeCamera(torch.ones(2), torch.ones(2)), r"expected focal \(B, 2\), got \(2,\)"),
        (lambda: ta.PinholeCamera(torch.ones(3, 2), torch.ones(2, 2)), r"expected principal \(3, 2\), got \(2, 2\)"),
        (
            lambda: ta.PinholeCamera(torch.ones(1, 2).long(), torch.ones(1, 2)),
            "focal of a floating dtype, got torch.int64",
        ),
        (lambda: ta.PinholeCamera.from_intrinsics(torch.eye(4)), r"expected K \(B, 3, 3\), got \(1, 4, 4\)"),
        (lambda: ta.PinholeCamera.from_hamer(torch.ones(3)), r"expected cam \(B, 3\), got \(3,\)"),
        (lambda: camera().project(torch.ones(2, 5, 3)), r"expected points \(1, N, 3\), got \(2, 5, 3\)"),
    ],
)
def test_errors_name_expected_and_got(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_camera_that_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="expected focal to be a torch.Tensor, got float"):
        ta.PinholeCamera(500.0, torch.ones(1, 2))

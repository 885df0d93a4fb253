from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import texalign as ta
from texalign.rasterize import select_backend

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def camera(fx=100.0, fy=200.0, cx=32.0, cy=24.0):
    return ta.PinholeCamera(torch.tensor([[fx, fy]]), torch.tensor([[cx, cy]]))


def pairs(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high))


@st.composite
def views(draw):
    """One to four cameras in float64, and five points before each."""
    count = draw(st.integers(1, 4))
    focal = torch.tensor([draw(pairs(10, 1e5)) for _ in range(count)], dtype=torch.float64)
    principal = torch.tensor([draw(pairs(-500, 500)) for _ in range(count)], dtype=torch.float64)
    seed = draw(st.integers(0, 1000))
    points = torch.rand(count, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5
    return ta.PinholeCamera(focal, principal), points + torch.tensor([0.0, 0.0, draw(st.floats(0.6, 20))])


def same(found, expected):
    """Pixels up to 10⁵ of a handful of float64 operations: 1e-9 is a hundred roundings."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


@given(views())
def test_projection_is_the_intrinsic_matrix_and_a_division(view):
    cameras, points = view
    K = torch.zeros(cameras.batch_size, 3, 3, dtype=torch.float64)
    K[:, [0, 1], [0, 1]], K[:, :2, 2], K[:, 2, 2] = cameras.focal, cameras.principal, 1.0
    homogeneous = points @ K.transpose(1, 2)
    same(cameras.homogeneous(points), homogeneous)
    same(cameras.project(points), homogeneous[..., :2] / homogeneous[..., 2:])
    again = ta.PinholeCamera.from_intrinsics(K)
    assert torch.equal(again.focal, cameras.focal) and torch.equal(again.principal, cameras.principal)
    same(ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5).project(points), cameras.project(points) + 0.5)


@given(views(), st.floats(1, 1000), st.lists(st.booleans(), min_size=4, max_size=4))
def test_mirrored_cameras_see_the_flipped_image(view, width, which):
    cameras, points = view
    chosen = torch.tensor(which[: cameras.batch_size])
    pixels = cameras.project(points)
    flipped = torch.stack([width - pixels[..., 0], pixels[..., 1]], dim=-1)
    same(cameras.mirrored(width).project(points * MIRROR), flipped)
    some = cameras.mirrored(width, chosen)
    here = torch.where(chosen[:, None, None], points * MIRROR, points)
    same(some.project(here), torch.where(chosen[:, None, None], flipped, pixels))
    same(some.mirrored(width, chosen).principal, cameras.principal)


@given(views(), pairs(-200, 200), pairs(0.1, 8))
def test_a_crops_camera_sees_the_crops_pixels(view, left_top, scale):
    cameras, points = view
    left_top, scale = torch.tensor(left_top, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    found = cameras.cropped(left_top, scale[None]).project(points)
    same(found, (cameras.project(points) - left_top) * scale)


@given(views(), st.data())
def test_selected_cameras_see_what_they_saw(view, data):
    cameras, points = view
    count = cameras.batch_size
    numbers = data.draw(st.lists(st.integers(-count, count - 1), max_size=5))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    first, last = data.draw(st.integers(0, count)), data.draw(st.integers(0, count))
    for index in (torch.tensor(numbers, dtype=torch.int64), mask, slice(first, last), slice(None, None, 2)):
        some, theirs = cameras[index], points[index]
        assert some.batch_size == len(theirs)
        assert torch.equal(some.project(theirs), cameras.project(points)[index])


def test_project_equals_a_hand_computed_number():
    # 100 · 0.1 / 0.5 + 32 = 52; 200 · (−0.05) / 0.5 + 24 = 4
    pixel = camera().project(torch.tensor([[[0.1, -0.05, 0.5]]]))
    torch.testing.assert_close(pixel, torch.tensor([[[52.0, 4.0]]]))


def test_a_point_on_the_axis_of_a_centred_camera_lies_on_the_corner_between_the_middle_pixels():
    """Pixel (i, j) has its centre at (j + 0.5, i + 0.5): the middle of 64 pixels is 32, an edge, not a centre."""
    K = torch.tensor([[100.0, 0, 32.0], [0, 100.0, 32.0], [0, 0, 1]])
    axis = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert ta.PinholeCamera.from_intrinsics(K).project(axis).tolist() == [[[32.0, 32.0]]]
    # The same matrix from a data set whose integer coordinates are pixel centres means the centre of pixel 32.
    assert ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5).project(axis).tolist() == [[[32.5, 32.5]]]
    # Such annotations mirror as x → 63 − x.
    assert camera(cx=20.5).mirrored(64).principal[0, 0].item() - 0.5 == 63 - 20


def test_a_small_triangle_around_a_projected_point_lights_the_pixel_the_convention_names():
    """The whole chain: a point drawn at integer-centre pixel (row 3, column 5) must light array element [3, 5]."""
    K = torch.tensor([[[50.0, 0, 4.0], [0, 50.0, 4.0], [0, 0, 1]]])
    ours = ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5)
    centre = torch.tensor([(5 - 4) / 50.0, (3 - 4) / 50.0, 1.0])
    triangle = centre + torch.tensor([[-0.005, -0.004, 0], [0.0, 0.006, 0], [0.005, -0.004, 0]])
    backend = select_backend("torch", torch.device("cpu"))
    found = backend.rasterize(ours.homogeneous(triangle[None]), torch.tensor([[0, 1, 2]]), 8, 8, near=0.1)
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
    # Array index px has its centre at px + 0.5. Pixels of some hundreds in float32: steps of 3e-5.
    pixel = ours.project(points + translation[:, None])
    torch.testing.assert_close(pixel, expected + 0.5, atol=1e-3, rtol=0)


def test_projection_is_differentiable_in_points_and_camera():
    focal = torch.tensor([[100.0, 90.0]], dtype=torch.float64, requires_grad=True)
    principal = torch.tensor([[30.0, 20.0]], dtype=torch.float64, requires_grad=True)
    points = (torch.rand(1, 3, 3, dtype=torch.float64) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p, x: ta.PinholeCamera(f, p).project(x), (focal, principal, points))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ta.PinholeCamera(torch.ones(3, 2), torch.ones(2, 2)), r"expected principal \(3, 2\), got \(2, 2\)"),
        (lambda: ta.PinholeCamera.from_intrinsics(torch.eye(4)), r"expected K \(B, 3, 3\), got \(1, 4, 4\)"),
        (lambda: ta.PinholeCamera.from_hamer(torch.ones(3)), r"expected cam \(B, 3\), got \(3,\)"),
    ],
)
def test_errors_name_expected_and_got(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_number_for_all_is_said_of_others():
    cam, camera = torch.tensor([[8.0, 0.0, 0.0]]), ta.PinholeCamera(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(
        ValueError, match=r"from_weak_perspective: expected image_size, one number .*, got \(224, 224\)"
    ):
        ta.PinholeCamera.from_weak_perspective(cam, (224, 224), 1000.0)
    with pytest.raises(ValueError, match=r"from_weak_perspective: expected focal, one number for all, got tensor"):
        ta.PinholeCamera.from_weak_perspective(cam, 224, torch.tensor([1000.0]))
    with pytest.raises(ValueError, match=r"mirrored: expected width, one number, got \(640, 480\)"):
        camera.mirrored((640, 480))

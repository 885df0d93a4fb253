from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import texalign as ta
from texalign.rasterize import unavailable_reason


def renderer(surface, size=64, **kwargs):
    return ta.TexturedHandRenderer(surface, size, backend="torch", **kwargs)


def gradient_of(render, vertices, camera, texture):
    leaf = vertices.clone().requires_grad_()
    out = render(leaf, camera, texture)
    weights = torch.rand(out.image.shape, generator=torch.Generator().manual_seed(0))
    loss = (out.image * weights).sum() + (out.coverage * weights[:, :1]).sum()
    return out, torch.autograd.grad(loss, leaf)[0]


def test_shapes_ranges_and_dtypes(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    out = ta.TexturedHandRenderer(surface, (48, 64))(vertices, camera, smooth_texture)
    assert out.image.shape == (2, 3, 48, 64)
    assert out.coverage.shape == out.depth.shape == (2, 1, 48, 64)
    assert out.face_index.shape == (2, 48, 64)
    assert out.uv.shape == (2, 48, 64, 2)
    assert out.face_index.dtype == torch.int64
    assert out.dropped.tolist() == [False, False]
    covered = out.face_index >= 0
    assert 0.05 < covered.float().mean() < 0.7
    assert out.coverage.min() >= 0
    assert out.coverage.max() <= 1
    assert (out.depth[:, 0][~covered] == 0).all()
    assert (out.depth[:, 0][covered] - 0.5).abs().max() < 0.15
    assert ((out.coverage > 0) & (out.coverage < 1)).float().mean() > 0.005  # antialiased


def test_a_constant_texture_gives_colour_times_coverage(surface, scene):
    vertices, camera = scene(2, 64)
    colour = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None]
    out = renderer(surface)(vertices, camera, colour.expand(1, 3, 16, 16))
    torch.testing.assert_close(out.image.clamp(0, 1), (colour * out.coverage), atol=2e-3, rtol=0)


def spread(image, size):
    pool = torch.nn.functional.max_pool2d
    return (pool(image, size, 1, size // 2) + pool(-image, size, 1, size // 2)).amax(dim=1, keepdim=True)


def interior(out, size=3):
    """(B, 1, H, W) bool: away from silhouettes, depth edges and the atlas's seams, where uv jumps."""
    covered = -torch.nn.functional.max_pool2d(-(out.face_index[:, None] >= 0).float(), size, 1, size // 2)
    return (covered > 0) & (spread(out.depth, size) < 0.02) & (spread(out.uv.permute(0, 3, 1, 2), size) < 0.1)


def test_uv_reads_the_texture_as_grid_sample_does(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    out = renderer(surface)(vertices, camera, smooth_texture)
    read = torch.nn.functional.grid_sample(smooth_texture.expand(2, -1, -1, -1), 2 * out.uv - 1, align_corners=False)
    inner = interior(out)
    assert inner.float().mean() > 0.05
    # Beside a seam the raw texture is read across the chart's border, the renderer's is not: this one is smooth there.
    assert ((out.image - read).abs() * inner).mean() / inner.float().mean() < 1e-4
    assert ((out.image - read).abs() * inner).max() < 0.05


def test_depth_is_the_surface_under_the_pixel(surface, scene, smooth_texture):
    vertices, camera = scene(1, 64)
    out = renderer(surface)(vertices, camera, smooth_texture)
    row, column = (out.face_index[0] >= 0).nonzero().unbind(1)
    depth = out.depth[0, 0, row, column]
    pixel = torch.stack([column, row], dim=1) + 0.5
    points = torch.cat([(pixel - camera.principal[0]) / camera.focal[0] * depth[:, None], depth[:, None]], dim=1)
    corner = vertices[0][surface.faces[out.face_index[0, row, column]]]
    normal = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal = normal / normal.norm(dim=1, keepdim=True)
    assert ((points - corner[:, 0]) * normal).sum(dim=1).abs().max() < 1e-5


def test_the_left_hand_is_the_mirror_image(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    right = renderer(surface)(vertices, camera, smooth_texture)
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    left = renderer(surface.mirrored())(vertices * mirror, camera.mirrored(64), smooth_texture)
    # But for pixels whose centre lies within rounding of an edge: 1e-5 of a pixel, of some 10⁴ edges' pixels.
    assert ((left.image.flip(-1) - right.image).abs() > 1e-3).float().mean() < 1e-3
    assert ((left.coverage.flip(-1) - right.coverage).abs() > 1e-3).float().mean() < 1e-3
    seen = renderer(surface.mirrored()).observe(vertices * mirror, camera.mirrored(64), left.image)
    assert seen.valid.float().mean() > 0.5  # its normals point outwards too


def test_moving_by_one_pixel_moves_the_image(surface, scene, smooth_texture):
    vertices, camera = scene(1, 64)
    moved = ta.PinholeCamera(camera.focal, camera.principal + torch.tensor([1.0, 2.0]))
    render = renderer(surface)
    a, b = render(vertices, camera, smooth_texture).image, render(vertices, moved, smooth_texture).image
    # But for pixels whose centre lies within rounding of an edge.
    assert ((b[..., 4:-2, 3:-2] - a[..., 2:-4, 2:-3]).abs() > 2e-3).float().mean() < 1e-3


def test_silhouette_gradient_is_that_of_the_area(surface, scene, smooth_texture):
    """Moving the hand by dx moves every covered pixel: d/dx Σ coverage · w = f/z Σ coverage · dw/dx, for a smooth w."""
    vertices, camera = scene(8, 96, distance=10.0)  # far away, f/z is the same all over the hand
    render = renderer(surface, 96)
    bump = torch.hann_window(96, periodic=False)
    window = bump[:, None] * bump[None] * torch.linspace(0, 1, 96)[None, :]

    def losses(shift):
        return (render(vertices + shift, camera, smooth_texture).coverage * window).sum(dim=(1, 2, 3))

    shift = torch.zeros(8, 1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses(shift).sum(), shift)
    coverage = render(vertices, camera, smooth_texture).coverage
    slope_y, slope_x = torch.gradient(window)
    exact = torch.stack([(coverage * slope).sum(dim=(1, 2, 3)) for slope in (slope_x, slope_y)], dim=1)
    exact = exact * camera.focal / 10.0
    error = (gradient[:, 0, :2] - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.median() < 0.1
    assert error.max() < 0.3
    step = torch.tensor([0.0, 0.0, 0.1])
    numeric = (losses(step) - losses(-step)) / 0.2
    assert (gradient[:, 0, 2] - numeric).norm() < 0.1 * numeric.norm()


def test_coverage_is_the_area_of_the_pixel_that_is_covered(surface, scene, smooth_texture):
    vertices, camera = scene(4, 48, seed=5)
    ours = renderer(surface, 48)(vertices, camera, smooth_texture).coverage
    finer = ta.PinholeCamera(camera.focal * 8, camera.principal * 8)
    hits = renderer(surface, 384)(vertices, finer, smooth_texture).face_index >= 0
    exact = torch.nn.functional.avg_pool2d(hits[:, None].float(), 8)
    outline = (exact > 0) & (exact < 1)
    error, unfiltered = (ours - exact)[outline].abs().mean(), (ours.round() - exact)[outline].abs().mean()
    assert error < 0.6 * unfiltered
    assert abs(ours.sum() / exact.sum() - 1) < 0.01


def test_interior_gradient_by_central_differences(surface, scene, smooth_texture):
    vertices, camera = scene(1, 64, seed=0)
    render = renderer(surface)
    inner = interior(render(vertices, camera, smooth_texture))
    assert inner.float().mean() > 0.02

    def loss(shift):
        return (render(vertices + shift, camera, smooth_texture).image.square() * inner).sum()

    shift = torch.zeros(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(shift), shift)
    moves = 5e-4 * torch.eye(3)
    numeric = torch.stack([(loss(move) - loss(-move)) / 1e-3 for move in moves])
    assert (gradient - numeric).norm() < 0.03 * numeric.norm()


# --- degenerate input ------------------------------------------------------


def test_dropped_samples_are_black_and_flagged(surface, scene, smooth_texture):
    vertices, camera = scene(6, 48)
    vertices[1, 5, 0], vertices[2, 7, 2] = torch.nan, torch.inf
    camera.focal[3, 1], camera.focal[4, 0], camera.principal[5, 0] = 0.0, -5.0, torch.nan
    out, gradient = gradient_of(renderer(surface, 48), vertices, camera, smooth_texture)
    assert out.dropped.tolist() == [False, True, True, True, True, True]
    assert (out.coverage[0] > 0).any() and gradient[0].any()
    for values in (out.image, out.coverage, gradient):
        assert (values[1:] == 0).all()


@pytest.mark.parametrize("offset", [(5.0, 0, 0), (0, 0, -3.0), (0, 0, -0.5)])
def test_out_of_sight_is_black_and_in_the_graph(surface, scene, smooth_texture, offset):
    vertices, camera = scene(2, 48)
    out, gradient = gradient_of(renderer(surface, 48), vertices + torch.tensor(offset), camera, smooth_texture)
    assert torch.isfinite(out.image).all()
    assert torch.isfinite(gradient).all()
    if offset != (0, 0, -0.5):  # that one has the camera inside the hand
        assert (out.image == 0).all()
        assert (gradient == 0).all()
    assert not out.dropped.any()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    log_scale=st.floats(-2, 2),
    shift=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    size=st.sampled_from([(1, 1), (16, 24), (33, 7)]),
)
def test_any_pose_and_camera_is_finite(surface, scene, smooth_texture, seed, log_scale, shift, size):
    vertices, camera = scene(1, 24, seed=seed)
    vertices = vertices + torch.tensor(shift)
    camera = ta.PinholeCamera(camera.focal * 10**log_scale, camera.principal)
    out, gradient = gradient_of(renderer(surface, size), vertices, camera, smooth_texture)
    for tensor in (out.image, out.coverage, out.depth, out.uv, gradient):
        assert torch.isfinite(tensor).all()
    assert out.coverage.min() >= 0
    assert out.coverage.max() <= 1


# --- bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(image_size=0), r"expected image_size > 0, one int or \(height, width\), got 0"),
        (dict(image_size=(8, -1)), "expected image_size > 0"),
        (dict(backend="opengl"), "expected backend auto, torch or nvdiffrast, got 'opengl'"),
        (dict(near=0.0), "expected near > 0, got 0.0"),
    ],
)
def test_construction_errors(surface, arguments, message):
    with pytest.raises(ValueError, match=message):
        ta.TexturedHandRenderer(surface, **arguments)


def test_what_does_not_fit_is_named(surface, scene, smooth_texture):
    vertices, camera = scene(1, 32)
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(TypeError, match="expected a HandSurface, got str"):
        ta.TexturedHandRenderer("mano")
    with pytest.raises(TypeError, match="TexturedHandRenderer: expected camera to be a PinholeCamera, got Tensor"):
        renderer(surface, 32)(vertices, camera.focal, smooth_texture)
    with pytest.raises(ValueError, match="TexturedHandRenderer.observe: expected count > 0 or None, got 0"):
        renderer(surface, 32).observe(vertices, camera, image, count=0)
    with pytest.raises(ValueError, match="TexturedHandRenderer.unwrap: expected texture_size > 0, got 0"):
        renderer(surface, 32).unwrap(vertices, camera, image, texture_size=0)


def test_nvdiffrast_where_it_cannot_run_fails_at_construction(surface):
    device = torch.device("cuda", 0)
    if unavailable_reason("nvdiffrast", device) is None:
        pytest.skip("nvdiffrast runs on this machine")
    with pytest.raises(RuntimeError, match="the nvdiffrast backend does not run on cuda"):
        ta.TexturedHandRenderer(surface, 32, backend="nvdiffrast")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda v, f, p: v.__setitem__((1, 3, 2), torch.nan), r"finite vertices, got sample 1: nan at index \(3, 2\)"),
        (lambda v, f, p: f.__setitem__((0, 1), -2.0), r"focal > 0, got sample 0: -2.0 at index \(1,\)"),
        (lambda v, f, p: p.__setitem__((1, 0), torch.inf), "a finite principal point, got sample 1: inf"),
    ],
)
def test_validate_raises_naming_the_sample(surface, scene, smooth_texture, spoil, message):
    vertices, camera = scene(2, 32)
    focal, principal = camera.focal.clone(), camera.principal.clone()
    spoil(vertices, focal, principal)
    with pytest.raises(ValueError, match=message):
        renderer(surface, 32, validate=True)(vertices, ta.PinholeCamera(focal, principal), smooth_texture)

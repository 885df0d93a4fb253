"""The contract of `Backend`, for every backend that runs on this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reference
from rasterize.meshes import grid_mesh, random_mesh, twins_of

NEAR = 0.1


@pytest.mark.parametrize("behind", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_values_equal_the_brute_force_reference(backend, seed, behind):
    backend, device = backend
    points, faces = random_mesh(seed, behind=behind)
    found = backend.rasterize(points.to(device), faces.to(device), 20, 28, NEAR)
    index, barycentric, safety = reference.rasterize(points[0].numpy(), faces.numpy(), 20, 28, NEAR)
    snaps = backend.name == "nvdiffrast"  # corners to 1/16 pixel
    safe = safety > (2e-2 if snaps else 1e-3)
    assert safe.mean() > (0.5 if snaps else 0.8)
    np.testing.assert_array_equal(found.face_index[0].cpu().numpy()[safe], index[safe])
    same = safe & (index >= 0)
    assert same.sum() > 20
    np.testing.assert_allclose(found.barycentric[0].cpu().numpy()[same], barycentric[same], atol=2e-4)
    assert (found.barycentric[0].cpu().numpy()[safe & (index < 0)] == 0).all()
    weights = found.barycentric.sum(-1)[found.face_index >= 0]
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_shapes_and_dtypes(backend):
    backend, device = backend
    points, faces = random_mesh(1)
    points, faces = points.expand(3, -1, -1).to(device).requires_grad_(), faces.to(device)
    found = backend.rasterize(points, faces, 20, 28, NEAR)
    assert found.face_index.shape == found.nearness.shape == (3, 20, 28) and found.face_index.dtype == torch.int64
    assert found.barycentric.shape == (3, 20, 28, 3)
    assert not found.nearness.requires_grad and found.barycentric.requires_grad
    covered = found.face_index >= 0
    assert torch.equal(found.nearness > 0, covered) and (found.nearness[~covered] == 0).all()
    uv, redirect = torch.rand(3, 20, 28, 2, device=device), torch.arange(16, device=device)
    layers = backend.sample_texture(torch.rand(1, 5, 4, 4, device=device), uv, found, redirect)
    assert layers.shape == (3, 20, 28, 6)
    assert torch.equal(layers[..., 5] == 1, covered) and (layers[~covered] == 0).all()
    empty = backend.rasterize(points[:0], faces, 20, 28, NEAR)
    assert empty.face_index.shape == empty.nearness.shape == (0, 20, 28)
    assert backend.interpolate(points[:0], faces, empty).shape == (0, 20, 28, 3)
    nothing = backend.sample_texture(torch.rand(1, 5, 4, 4, device=device), uv[:0], empty, redirect)
    assert nothing.shape == (0, 20, 28, 6)
    assert backend.antialias(nothing, empty, points[:0], faces, twins_of(faces.cpu()).to(device)).shape == nothing.shape


def test_the_nearer_surface_has_the_greater_nearness(backend):
    backend, device = backend
    for scale in (1.0, 2.0):  # the front half of the frame, then the back one
        depth = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], device=device) * scale
        pixel = torch.tensor([[-9, -9], [-9, 99], [4, -9], [4, -9], [4, 99], [99, -9]], device=device)
        points = torch.cat([pixel * depth[:, None], depth[:, None]], dim=1)[None]
        found = backend.rasterize(points, torch.arange(6, device=device).reshape(2, 3), 2, 8, NEAR)
        front, back = (found.nearness[found.face_index == face] for face in (0, 1))
        assert len(front) and len(back) and front.min() > back.max()


def test_equal_depth_goes_to_the_lower_face(backend):
    backend, device = backend
    if backend.name == "nvdiffrast":
        pytest.skip("nvdiffrast leaves this open")
    points = torch.tensor([[[0.0, 0, 1], [0, 9, 1], [9, 0, 1]]], device=device)
    faces = torch.tensor([[0, 1, 2], [0, 1, 2]], device=device)
    assert set(backend.rasterize(points, faces, 8, 8, NEAR).face_index.unique().tolist()) == {-1, 0}


def test_faces_with_corners_that_are_not_finite_are_dropped(backend):
    backend, device = backend
    if backend.name == "nvdiffrast":
        pytest.skip("the renderer gives nvdiffrast finite points only")
    points, faces = random_mesh(5)
    for value in (torch.nan, torch.inf):
        points[0, faces[0, 0]] = value
        bad = (faces == faces[0, 0]).any(dim=1).nonzero()[:, 0]
        found = backend.rasterize(points.to(device), faces.to(device), 20, 28, NEAR)
        assert not torch.isin(found.face_index.cpu(), bad).any()


def test_textures_begin_at_the_top_and_are_continued_beyond_their_borders(backend):
    """Row 0 lies at v = 0, centres of texels at half integers, and a redirected texel is not read."""
    backend, device = backend
    points = torch.tensor([[[-9.0, -9, 1], [-9, 99, 1], [99, -9, 1]]], device=device)
    found = backend.rasterize(points, torch.tensor([[0, 1, 2]], device=device), 1, 5, NEAR)
    texture = torch.arange(16.0, device=device).reshape(1, 1, 4, 4)
    u = torch.tensor([0.0, 0.125, 0.25, 0.875, 1.0], device=device)
    redirect = torch.arange(16, device=device)
    for v, row in ((0.0, 0.0), (0.25, 0.5), (1.0, 3.0)):
        uv = torch.stack([u, torch.full_like(u, v)], dim=-1)[None, None]
        expected = 4 * row + torch.tensor([0.0, 0.0, 0.5, 3.0, 3.0])
        found_texels = backend.sample_texture(texture, uv, found, redirect)[0, 0, :, 0].cpu()
        torch.testing.assert_close(found_texels, expected, rtol=0, atol=1e-5)
    uv = torch.tensor([0.625, 0.375], device=device).expand(1, 1, 5, 2)  # the centre of texel 6
    redirect[6] = 9
    assert (backend.sample_texture(texture, uv, found, redirect)[..., 0] == 9).all()


def test_one_pixel_triangle_lights_one_pixel(backend):
    backend, device = backend
    row, column = 3, 5
    corners = torch.tensor([[column + 0.5, row + 0.1, 1], [column + 0.1, row + 0.9, 1], [column + 0.9, row + 0.9, 1]])
    found = backend.rasterize(corners[None].to(device), torch.tensor([[0, 1, 2]], device=device), 7, 9, NEAR)
    lit = (found.face_index[0] == 0).nonzero()
    assert lit.tolist() == [[row, column]]


def test_interpolation_is_perspective_correct(backend):
    """Halfway across the screen between depths 1 and 3, the surface point is a quarter of the way: 1/z is linear."""
    backend, device = backend
    depth = torch.tensor([1.0, 3.0, 1.0, 3.0])
    pixel = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    points = torch.cat([pixel * depth[:, None], depth[:, None]], dim=1)[None].to(device)
    faces = torch.tensor([[0, 2, 3], [0, 3, 1]], device=device)
    found = backend.rasterize(points, faces, 9, 9, NEAR)
    attribute = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device)[None, :, None]
    value = backend.interpolate(attribute, faces, found)[0, 4, 4, 0]
    assert value.item() == pytest.approx(0.25, abs=1e-5)


def test_moving_the_mesh_by_one_pixel_moves_the_image_by_one_pixel(backend):
    backend, device = backend
    points, faces = random_mesh(3)
    moved = points.clone()
    moved[..., 0] += moved[..., 2]
    moved[..., 1] += 2 * moved[..., 2]
    images = []
    for p in (points, moved):
        p = p.to(device)
        found = backend.rasterize(p, faces.to(device), 20, 28, NEAR)
        covered = (found.face_index >= 0)[..., None].float()
        images.append(
            backend.antialias(covered, found, p, faces.to(device), torch.full_like(faces, -1).to(device))[..., 0]
        )
    # Pixels beside the frame's edge have neighbours in one image only.
    torch.testing.assert_close(images[1][0, 4:, 3:], images[0][0, 2:-2, 2:-1], atol=2e-4, rtol=0)


def test_shared_edges_are_watertight_and_never_covered_twice(backend):
    backend, device = backend
    points, faces = grid_mesh(7, 5, 28.0, 20.0)
    points, faces = points.to(device), faces.to(device)
    assert (backend.rasterize(points, faces, 20, 28, NEAR).face_index >= 0).all()
    alone = [
        (backend.rasterize(points, faces[i : i + 1], 20, 28, NEAR).face_index >= 0).int() for i in range(len(faces))
    ]
    assert torch.equal(sum(alone), torch.ones_like(alone[0]))


def test_degenerate_faces_and_sizes(backend):
    backend, device = backend
    points = torch.tensor([[[2.0, 2, 1], [6, 6, 1], [4, 4, 1], [2, 2, 1], [1, 6, 1]]], device=device)
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 4, 1]], device=device)  # a line, a repeated point, a real face
    index = backend.rasterize(points, faces, 8, 8, NEAR).face_index
    assert set(index.unique().tolist()) == {-1, 2}
    for height, width in ((1, 1), (1, 9), (5, 3)):
        covering = torch.tensor([[[-9.0, -9, 1], [-9, 99, 1], [99, -9, 1]]], device=device)
        found = backend.rasterize(covering, faces[:1] * 0 + torch.arange(3, device=device), height, width, NEAR)
        assert found.face_index.shape == (1, height, width)
        assert (found.face_index == 0).all()
    for behind in (-points, points + torch.tensor([100.0, 0, 0], device=device)):
        assert (backend.rasterize(behind, faces, 8, 8, NEAR).face_index == -1).all()


def _numeric_gradient(function, points, step):
    gradient = torch.zeros_like(points)
    for index in np.ndindex(*points.shape):
        moved = points.detach().clone()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


def test_interior_gradient_equals_central_differences(backend):
    backend, device = backend
    # A sheet: faces that pierce each other change places under any step, which no gradient describes.
    points, faces = grid_mesh(3, 2, 28.0, 20.0)
    points, faces = points.to(device), faces.to(device)
    generator = torch.Generator().manual_seed(0)
    attributes = torch.rand(1, points.shape[1], 3, generator=generator).to(device)
    weights = torch.rand(1, 20, 28, 3, generator=generator).to(device)
    base = backend.rasterize(points, faces, 20, 28, NEAR)
    margin = base.barycentric.min(dim=-1).values
    inside = (margin > 0.03)[..., None]
    step = 2e-3

    def loss(p):
        found = backend.rasterize(p, faces, 20, 28, NEAR)
        stays = inside & (found.face_index == base.face_index)[..., None]
        return (backend.interpolate(attributes, faces, found) * weights * stays).sum()

    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    numeric = _numeric_gradient(loss, points, step)
    assert gradient.norm() > 0
    assert (gradient - numeric).norm() < 0.02 * numeric.norm()


def test_silhouette_gradient_equals_the_area_and_its_derivative(backend):
    """The coverage of a triangle sums to its area in pixels, and the gradient to the area's derivative."""
    backend, device = backend
    faces = torch.tensor([[0, 1, 2]], device=device)
    pixel = torch.tensor([[30.3, 5.2], [8.7, 40.1], [52.4, 55.9]], device=device, requires_grad=True)
    points = torch.cat([pixel, torch.ones(3, 1, device=device)], dim=1)[None]
    found = backend.rasterize(points, faces, 64, 64, NEAR)
    covered = (found.face_index >= 0)[..., None].float()
    total = backend.antialias(covered, found, points, faces, torch.full_like(faces, -1)).sum()
    a, b, c = pixel
    area = ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]).abs() / 2
    assert total.item() == pytest.approx(area.item(), rel=2e-3)
    (ours,) = torch.autograd.grad(total, pixel)
    (exact,) = torch.autograd.grad(area, pixel)
    assert (ours - exact).norm() < 0.05 * exact.norm()


def test_inner_edges_give_no_silhouette(backend):
    backend, device = backend
    points, faces = grid_mesh(6, 4, 28.0, 20.0)
    twins = twins_of(faces).to(device)
    points, faces = points.to(device), faces.to(device)
    found = backend.rasterize(points, faces, 20, 28, NEAR)
    image = torch.rand(1, 20, 28, 2, generator=torch.Generator().manual_seed(0)).to(device)
    torch.testing.assert_close(backend.antialias(image, found, points, faces, twins), image)


def test_adjoint_identities(backend):
    """Each op is linear in its image-like input A: ⟨op(a), g⟩ = ⟨a, opᵀ(g)⟩, the adjoint coming from the backward."""
    backend, device = backend
    points, faces = random_mesh(19)
    points, faces = points.to(device), faces.to(device)
    found = backend.rasterize(points, faces, 20, 28, NEAR)
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator).to(device)

    uv, itself = rand(1, 20, 28, 2), torch.arange(16 * 16, device=device)
    twins = torch.full_like(faces, -1)
    for operation, shape in (
        (lambda a: backend.interpolate(a, faces, found), (1, points.shape[1], 3)),
        (lambda a: backend.sample_texture(a, uv, found, itself)[..., :3], (1, 3, 16, 16)),
        (lambda a: backend.antialias(a, found, points, faces, twins), (1, 20, 28, 3)),
    ):
        leaf = rand(*shape).requires_grad_()
        out = operation(leaf)
        probe = rand(*out.shape)
        (adjoint,) = torch.autograd.grad((out * probe).sum(), leaf)
        other = rand(*shape)
        assert torch.isclose((operation(other) * probe).sum(), (adjoint * other).sum(), rtol=1e-4)

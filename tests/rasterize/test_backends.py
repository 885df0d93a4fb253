"""The contract of `Backend`, for every backend that runs on this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reference
from rasterize.meshes import grid_mesh, random_mesh, twins_of

NEAR = 0.1


@pytest.mark.parametrize("behind", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
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
    depth = (barycentric * points[0].numpy()[faces.numpy()[index]][..., 2]).sum(axis=-1)[same]
    assert (np.diff(found.nearness[0].cpu().numpy()[same][depth.argsort()]) < 2e-3).all()
    # Interpolated depth: perspective-correct.
    value = backend.interpolate(points[..., 2:].to(device), faces.to(device), found)[0, ..., 0].cpu().numpy()
    np.testing.assert_allclose(value[same], depth, atol=1e-3)


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


def test_faces_that_are_not_drawn(backend):
    backend, device = backend
    points = torch.tensor([[[2.0, 2, 1], [6, 6, 1], [4, 4, 1], [2, 2, 1], [1, 6, 1]]], device=device)
    # A line, a repeated point, a real face, and the same: nvdiffrast leaves open which of the two is drawn.
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 4, 1], [0, 4, 1]], device=device)
    drawn = set(backend.rasterize(points, faces, 8, 8, NEAR).face_index.unique().tolist())
    assert drawn == {-1, 2} or (backend.name == "nvdiffrast" and drawn <= {-1, 2, 3})
    for behind in (-points, points + torch.tensor([100.0, 0, 0], device=device)):
        assert (backend.rasterize(behind, faces, 8, 8, NEAR).face_index == -1).all()
    if backend.name == "nvdiffrast":
        return  # the renderer gives it finite points only
    for value in (torch.nan, torch.inf):
        points[0, 4] = value
        assert (backend.rasterize(points, faces, 8, 8, NEAR).face_index == -1).all()


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


def test_shared_edges_are_watertight_and_no_silhouettes(backend):
    backend, device = backend
    points, faces = grid_mesh(4, 3, 28.0, 20.0)
    twins = twins_of(faces).to(device)
    points, faces = points.to(device), faces.to(device)
    found = backend.rasterize(points, faces, 20, 28, NEAR)
    assert (found.face_index >= 0).all()
    alone = sum((backend.rasterize(points, face[None], 20, 28, NEAR).face_index >= 0).int() for face in faces)
    assert (alone == 1).all()
    image = torch.rand(1, 20, 28, 2, device=device)
    torch.testing.assert_close(backend.antialias(image, found, points, faces, twins), image)


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

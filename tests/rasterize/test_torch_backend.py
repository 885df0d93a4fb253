from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rasterize.meshes import grid_mesh, random_mesh
from texalign.rasterize import nearest, torch_backend
from texalign.rasterize.functions import edge_functions

NEAR = 0.1


def test_faces_with_non_finite_corners_are_dropped():
    points, faces = random_mesh(5)
    points[0, faces[0, 0]] = torch.nan
    bad = (faces == faces[0, 0]).any(dim=1)
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    rest = torch_backend.rasterize(points, faces[~bad], 20, 28, NEAR)
    kept = (~bad).nonzero()[:, 0]
    expected = torch.where(rest.face_index >= 0, kept[rest.face_index.clamp(min=0)], -1)
    assert torch.equal(found.face_index, expected)


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_chunks_do_not_change_the_result(monkeypatch, behind):
    points, faces = random_mesh(7, face_count=40, behind=behind)
    points = torch.cat([points, points.flip(1)])
    whole = torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index
    monkeypatch.setattr(nearest, "MAX_CANDIDATES", 700)
    assert torch.equal(torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index, whole)


def test_barycentric_backward_equals_autograd_of_the_plain_formula():
    points, faces = random_mesh(11)
    points = points.double().requires_grad_()
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    index = found.face_index[0]
    row, column = (index >= 0).nonzero().unbind(1)
    corner = points[0][faces[index[row, column]]]
    x, y = column.double() + 0.5, row.double() + 0.5
    edges = edge_functions(corner[..., 0] - x[:, None] * corner[..., 2], corner[..., 1] - y[:, None] * corner[..., 2])
    plain = edges / edges.sum(dim=1, keepdim=True)
    weights = torch.rand(plain.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found.barycentric[0][row, column], plain)
    (fast,) = torch.autograd.grad((found.barycentric[0][row, column] * weights).sum(), points)
    (slow,) = torch.autograd.grad((plain * weights).sum(), points)
    torch.testing.assert_close(fast, slow)


def test_bilinear_lookup_equals_grid_sample():
    generator = torch.Generator().manual_seed(0)
    points, faces = grid_mesh(3, 3, 28.0, 20.0)
    points = points.expand(2, -1, -1)
    found = torch_backend.rasterize(points, faces, 20, 28, NEAR)
    texture = torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    uv = (torch.rand(2, 20, 28, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1).requires_grad_()
    itself = torch.arange(8 * 8)
    layers = torch_backend.sample_texture(texture, uv, found, itself).permute(0, 3, 1, 2)
    ours = layers[:, :3]
    assert (layers[:, 3] == 1).all()
    theirs = torch.nn.functional.grid_sample(texture, 2 * uv - 1, padding_mode="border", align_corners=False)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand(ours.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(*[torch.autograd.grad((image * weights).sum(), [texture, uv]) for image in (ours, theirs)]):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_gradcheck_interpolate(behind):
    points, faces = random_mesh(13, face_count=5, height=6, width=8, behind=behind)
    attributes = torch.rand(1, points.shape[1], 2, dtype=torch.float64, requires_grad=True)
    points = points.double().requires_grad_()

    def run(p, a):
        return torch_backend.interpolate(a, faces, torch_backend.rasterize(p, faces, 6, 8, NEAR))

    assert torch.autograd.gradcheck(run, (points, attributes), eps=1e-7, atol=1e-4)


def test_gradcheck_sample_texture():
    points, faces = random_mesh(14, face_count=4, height=5, width=6)
    found = torch_backend.rasterize(points.double(), faces, 5, 6, NEAR)
    texture = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    uv = torch.rand(1, 5, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, c: torch_backend.sample_texture(t, c, found, torch.arange(16)), (texture, uv), atol=1e-5
    )


def test_gradcheck_antialias():
    points, faces = random_mesh(16, face_count=3, height=8, width=9)
    points = points.double().requires_grad_()
    image = torch.rand(1, 8, 9, 2, dtype=torch.float64, requires_grad=True)
    twins = torch.full_like(faces, -1)

    def run(p, i):
        return torch_backend.antialias(i, torch_backend.rasterize(p, faces, 8, 9, NEAR), p, faces, twins)

    assert not torch.equal(run(points, image), image)
    assert torch.autograd.gradcheck(run, (points, image), eps=1e-7, atol=1e-4)


@given(
    seed=st.integers(0, 10_000),
    behind=st.sampled_from([0.0, 0.2, 0.6]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    size=st.sampled_from([(1, 1), (3, 17), (16, 16)]),
)
def test_random_meshes_give_finite_values_and_gradients(seed, behind, scale, size):
    points, faces = random_mesh(seed, face_count=8, height=size[0], width=size[1], behind=behind)
    points = (points * scale).requires_grad_()
    found = torch_backend.rasterize(points, faces, *size, near=NEAR * scale)
    attributes = torch.rand(1, points.shape[1], 3)
    image = torch_backend.interpolate(attributes, faces, found)
    image = torch_backend.antialias(image, found, points, faces, torch.full_like(faces, -1))
    (gradient,) = torch.autograd.grad(image.square().sum() + found.barycentric.square().sum(), points)
    assert torch.isfinite(image).all()
    assert torch.isfinite(gradient).all()

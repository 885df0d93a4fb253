from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rasterize.meshes import random_mesh
from texalign.rasterize import nearest, torch_backend

NEAR = 0.1


@pytest.mark.parametrize("behind", [0.0, 0.3])
def test_chunks_do_not_change_the_result(monkeypatch, behind):
    points, faces = random_mesh(7, face_count=40, behind=behind)
    points = torch.cat([points, points.flip(1)])
    whole = torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index
    monkeypatch.setattr(nearest, "MAX_CANDIDATES", 700)
    assert torch.equal(torch_backend.rasterize(points, faces, 20, 28, NEAR).face_index, whole)


@pytest.mark.parametrize("seed, behind", [(13, 0.0), (3, 0.3)])
def test_gradients_equal_central_differences_in_float64(seed, behind):
    points, faces = random_mesh(seed, face_count=3, height=6, width=8, behind=behind)
    points = points.double().requires_grad_()
    attributes, image = (torch.rand(1, *shape, dtype=torch.float64).requires_grad_() for shape in ((5, 2), (6, 8, 1)))
    twins = torch.full_like(faces, -1)

    def run(p, a, i):
        found = torch_backend.rasterize(p, faces, 6, 8, NEAR)
        return torch_backend.interpolate(a, faces, found), torch_backend.antialias(i, found, p, faces, twins)

    assert not torch.equal(run(points, attributes, image)[1], image)
    assert torch.autograd.gradcheck(run, (points, attributes, image), eps=1e-7, atol=1e-4)


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

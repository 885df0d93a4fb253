"""Backends from outside the package draw through the renderer as the torch backend does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import texalign as ta
from rasterize import brute_force_backend
from rasterize.own_backends import register_own_backends
from rasterize.parity import check_parity

SIZE = 32
# uv is rounded to 6e-8 of 128 texels, and some more by the sums before it; colours and bilinear weights follow.
ROUNDING = 1e-4


def test_values_and_gradients_are_those_of_the_torch_backend():
    check_parity(brute_force_backend)


@pytest.mark.parametrize("name", ["brute force", "nvdiffrast double"])
def test_the_renderer_draws_with_a_backend_of_ones_own(name, surface, scene, smooth_texture, monkeypatch):
    register_own_backends(monkeypatch)
    vertices, camera = scene(2, SIZE)
    inputs = vertices.requires_grad_(), smooth_texture.clone().requires_grad_()
    ours, theirs = drawings = [
        ta.TexturedHandRenderer(surface, SIZE, backend=each)(inputs[0], camera, inputs[1]) for each in ("torch", name)
    ]
    # Faces seen edge-on are so thin that rounding decides between them at single pixels; these and their neighbours,
    # with which they blend, are left out.
    differs = (ours.face_index != theirs.face_index).float()[:, None]
    assert differs.mean() < 0.01
    agree = 1 - functional.max_pool2d(differs, 3, stride=1, padding=1)
    layers = [torch.cat([d.image, d.coverage, d.depth, d.uv.permute(0, 3, 1, 2)], dim=1) * agree for d in drawings]
    torch.testing.assert_close(layers[1], layers[0], rtol=0, atol=ROUNDING)
    weights = torch.rand(layers[0].shape, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((each * weights).sum(), inputs) for each in layers]
    for first, second in zip(*gradients):
        assert (first - second).norm() < ROUNDING * first.norm()

"""Whether a backend's values and gradients are those of the torch backend."""

from __future__ import annotations

import torch

import reference
from rasterize.meshes import twins_of, two_sheets
from texalign.rasterize import select_backend

HEIGHT, WIDTH, NEAR = 20, 28, 0.7
# Corners up to 50 pixels from a centre, rounded to 6e-8 of that, move the barycentrics of faces some pixels across by
# 3e-6 at the most; the scene leaves ten times the limit between every centre and the next edge.
ROUNDING = 1e-5


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, column by column in memory."""
    return tensor.mT.contiguous().mT


def drawn(backend) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """All that a backend gives for one scene, and the gradients of a weighted sum of each output."""
    points, faces = two_sheets()
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    points, attributes = strided(points).requires_grad_(), strided(rand(3, points.shape[1], 2)).requires_grad_()
    shared, texture = strided(rand(1, 9, 1)).requires_grad_(), strided(rand(3, 3, 8, 8)).requires_grad_()
    shared_faces = strided(torch.randint(9, faces.shape, generator=generator))
    uv = strided(rand(3, HEIGHT, WIDTH, 2)).requires_grad_()
    redirect = torch.randperm(64, generator=generator)

    found = backend.rasterize(points, strided(faces), HEIGHT, WIDTH, NEAR)
    assert not found.nearness.requires_grad
    layers = backend.sample_texture(texture, uv, found, redirect)
    values = {
        "barycentric": found.barycentric,
        "interpolated": backend.interpolate(attributes, strided(faces), found),
        "interpolated, shared": backend.interpolate(shared, shared_faces, found),
        "texture": layers,
        "texture, shared": backend.sample_texture(texture[:1], uv, found, redirect),
        "antialiased": backend.antialias(layers, found, points, strided(faces), strided(twins_of(faces))),
    }
    leaves = {"points": points, "attributes": attributes, "shared": shared, "texture": texture, "uv": uv}
    gradients = {}
    for name, value in values.items():
        found_gradients = torch.autograd.grad(
            (value * rand(*value.shape)).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for leaf, gradient in zip(leaves, found_gradients):
            if gradient is not None:
                gradients[f"{name} by {leaf}"] = gradient
    return {"face index": found.face_index, **values}, gradients


def check_parity(backend) -> None:
    """Raise an AssertionError unless the backend's values and gradients are those of the torch backend."""
    points, faces = two_sheets()
    for sample in points:
        _, _, safety = reference.rasterize(sample.numpy(), faces.numpy(), HEIGHT, WIDTH, NEAR)
        assert safety.min() > 10 * ROUNDING
    values, gradients = drawn(backend)
    expected, expected_gradients = drawn(select_backend("torch", torch.device("cpu")))
    assert torch.equal(values.pop("face index"), expected.pop("face index"))
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=ROUNDING, msg=name)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert expected_gradients[name].norm() > 0, name
        assert (gradient - expected_gradients[name]).norm() < ROUNDING * expected_gradients[name].norm(), name

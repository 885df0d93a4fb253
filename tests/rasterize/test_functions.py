"""The hand-written backward passes, beside autograd on the plain formula, in float64."""

from __future__ import annotations

import pytest
import torch

from rasterize.meshes import twins_of, two_sheets
from texalign.rasterize import silhouettes, torch_backend
from texalign.rasterize.functions import Barycentrics, Bilinear, Blend, ToImage
from texalign.rasterize.silhouettes import crossing, project, silhouette_pairs

COUNT = 30


@pytest.fixture
def rand():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)


def check(function, plain, *arguments):
    """Values and gradients are the plain formula's, and gradients those of central differences."""
    leaves = [each for each in arguments if each.requires_grad]
    found, expected = function(*arguments), plain(*arguments)
    torch.testing.assert_close(found, expected)
    weight = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for gradient, other in zip(*(torch.autograd.grad((each * weight).sum(), leaves) for each in (found, expected))):
        assert gradient.any()
        torch.testing.assert_close(gradient, other)
    assert torch.autograd.gradcheck(function, arguments)


def test_barycentrics(rand):
    points = torch.cat([20 * rand(9, 2), 0.5 + rand(9, 1)], dim=1).requires_grad_()
    corners = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(k))[:3] for k in range(COUNT)]).t()
    # Centres inside the faces: outside, weights are clamped.
    inside = (points.detach()[corners] * rand(3, COUNT, 1)).sum(dim=0)
    x, y = (inside[:, :2] / inside[:, 2:]).t()

    def plain(points, corners, x, y):
        px, py, depth = points[corners].unbind(2)
        a, b = px - x * depth, py - y * depth
        edges = a[[1, 2, 0]] * b[[2, 0, 1]] - b[[1, 2, 0]] * a[[2, 0, 1]]
        return edges / edges.sum(dim=0)

    check(Barycentrics.apply, plain, points, corners, x, y)


@pytest.mark.parametrize("textures", [1, 3])
def test_bilinear_lookup(rand, textures):
    texture, uv = rand(textures, 2, 6, 6).requires_grad_(), (1.2 * rand(2, COUNT) - 0.1).requires_grad_()
    sample = torch.arange(COUNT) % 3
    redirect = torch.randperm(36, generator=torch.Generator().manual_seed(2))

    def plain(texture, uv, sample, redirect):
        each = texture.flatten(2)[..., redirect].reshape(texture.shape)[sample if textures > 1 else sample * 0]
        grid = (2 * uv.t() - 1)[:, None, None]
        return torch.nn.functional.grid_sample(each, grid, padding_mode="border", align_corners=False)[:, :, 0, 0].t()

    check(Bilinear.apply, plain, texture, uv, sample, redirect)


def test_blending_and_spreading(rand):
    image, weight, values = rand(2, 12).requires_grad_(), rand(COUNT).requires_grad_(), rand(2, 5).requires_grad_()
    target, other = (torch.randint(12, (COUNT,), generator=torch.Generator().manual_seed(k)) for k in range(2))
    pixels = torch.tensor([0, 3, 4, 9, 11])

    def blended(image, weight, target, other):
        return image.index_add(1, target, (image[:, other] - image[:, target]) * weight)

    check(Blend.apply, blended, image, weight, target, other)
    check(
        lambda values: ToImage.apply(values, pixels, 12),
        lambda values: torch.zeros(2, 12, dtype=torch.float64).index_copy(1, pixels, values),
        values,
    )


def test_uv_of_its_own_is_not_gathered_again(rand):
    """The backend's own uv image and a copy of it give the same colours and gradients."""
    points, faces = two_sheets()
    uv, redirect = torch.rand(1, points.shape[1], 2, generator=torch.Generator().manual_seed(0)), torch.arange(64)
    results = []
    for copied in (False, True):
        leaf, texture = (
            points.clone().requires_grad_(),
            torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
        )
        found = torch_backend.rasterize(leaf, faces, 20, 28, 0.1)
        image = torch_backend.interpolate(uv, faces, found)
        layers = torch_backend.sample_texture(texture, image.clone() if copied else image, found, redirect)
        results.append((layers, *torch.autograd.grad(layers.square().sum(), leaf)))
    for first, second in zip(*results):
        assert torch.equal(first, second) and first.any()


@pytest.mark.parametrize("mesh", ["sheets", "hand"])
def test_pairs_on_one_piece_of_surface_are_left_out_and_no_others(surface, scene, monkeypatch, mesh):
    """A step across one shared edge meets no silhouette; a walk would find the next one, just beyond the far pixel."""
    if mesh == "hand":
        vertices, camera = scene(2, 64)
        points, faces, twins, size = camera.homogeneous(vertices), surface.faces, surface.twins, (64, 64)
    else:
        (points, faces), size = two_sheets(), (20, 28)
        points, twins = points[[0, 2]], twins_of(faces)  # the other has vertices behind the camera
    found = torch_backend.rasterize(points, faces, *size, 0.1)

    def distances():
        pairs = silhouette_pairs(points, faces, twins, found.face_index, found.nearness)
        places = (pairs.steps.place(project(points), vertex) for vertex in (pairs.start, pairs.end))
        return dict(zip(zip(pairs.own.tolist(), pairs.other.tolist()), crossing(*places).tolist()))

    some, candidates = distances(), silhouettes._differing_pairs
    monkeypatch.setattr(
        silhouettes, "_differing_pairs", lambda *given: candidates(*given[:-1], torch.ones_like(given[-1]))
    )
    every = distances()
    assert some and some.items() <= every.items()
    assert all(every[pair] > 1 for pair in every.keys() - some.keys())
    assert len(some) > 0.9 * len(every)

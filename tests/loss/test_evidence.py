"""The evidence against its definition in `plain_evidence.py`: values and gradients, with every kind of input."""

from __future__ import annotations

import pytest
import torch

import texalign as ta
from loss_parts import geman_mcclure_cost, random, relative, student_t_cost
from plain_evidence import plain_evidence
from texalign.loss import evidence, laplace_cost, region_competition

SIZE = (40, 56)


@pytest.fixture(scope="module")
def drawn(surface, scene):
    """Two hands of many colours a few pixels off, the second of one colour: layers, image, region, mask."""
    vertices, _ = scene(2, 48)
    camera = ta.PinholeCamera(torch.full((2, 2), 60.0), torch.tensor([[28.0, 20.0], [34.0, 22.0]]))
    texture = torch.cat([random(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.6)])
    renderer = ta.TexturedHandRenderer(surface, SIZE, backend="torch")
    rendering = renderer(vertices, camera, texture)
    shifted = renderer(vertices + torch.tensor([0.01, 0.0, 0.0]), camera, texture)
    wall = 0.2 + 0.3 * random(2, 3, *SIZE, seed=1) * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    image = shifted.image + (1 - shifted.coverage) * wall + 0.05 * random(2, 3, *SIZE, seed=2)
    region = torch.ones(2, 1, *SIZE)
    region[1, ..., :9] = 0
    layers = torch.cat([rendering.image, rendering.coverage], dim=1)
    return layers.double(), image.double(), region.double(), shifted.coverage.round().double()


MASKS = {
    "no mask": lambda mask: None,
    "a mask": lambda mask: mask,
    "a soft mask": lambda mask: 0.2 + 0.7 * mask,
    "one mask of ones": lambda mask: torch.stack([mask[0], torch.ones_like(mask[1])]),
    "no skin": lambda mask: torch.zeros_like(mask),
}


def both(function, layers, *rest):
    """Results as a dict, and the gradient of a weighted sum at the layers."""
    leaf = layers.clone().requires_grad_()
    found = function(leaf[:, :3], leaf[:, 3:], *rest)
    found = found if isinstance(found, dict) else vars(found)
    weight = 1 + torch.arange(len(layers), dtype=layers.dtype)
    (gradient,) = torch.autograd.grad((weight * found["per_sample"]).sum(), leaf)
    return {name: values.detach() for name, values in found.items()}, gradient


@pytest.mark.parametrize("cost", [laplace_cost, student_t_cost, geman_mcclure_cost])
@pytest.mark.parametrize("name", MASKS)
def test_it_is_its_definition(drawn, name, cost):
    """In float64, where no two orders of summing are 1e-6 apart."""
    layers, image, region, mask = drawn
    expected, expected_gradient = both(plain_evidence, layers, image, region, MASKS[name](mask), cost)
    found, gradient = both(region_competition, layers, image, region, MASKS[name](mask), cost)
    for field, values in expected.items():
        torch.testing.assert_close(found[field], values, rtol=0, atol=1e-6, msg=lambda text, f=field: f"{f}: {text}")
    assert (gradient != 0).any() and relative(gradient, expected_gradient) < 1e-6


@pytest.mark.parametrize("name", MASKS)
def test_in_float32_it_is_within_a_ten_thousandth(drawn, name):
    layers, image, region, mask = (each.float() for each in drawn)
    expected, expected_gradient = both(plain_evidence, *drawn[:3], MASKS[name](drawn[3]))
    found, gradient = both(region_competition, layers, image, region, MASKS[name](mask))
    for field, limit in (("fitted", 1e-4), ("residual", 1e-4)):
        assert (found[field] - expected[field]).abs().max() < limit, field
    # Evidence is up to 6 in size; a colour between two cells of the background's histogram may be read from either.
    assert (found["evidence"] - expected["evidence"]).abs().max() < 6e-4
    assert (found["per_sample"] - expected["per_sample"]).abs().max() < 1e-4
    assert relative(gradient, expected_gradient) < 1e-4


@pytest.mark.parametrize("name", ["no mask", "a mask"])
def test_how_many_samples_are_worked_on_together_changes_nothing(drawn, name, monkeypatch):
    layers, image, region, mask = (torch.cat([each, each.flip(0)[:1]]) for each in drawn)
    results = []
    for pixels in (1, 2 * SIZE[0] * SIZE[1], 10**9):
        monkeypatch.setattr(evidence, "PIXELS_AT_ONCE", pixels)
        results.append(both(region_competition, layers, image, region, MASKS[name](mask)))
    for found, gradient in results[1:]:
        for field, values in results[0][0].items():
            torch.testing.assert_close(found[field], values, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-12)


def test_a_batch_of_none():
    none = [torch.zeros(0, channels, *SIZE) for channels in (3, 1, 3, 1)]
    found = region_competition(*none)
    assert found.per_sample.shape == (0,) and found.evidence.shape == (0, 1, *SIZE)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_images_one_pixel_high_or_wide(size):
    coverage = random(2, 1, *size, seed=1).double()
    layers = torch.cat([random(2, 3, *size).double() * coverage, coverage], dim=1)
    rest = random(2, 3, *size, seed=2).double(), torch.ones(2, 1, *size, dtype=torch.float64)
    expected, expected_gradient = both(plain_evidence, layers, *rest)
    found, gradient = both(region_competition, layers, *rest)
    torch.testing.assert_close(found["per_sample"], expected["per_sample"])
    torch.testing.assert_close(gradient, expected_gradient)

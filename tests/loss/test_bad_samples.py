"""Samples that show no hand, or hold what is no number; and what `validate` says of them."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import texalign as ta
from loss_parts import GRADIENT_ROUNDING, ROUNDING, encoder, gradient_of, loss_of, relative, seeded

DEGENERATE = {
    "out of frame": lambda vertices, camera, mask: vertices[1].add_(torch.tensor([5.0, 0.0, 0.0])),
    "behind the camera": lambda vertices, camera, mask: vertices[1, :, 2].sub_(2.0),
    "far away": lambda vertices, camera, mask: vertices[1, :, 2].add_(500.0),
    "one point": lambda vertices, camera, mask: vertices[1].copy_(vertices[1, :1].clone()),
    "enormous": lambda vertices, camera, mask: vertices[1].mul_(1e30),
    "not a number": lambda vertices, camera, mask: vertices[1, 5, 0].fill_(torch.nan),
    "focal 0": lambda vertices, camera, mask: camera.focal[1].zero_(),
    "empty mask": lambda vertices, camera, mask: mask[1].zero_(),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_sample_is_skipped_flagged_and_harmless(surface, photographs, name):
    vertices, camera, image = photographs(2, 64)
    mask = torch.ones(2, 1, 64, 64)
    loss_fn = loss_of(surface, 64, token_count=64 * 64)  # every pixel is observed, none is drawn
    alone, expected = gradient_of(loss_fn, vertices[:1], camera[:1], image[:1], mask[:1])
    DEGENERATE[name](vertices, camera, mask)
    leaf = vertices.requires_grad_()
    loss, details = loss_fn(leaf, camera, image, mask, return_details=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert details.skipped.tolist() == [False, True]
    assert details.per_sample[1] == 0
    assert (gradient[1] == 0).all()
    torch.testing.assert_close(loss.detach(), alone, **ROUNDING)
    assert relative(gradient[:1], expected) < GRADIENT_ROUNDING
    for field in fields(details):
        tensor = getattr(details, field.name)
        if isinstance(tensor, torch.Tensor):
            assert torch.isfinite(tensor).all(), field.name


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_to_compare_is_a_zero_in_the_graph(surface, photographs, reduction, count):
    vertices, camera, image = photographs(2)
    loss_fn = loss_of(surface, reduction=reduction)
    behind = (vertices - torch.tensor([0.0, 0.0, 3.0]))[:count]
    value, gradient = gradient_of(loss_fn, behind, camera[:count], image[:count])
    assert value.shape == ((count,) if reduction == "none" else ())
    assert (value == 0).all() and (gradient == 0).all()


def small_masks(name):
    mask = torch.zeros(2, 1, 32, 32)
    if name == "full":
        mask += 1
    elif name == "tiny":
        mask[..., 15:17, 15:17] = 1
    elif name == "soft":
        mask = torch.rand(2, 1, 32, 32, generator=seeded())
    return None if name == "none" else mask


def pictures(name, seed=0):
    noise = torch.rand(2, 3, 32, 32, generator=seeded(seed))
    fill = {"black": 0.0, "white": 1.0, "grey": 0.5}
    if name in fill:
        return torch.full((2, 3, 32, 32), fill[name])
    return noise.round() if name == "saturated" else noise


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    zoom=st.floats(-1.5, 2),
    shift=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    crop=st.tuples(*[st.floats(-40, 70)] * 2),
    mask=st.sampled_from(["none", "empty", "full", "tiny", "soft"]),
    picture=st.sampled_from(["black", "white", "grey", "noise", "saturated"]),
    left=st.booleans(),
    learned=st.booleans(),
)
def test_any_pose_camera_mask_and_image_is_finite(
    surface, scene, seed, zoom, shift, crop, mask, picture, left, learned
):
    vertices, camera = scene(2, 32, seed=seed)
    vertices[1] += torch.tensor(shift)
    camera = ta.PinholeCamera(camera.focal * 10**zoom, torch.tensor([[16.0, 16.0], crop]))
    loss_fn = loss_of(surface, 32, encoder(surface) if learned else None, token_count=64, train_texture=learned)
    leaf = vertices.requires_grad_()
    value, details = loss_fn(
        leaf,
        camera,
        pictures(picture, seed),
        small_masks(mask),
        is_right=torch.tensor([True, not left]),
        generator=seeded(seed),
        return_details=True,
    )
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad.flatten(1).norm(dim=1) <= 500 * (1 + 1e-4)).all()
    assert (leaf.grad[details.skipped] == 0).all()
    for tensor in (value, details.per_sample, details.fitted, details.residual, details.evidence):
        assert torch.isfinite(tensor).all()
    rounding = 1e-3  # 32² terms up to 6 in size: 6 × 32² × 2⁻²⁴ at the worst order
    assert (details.per_sample >= -6 - rounding).all()
    assert (details.per_sample <= 6 + rounding).all()
    assert details.skipped.all() == (mask == "empty") or mask != "empty"
    for parameter in loss_fn.encoder.parameters():
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(
    "alter, message",
    [
        (lambda image: image * 255, r"image in \[0, 1\]"),
        (lambda image: image - 0.5, r"image in \[0, 1\]"),
        (lambda image: image + torch.nan, r"image in \[0, 1\]"),
        (lambda image: (image - 0.45) / 0.225, "ImageNet-normalised"),
    ],
)
def test_validate_looks_at_the_image(surface, photographs, alter, message):
    vertices, camera, image = photographs(2, 32)
    loss_of(surface, 32, validate=True)(vertices, camera, image)
    with pytest.raises(ValueError, match=message):
        loss_of(surface, 32, validate=True)(vertices, camera, alter(image))


@pytest.mark.parametrize("value", [255.0, -1.0, torch.nan])
@pytest.mark.parametrize("name", ["mask", "valid"])
def test_validate_looks_at_masks_and_names_the_sample(surface, photographs, value, name):
    vertices, camera, image = photographs(2, 32)
    mask = torch.zeros(2, 1, 32, 32)
    loss_fn = loss_of(surface, 32, validate=True)
    loss_fn(vertices, camera, image, **{name: mask})
    mask[1, 0, 8:20] = value
    with pytest.raises(ValueError, match=name + r" in \[0, 1\].* in sample 1"):
        loss_fn(vertices, camera, image, **{name: mask})
    vertices[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"finite vertices, got sample 1: nan at index \(3, 2\)"):
        loss_fn(vertices, camera, image)

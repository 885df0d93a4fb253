from __future__ import annotations

import pytest
import torch

from loss_parts import MIRROR, loss_of, seeded
from texalign.loss import LossInputs


@pytest.fixture
def inputs(photographs):
    vertices, camera, image = photographs(2, 32)
    mask = (torch.rand(2, 1, 32, 32, generator=seeded()) > 0.3).float()
    return LossInputs(vertices, camera, image, mask, torch.ones_like(mask))


def test_they_are_the_losss_arguments_in_order(surface, inputs):
    loss_fn = loss_of(surface, 32)
    vertices, camera, image, mask, valid = inputs
    named = {"vertices": vertices, "camera": camera, "image": image, "mask": mask, "valid": valid}
    assert torch.equal(loss_fn(*inputs, generator=seeded()), loss_fn(**named, generator=seeded()))
    assert LossInputs(vertices, camera, image)[3:] == (None, None)


def test_as_float32_keeps_the_graph_of_vertices_alone(inputs):
    vertices = inputs.vertices.double().requires_grad_()
    image = inputs.image.half().requires_grad_()
    whole = (inputs.mask > 0).long()
    found = LossInputs(vertices, inputs.camera.to(dtype=torch.float64), image, whole).as_float32()
    tensors = (found.vertices, found.camera.focal, found.camera.principal, found.image, found.mask)
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    assert found.vertices.requires_grad and not found.image.requires_grad
    assert found.valid is None
    torch.testing.assert_close(found.image, inputs.image, rtol=0, atol=2.0**-11)  # half's rounding below 1


def test_mirrored_once_some_and_twice(inputs):
    which = torch.tensor([True, False])
    once = inputs.mirrored(which)
    assert torch.equal(once.vertices[0], inputs.vertices[0] * MIRROR)
    assert torch.equal(once.camera.principal, inputs.camera.mirrored(32, which).principal)
    for name in ("image", "mask", "valid"):
        assert torch.equal(getattr(once, name)[0], getattr(inputs, name)[0].flip(-1)), name
        assert torch.equal(getattr(once, name)[1], getattr(inputs, name)[1]), name
    assert torch.equal(once.vertices[1], inputs.vertices[1])
    twice = once.mirrored(which)
    assert torch.equal(twice.vertices, inputs.vertices) and torch.equal(twice.image, inputs.image)
    torch.testing.assert_close(twice.camera.principal, inputs.camera.principal)
    assert LossInputs(*inputs[:3]).mirrored(which)[3:] == (None, None)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e20])
def test_readable_blanks_the_image_that_holds_what_is_no_colour(inputs, value):
    spoilt = inputs.image.clone()
    spoilt[1, 0, 3, 4] = value
    found, unreadable = inputs._replace(image=spoilt).readable()
    assert unreadable.tolist() == [False, True]
    assert torch.equal(found.image[0], inputs.image[0]) and (found.image[1] == 0).all()
    assert not inputs.readable()[1].any()


@pytest.mark.parametrize("name", ["mask", "valid"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_readable_takes_a_weight_that_is_no_number_for_absent(inputs, name, value):
    spoilt = getattr(inputs, name).clone()
    spoilt[1, 0, 3, 4] = value
    found, unreadable = inputs._replace(**{name: spoilt}).readable()
    assert not unreadable.any()
    assert found.valid[1, 0, 3, 4] == 0 and found.mask.isfinite().all()
    kept = torch.ones_like(found.valid, dtype=torch.bool)
    kept[1, 0, 3, 4] = False
    assert torch.equal(found.valid[kept], inputs.valid[kept]) and torch.equal(found.mask[kept], inputs.mask[kept])


def test_readable_keeps_masks_in_their_range(inputs):
    found, unreadable = inputs._replace(mask=inputs.mask * 1e30, valid=inputs.valid - 2).readable()
    assert torch.equal(found.mask, inputs.mask) and (found.valid == 0).all() and not unreadable.any()

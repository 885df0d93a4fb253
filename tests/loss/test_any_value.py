"""Whatever values come in, the loss is finite, bounded, and harms no other sample."""

from __future__ import annotations

import warnings

import pytest
import torch

import texalign as ta
from texalign import synthetic

SIZE = 48
VALUES = [torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 1e20, 1e6, 255.0, 2.0, -1.0, 0.0]
NAMES = ["vertices", "focal", "principal", "image", "mask", "valid", "texture"]


class Spoiling(torch.nn.Module):
    """A prior whose texture is spoilt at some texels."""

    def __init__(self, prior, where=None, value=0.0):
        super().__init__()
        self.prior, self.where, self.value = prior, where, value
        self.atlas_id = prior.atlas_id

    def forward(self, observations, **options):
        texture = self.prior(observations, **options)
        return texture if self.where is None else torch.where(self.where(texture), self.value, texture)


@pytest.fixture(scope="module")
def prior():
    return ta.UVTextureEncoder.from_pretrained()


@pytest.fixture(scope="module")
def inputs():
    batch = synthetic.generate(2, SIZE, torch.Generator().manual_seed(3), left_share=0)
    return {
        "vertices": batch.vertices,
        "focal": batch.camera.focal,
        "principal": batch.camera.principal,
        "image": batch.image,
        "mask": batch.mask,
        "valid": torch.ones_like(batch.mask),
    }


def chosen(like, samples, every):
    """Bool like the tensor: so many samples, every so many values."""
    where = (torch.arange(like[0].numel()) % every == 0).reshape(like[0].shape).expand_as(like).clone()
    where[samples:] = False
    return where


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_finite_whatever_comes(surface, prior, inputs, name, value):
    renderer = ta.TexturedHandRenderer(surface, SIZE)
    for samples, every, learns in ((1, 1, True), (2, 1, False), (1, 7, False), (2, 7, True)):
        given, spoilt = dict(inputs), None
        if name == "texture":
            spoilt = lambda texture, n=samples, m=every: chosen(texture, n, m)  # noqa: E731
        else:
            given[name] = torch.where(chosen(given[name], samples, every), value, given[name])
        loss_fn = ta.DenseTextureAlignmentLoss(
            renderer, Spoiling(prior, spoilt, value), token_count=64, train_texture=learns, reduction="none"
        )
        vertices = given["vertices"].clone().requires_grad_()
        camera = ta.PinholeCamera(given["focal"], given["principal"])
        prior.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the look at the first batch
            loss, details = loss_fn(
                vertices, camera, given["image"], given["mask"], given["valid"],
                generator=torch.Generator().manual_seed(0), return_details=True,
            )  # fmt: skip
        loss.sum().backward()
        # Evidence lies in ±6, and its weights add up to at most 1.
        assert (loss.abs() <= 6 * (1 + 1e-5)).all(), (samples, every, loss)
        assert torch.isfinite(vertices.grad).all()
        for field, shown in vars(details).items():
            assert not isinstance(shown, torch.Tensor) or torch.isfinite(shown).all(), field
        learned = [p.grad for p in prior.parameters() if p.grad is not None]
        assert bool(learned) == learns and all(torch.isfinite(gradient).all() for gradient in learned)
        if samples == 1:
            assert loss[1] != 0 and not details.skipped[1]
    prior.requires_grad_(False)


@pytest.mark.parametrize("name", ["mask", "valid"])
@pytest.mark.parametrize("one", [255.0, 2.0, 1e20])
def test_weights_are_clamped_to_between_0_and_1(surface, prior, inputs, name, one):
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, SIZE), prior, token_count=64)
    camera = ta.PinholeCamera(inputs["focal"], inputs["principal"])
    binary = (inputs["mask"] > 0.5).float()

    def value(weight):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            options = {name: weight, "generator": torch.Generator().manual_seed(0)}
            return loss_fn(inputs["vertices"], camera, inputs["image"], **options)

    assert torch.equal(value(one * binary), value(binary))
    assert torch.equal(value(binary - (binary == 0).float()), value(binary))


def test_a_valid_region_that_is_not_a_number_is_none(surface, prior, inputs):
    """NaN means absent: as if valid were 0 there."""
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, SIZE), prior, token_count=64)
    camera, image = ta.PinholeCamera(inputs["focal"], inputs["principal"]), inputs["image"]
    absent = torch.zeros_like(inputs["mask"], dtype=torch.bool)
    absent[..., :20] = True
    for mask in (None, inputs["mask"]):
        values = [
            loss_fn(
                inputs["vertices"], camera, image, mask, torch.where(absent, hole, 1.0),
                generator=torch.Generator().manual_seed(0),
            )
            for hole in (0.0, torch.nan)
        ]  # fmt: skip
        assert torch.equal(*values)
    unknown = torch.where(absent, torch.nan, inputs["mask"])
    hidden = torch.where(absent, 0.0, 1.0)
    first = loss_fn(inputs["vertices"], camera, image, unknown, generator=torch.Generator().manual_seed(0))
    second = loss_fn(
        inputs["vertices"], camera, image, inputs["mask"], hidden, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(first, second)

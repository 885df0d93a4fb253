"""What the loss says of a first batch, once and without being asked."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import texalign as ta
from texalign import synthetic
from texalign._internal import hand_asset
from texalign.loss import LossInputs

SIZE = 64


@pytest.fixture(scope="module")
def inputs():
    batch = synthetic.generate(4, SIZE, torch.Generator().manual_seed(1), left_share=0)
    return LossInputs(batch.vertices, batch.camera, batch.image, batch.mask, torch.ones_like(batch.mask))


def said(loss_fn, inputs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss_fn(*inputs)
    return [str(warning.message) for warning in caught]


def mirrored(inputs):
    return inputs.mirrored(torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda i: i._replace(image=255 * i.image), r"images lie in [0, 255] in place of [0, 1]: divide by 255"),
        (lambda i: i._replace(image=(i.image - 0.45) / 0.22), "undo the network's normalisation"),
        (lambda i: i._replace(mask=255 * i.mask), "mask lies in [0, 255] in place of [0, 1]"),
        (lambda i: i._replace(valid=-i.valid), "valid lies in [-1, -1] in place of [0, 1]"),
        (lambda i: i._replace(vertices=1000 * i.vertices), "m large (median): vertices are expected in metres"),
        (lambda i: i._replace(vertices=0.02 * i.vertices), "m large (median): vertices are expected in metres"),
        (lambda i: i._replace(image=i.image / 255), "in place of [0, 1]: divided by 255 twice?"),
        (lambda i: i._replace(mask=0 * i.mask), "4 of 4 samples are skipped: 4 for masks that are 0 on the whole hand"),
        (mirrored, "4 of 4 samples are skipped: 4 for meshes seen from inside: left hands need is_right"),
        (lambda i: i._replace(vertices=-i.vertices), "4 for hands outside the image, behind the camera or in padding"),
        (lambda i: i._replace(vertices=i.vertices * torch.nan), "4 for vertices or camera not finite"),
        (lambda i: i._replace(image=i.image * torch.nan), "4 for images with values that are not finite"),
    ],
)
def test_what_looks_wrong_is_said_once(inputs, change, expected):
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(SIZE)
    wrong = change(inputs)
    warned = said(loss_fn, wrong)
    assert any(expected in text for text in warned), warned
    assert said(loss_fn, wrong) == []


def test_nothing_is_said_of_what_is_right(inputs):
    assert said(ta.DenseTextureAlignmentLoss.from_pretrained(SIZE), inputs) == []


def test_an_empty_batch_is_not_looked_at(inputs):
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(SIZE)
    empty = LossInputs(*(each[:0] for each in inputs))
    assert said(loss_fn, empty) == []
    assert said(copy.deepcopy(loss_fn), inputs._replace(image=255 * inputs.image))


def test_a_mesh_that_is_split_at_its_seams_is_refused(inputs):
    """Of 905 vertices: the seam is a boundary, and would be taken for the wrist's opening."""
    hand = hand_asset()
    vertex = torch.zeros(len(hand["uv"]), dtype=torch.int64)
    vertex[torch.from_numpy(hand["uv_faces"].astype("int64")).flatten()] = torch.from_numpy(
        hand["faces"].astype("int64")
    ).flatten()
    split = ta.HandSurface(hand["uv_faces"], hand["uv"], hand["uv_faces"])
    loss_fn = ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(split, SIZE), MeanColour())
    with pytest.raises(ValueError, match=r"one vertex for each point of the skin.*254 of 268 boundary vertices"):
        loss_fn(*inputs._replace(vertices=inputs.vertices[:, vertex]))


class MeanColour(torch.nn.Module):
    def forward(self, observations):
        return observations.mean_colour()[:, :, None, None].expand(-1, -1, 8, 8)

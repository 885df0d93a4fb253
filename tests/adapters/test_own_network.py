"""An adapter of one's own, written outside the package: for a network that none of the bundled ones serves."""

from __future__ import annotations

import pytest
import torch

import texalign as ta
from texalign import synthetic
from texalign.adapters import check, unnormalised
from texalign.loss import LossInputs

SIZE = 64


def my_network_inputs(output: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> LossInputs:
    """Vertices in centimetres from the wrist, its place in millimetres, y up; images in [−1, 1], K flattened."""
    vertices = output["verts_cm"] / 100 + output["wrist_mm"][:, None] / 1000
    camera = ta.PinholeCamera.from_intrinsics(batch["K"].unflatten(1, (3, 3)))
    up_to_down = vertices.new_tensor([1.0, -1.0, 1.0])
    return LossInputs(vertices * up_to_down, camera, unnormalised(batch["img"], (0.5,) * 3, (0.5,) * 3), batch["seg"])


@pytest.fixture(scope="module")
def network():
    """What the network returns for eight images when it is right, and its batch."""
    hands = synthetic.generate(8, SIZE, torch.Generator().manual_seed(5), left_share=0)
    up = torch.tensor([1.0, -1.0, 1.0])
    wrist = hands.joints[:, :1]
    matrix = torch.zeros(8, 3, 3)
    matrix[:, [0, 1], [0, 1]], matrix[:, :2, 2], matrix[:, 2, 2] = hands.camera.focal, hands.camera.principal, 1.0
    output = {"verts_cm": 100 * (hands.vertices - wrist) * up, "wrist_mm": 1000 * wrist[:, 0] * up}
    return output, {"K": matrix.flatten(1), "img": 2 * hands.image - 1, "seg": hands.mask}


def test_the_loss_takes_what_the_adapter_gives_and_its_gradient_reaches_the_network(network):
    output, batch = ({name: value.clone() for name, value in each.items()} for each in network)
    for value in output.values():
        value.requires_grad_()
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(SIZE)
    loss_fn(*my_network_inputs(output, batch)).backward()
    for value in output.values():
        assert torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0


def test_the_check_says_what_an_adapter_forgot(network):
    output, batch = network
    assert check(*my_network_inputs(output, batch)).ok
    flipped = my_network_inputs(output, batch)
    wrong = flipped._replace(vertices=flipped.vertices * flipped.vertices.new_tensor([1.0, -1.0, 1.0]))
    assert not check(*wrong).ok
    assert not check(*flipped._replace(image=batch["img"])).ok

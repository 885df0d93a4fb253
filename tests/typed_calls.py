"""What a type checker says of calls; mypy reads this file, nothing runs it."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import assert_type

from texalign import DenseTextureAlignmentLoss, LossDetails, PinholeCamera
from texalign.loss import LossInputs, laplace_cost


def calls(loss_fn: DenseTextureAlignmentLoss, vertices: Tensor, camera: PinholeCamera, image: Tensor) -> None:
    """A tensor, or a pair where details are asked for."""
    assert_type(loss_fn(vertices, camera, image), Tensor)
    assert_type(loss_fn(vertices, camera, image, None, image, return_details=False), Tensor)
    assert_type(loss_fn(vertices, camera, image, return_details=True), tuple[Tensor, LossDetails])
    assert_type(loss_fn(*LossInputs(vertices, camera, image)), Tensor)
    assert_type(DenseTextureAlignmentLoss.from_pretrained(64, residual_cost=laplace_cost), DenseTextureAlignmentLoss)
    assert_type(camera[1:], PinholeCamera)
    assert_type(loss_fn.renderer.scene(vertices, camera).draw(image).coverage, Tensor)
    loss_fn(vertices, camera, image, return_details=1)  # type: ignore[call-overload]

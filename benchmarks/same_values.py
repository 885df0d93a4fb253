"""Hashes of what the loss, renderer and encoder give, values and gradients, for a dozen batches.

A change that only moves code leaves every line as it was on one machine:

    python benchmarks/same_values.py > before.txt
    python benchmarks/same_values.py | diff before.txt -
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

import texalign as ta
from texalign import synthetic

BATCHES = 12
COUNT = 3
IMAGE_SIZES = (64, 96, 128)


def digest(tensors: Iterable[Tensor | None]) -> str:
    """12 hexadecimal digits of shapes, dtypes and bits."""
    seen = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            seen.update(b"none")
            continue
        array = tensor.detach().cpu().contiguous()
        seen.update(f"{tuple(array.shape)} {array.dtype}".encode())
        seen.update(array.numpy().tobytes())
    return seen.hexdigest()[:12]


def main() -> None:
    """Print one line for every batch and module."""
    torch.set_num_threads(1)
    surface, encoder = ta.HandSurface.mano(), ta.UVTextureEncoder.from_pretrained()
    for number in range(BATCHES):
        size = IMAGE_SIZES[number % len(IMAGE_SIZES)]
        source = torch.Generator().manual_seed(number)
        batch = synthetic.generate(COUNT, size, source)
        print(f"{number:2d} synthetic {digest([batch.image, batch.mask, batch.vertices, batch.texture, batch.pose])}")

        right = batch.canonical()
        renderer = ta.TexturedHandRenderer(surface, image_size=size)
        vertices = (
            right.vertices + 0.004 * torch.randn(right.vertices[:, :1].shape, generator=source)
        ).requires_grad_()
        texture = right.texture.clone().requires_grad_()
        rendering = renderer(vertices, right.camera, texture)
        outputs = [rendering.image, rendering.coverage, rendering.depth, rendering.uv]
        weights = [torch.rand(each.shape, generator=source) for each in outputs]
        total = sum((each * weight).sum() for each, weight in zip(outputs, weights))
        gradients = torch.autograd.grad(total, [vertices, texture])
        print(f"{number:2d} renderer  {digest([*outputs, rendering.face_index, rendering.dropped, *gradients])}")

        seen = renderer.observe(vertices, right.camera, right.image, right.mask, 256, source)
        unwrapped = renderer.unwrap(vertices, right.camera, right.image, texture_size=64)
        (gradient,) = torch.autograd.grad(seen.uv.sum() + unwrapped[0].square().sum(), vertices)
        print(f"{number:2d} observe   {digest([seen.uv, seen.rgb, seen.valid, *unwrapped, gradient])}")

        encoder.zero_grad()
        groups = torch.tensor([0, 0, 1]) if number % 3 == 2 else None
        drawn, log_variance = encoder(seen.detach(), group=groups, return_log_variance=True)
        (drawn.square().sum() + log_variance.sum()).backward()
        print(f"{number:2d} encoder   {digest([drawn, log_variance, *(p.grad for p in encoder.parameters())])}")

        loss_fn = ta.DenseTextureAlignmentLoss(renderer, encoder, token_count=256, reduction="none")
        left = batch.vertices.clone().requires_grad_()
        valid = (torch.rand(COUNT, 1, size, size, generator=source) > 0.05).float() if number % 4 == 1 else None
        loss, details = loss_fn(
            left, batch.camera, batch.image, batch.mask if number % 2 else None, valid,
            is_right=batch.is_right, group=groups, generator=source, return_details=True,
        )  # fmt: skip
        loss.sum().backward()
        values = [loss, details.texture, details.fitted, details.residual, details.evidence, details.skipped]
        print(f"{number:2d} loss      {digest([*values, left.grad])}")
        encoder.requires_grad_(True)


if __name__ == "__main__":
    main()

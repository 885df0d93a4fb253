"""Torch backend: the differentiable pieces, each with a hand-written backward that never touches background pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def edge_functions(x: Tensor, y: Tensor) -> Tensor:
    """Homogeneous edge functions (…, 3) of corners (…, 3) taken relative to a pixel; their ratios are the perspective-
    correct barycentrics (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997).
    """
    x0, x1, x2 = x.unbind(-1)
    y0, y1, y2 = y.unbind(-1)
    return torch.stack([x1 * y2 - y1 * x2, x2 * y0 - y2 * x0, x0 * y1 - y0 * x1], dim=-1)


class Barycentrics(Function):
    """Corner table (B·F, 9) and, per covered pixel, its row and centre → (N, 3). Reference: `edge_functions`."""

    @staticmethod
    def forward(ctx: Any, corners: Tensor, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        relative = _relative_corners(corners, rows, x, y)
        edges = edge_functions(*relative)
        _, weights = _normalise(edges)
        ctx.save_for_backward(corners, rows, x, y)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        corners, rows, x, y = ctx.saved_tensors
        relative_x, relative_y = _relative_corners(corners, rows, x, y)
        inverse, weights = _normalise(edge_functions(relative_x, relative_y))
        g = (grad - (grad * weights).sum(dim=1, keepdim=True)) * inverse
        g0, g1, g2 = g.unbind(1)
        x0, x1, x2 = relative_x.unbind(1)
        y0, y1, y2 = relative_y.unbind(1)
        grad_x = (g2 * y1 - g1 * y2, g0 * y2 - g2 * y0, g1 * y0 - g0 * y1)
        grad_y = (g1 * x2 - g2 * x1, g2 * x0 - g0 * x2, g0 * x1 - g1 * x0)
        columns = []
        for gx, gy in zip(grad_x, grad_y):
            columns += [gx, gy, -(x * gx + y * gy)]
        return torch.zeros_like(corners).index_add_(0, rows, torch.stack(columns, dim=1)), None, None, None


def _relative_corners(corners: Tensor, rows: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    corner = corners.index_select(0, rows)
    depth = corner[:, 2::3]
    return corner[:, 0::3] - x[:, None] * depth, corner[:, 1::3] - y[:, None] * depth


def _normalise(edges: Tensor) -> tuple[Tensor, Tensor]:
    """1 / Σ edges (0 where the face has no area) and the weights, clamped against rounding."""
    total = edges.sum(dim=1, keepdim=True)
    tiny = torch.finfo(edges.dtype).tiny ** 0.5
    solid = total.abs() > tiny
    inverse = torch.where(solid, 1.0 / torch.where(solid, total, 1), 0)
    weights = torch.where(solid, (edges * inverse).clamp(0, 1), 1 / 3)
    return inverse, weights / weights.sum(dim=1, keepdim=True)


class ToImage(Function):
    """(N, C) → (P, C) with zeros elsewhere; the adjoint of a row selection."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pixels: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(pixels)
        return values.new_zeros(count, values.shape[1]).index_copy_(0, pixels, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (pixels,) = ctx.saved_tensors
        return grad.index_select(0, pixels), None, None


class Bilinear(Function):
    """Texture (B or 1, C, T, T) at uv (N, 2) of samples (N,) → (C, N). Reference: `grid_sample` with border padding.

    `redirect` (T·T,) is `TexelMap.redirect`: the texel to read in place of each.
    """

    @staticmethod
    def forward(ctx: Any, texture: Tensor, uv: Tensor, sample: Tensor, redirect: Tensor) -> Tensor:
        taps, weight_x, weight_y, _ = _taps(texture, uv, sample, redirect)
        ctx.save_for_backward(texture, uv, sample, redirect)
        return torch.stack(
            [
                torch.lerp(torch.lerp(a, b, weight_x), torch.lerp(c, d, weight_x), weight_y)
                for a, b, c, d in _read(texture, taps)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        texture, uv, sample, redirect = ctx.saved_tensors
        taps, weight_x, weight_y, inside = _taps(texture, uv, sample, redirect)
        grad_texture = grad_uv = None
        if ctx.needs_input_grad[0]:
            grad_texture = torch.zeros_like(texture, memory_format=torch.contiguous_format)
            flat = grad_texture.view(-1)
            for channel, part in enumerate(grad):
                offset = channel * redirect.numel()
                lower = part * weight_y
                upper = part - lower
                for row, left, right in ((upper, taps[0], taps[1]), (lower, taps[2], taps[3])):
                    share = row * weight_x
                    flat.index_add_(0, left + offset, row - share).index_add_(0, right + offset, share)
        if ctx.needs_input_grad[1]:
            slope_x, slope_y = torch.zeros_like(weight_x), torch.zeros_like(weight_y)
            for part, (a, b, c, d) in zip(grad, _read(texture, taps)):
                slope_x += part * torch.lerp(b - a, d - c, weight_y)
                slope_y += part * torch.lerp(c - a, d - b, weight_x)
            sides = (slope_x * texture.shape[3] * inside[0], slope_y * texture.shape[2] * inside[1])
            grad_uv = torch.stack(sides, dim=1)
        return grad_texture, grad_uv, None, None


def _taps(
    texture: Tensor, uv: Tensor, sample: Tensor, redirect: Tensor
) -> tuple[list[Tensor], Tensor, Tensor, tuple[Tensor, Tensor]]:
    """For each uv: where channel 0 of its four texels lies in the flat texture, two blend weights (N,), and whether u
    and v are inside the border.
    """
    height, width = texture.shape[2:]
    # Sizes stay Python numbers: a tensor made of them would be a copy to the device that the host waits for.
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    clamped_x, clamped_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = clamped_x.floor(), clamped_y.floor()
    weight_x, weight_y = clamped_x - left, clamped_y - top
    column, row = left.to(torch.int64), top.to(torch.int64)
    right = (column + 1).clamp(max=width - 1) - column
    below = ((row + 1).clamp(max=height - 1) - row) * width
    first = row * width + column
    texels = (first, first + right, first + below, first + below + right)
    start = sample * (texture.shape[1] * height * width) if texture.shape[0] > 1 else torch.zeros_like(sample)
    taps = [start + redirect.index_select(0, texel) for texel in texels]
    return taps, weight_x, weight_y, (clamped_x == x, clamped_y == y)


def _read(texture: Tensor, taps: list[Tensor]) -> Iterator[list[Tensor]]:
    """Channel by channel, the values at the four taps."""
    flat = texture.reshape(-1)
    for channel in range(texture.shape[1]):
        offset = channel * texture.shape[2] * texture.shape[3]
        yield [flat.index_select(0, tap + offset) for tap in taps]


class Blend(Function):
    """image[target] += weight · (image[other] − image[target]) with the old image on the right, summed over pairs."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, target: Tensor, other: Tensor) -> Tensor:
        difference = image.index_select(0, other) - image.index_select(0, target)
        ctx.save_for_backward(weight, target, other, difference)
        return image.index_add(0, target, difference * weight[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, target, other, difference = ctx.saved_tensors
        at_target = grad.index_select(0, target)
        flow = at_target * weight[:, None]
        grad_image = grad.index_add(0, other, flow).index_add_(0, target, -flow)
        return grad_image, (at_target * difference).sum(dim=1), None, None

"""Torch backend: the differentiable pieces, each with a hand-written backward that never touches background pixels.

Lists of pixels are kept by channel, (C, N): every operation then runs along contiguous memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def edge_functions(x: Tensor, y: Tensor) -> Tensor:
    """Homogeneous edge functions (3, …) of corners (3, …) taken relative to a pixel; their ratios are the perspective-
    correct barycentrics (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997).
    """
    edges = torch.empty_like(x)
    for k in range(3):
        torch.mul(x[k - 2], y[k - 1], out=edges[k]).addcmul_(y[k - 2], x[k - 1], value=-1)
    return edges


class Barycentrics(Function):
    """Points (P, 3) and, per covered pixel, its face's corners (3, N) among them and its centre → (3, N).

    Reference: `edge_functions`, differentiated by autograd.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
        relative = points.new_empty(3, *corners.shape)
        for values, at in zip(points.t().contiguous(), relative):
            for corner, out in zip(corners, at):
                torch.index_select(values, 0, corner, out=out)
        relative_x, relative_y, depth = relative
        relative_x.addcmul_(depth, x, value=-1)
        relative_y.addcmul_(depth, y, value=-1)
        inverse, weights = _normalise(edge_functions(relative_x, relative_y))
        ctx.save_for_backward(corners, x, y, relative_x, relative_y, inverse, weights)
        ctx.count = len(points)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        corners, x, y, relative_x, relative_y, inverse, weights = ctx.saved_tensors
        g = (grad - (grad * weights).sum(dim=0)) * inverse
        summed = grad.new_zeros(3, ctx.count)
        for k, corner in enumerate(corners):
            grad_x = g[k - 1] * relative_y[k - 2] - g[k - 2] * relative_y[k - 1]
            grad_y = g[k - 2] * relative_x[k - 1] - g[k - 1] * relative_x[k - 2]
            summed[0].index_add_(0, corner, grad_x)
            summed[1].index_add_(0, corner, grad_y)
            summed[2].index_add_(0, corner, grad_x.mul_(x).addcmul_(grad_y, y).neg_())
        return summed.t(), None, None, None


def _normalise(edges: Tensor) -> tuple[Tensor, Tensor]:
    """1 / Σ edges (0 where the face has no area) and the weights, clamped against rounding."""
    total = edges.sum(dim=0)
    tiny = torch.finfo(edges.dtype).tiny ** 0.5
    solid = total.abs() > tiny
    inverse = torch.where(solid, 1.0 / torch.where(solid, total, 1), 0)
    weights = torch.where(solid, (edges * inverse).clamp_(0, 1), 1 / 3)
    return inverse, weights / weights.sum(dim=0)


class ToImage(Function):
    """(C, N) → (C, P) with zeros elsewhere; the adjoint of a selection of columns. No pixel may occur twice."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pixels: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(pixels)
        image = values.new_zeros(len(values), count)
        for channel, listed in zip(image, values):
            channel.scatter_(0, pixels, listed)  # several times faster than one index_copy_ of all
        return image

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (pixels,) = ctx.saved_tensors
        return grad.contiguous().index_select(1, pixels), None, None


class Bilinear(Function):
    """Texture (B or 1, C, T, T) at uv (2, N) of samples (N,) → (C, N). Reference: `grid_sample` with border padding.

    `redirect` (T·T,) is `TexelMap.redirect`: the texel to read in place of each.
    """

    @staticmethod
    def forward(ctx: Any, texture: Tensor, uv: Tensor, sample: Tensor, redirect: Tensor) -> Tensor:
        channels, height, width = texture.shape[1:]
        # Sizes stay Python numbers: a tensor made of them would be a copy to the device that the host waits for.
        x, y = uv[0] * width - 0.5, uv[1] * height - 0.5
        clamped_x, clamped_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        left, top = clamped_x.floor().clamp_(max=max(width - 2, 0)), clamped_y.floor().clamp_(max=max(height - 2, 0))
        weight_x, weight_y = clamped_x - left, clamped_y - top
        first = top.to(torch.int64).mul_(width).add_(left.to(torch.int64))
        right, below = int(width > 1), width * int(height > 1)
        texels = torch.cat([first, first + right, first + below, first + (right + below)])
        taps = redirect.index_select(0, texels)
        if texture.shape[0] > 1:
            taps.view(4, -1).add_(sample * (channels * height * width))
        flat = texture.reshape(-1)
        # Beyond the outer centres the border goes on: no slope.
        scale_x, scale_y = (clamped_x == x) * float(width), (clamped_y == y) * float(height)
        colour, slopes = uv.new_empty(channels, len(sample)), []
        for channel, out in enumerate(colour):
            a, b, c, d = flat[channel * height * width :].index_select(0, taps).view(4, -1)
            upper, lower = torch.lerp(a, b, weight_x), torch.lerp(c, d, weight_x)
            torch.lerp(upper, lower, weight_y, out=out)
            if ctx.needs_input_grad[1]:
                slopes += [torch.lerp(b - a, d - c, weight_y).mul_(scale_x), lower.sub_(upper).mul_(scale_y)]
        kept = (taps, weight_x, weight_y) if ctx.needs_input_grad[0] else (None, None, None)
        ctx.save_for_backward(*kept, *slopes)
        ctx.shape = texture.shape
        return colour

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        taps, weight_x, weight_y, *slopes = ctx.saved_tensors
        grad_texture = grad_uv = None
        if ctx.needs_input_grad[0]:
            lower_right = weight_x * weight_y
            upper_right, lower_left = weight_x - lower_right, weight_y - lower_right
            weights = torch.stack([1 - weight_x - lower_left, upper_right, lower_left, lower_right])
            grad_texture = grad.new_zeros(ctx.shape)
            flat = grad_texture.view(-1)
            for channel, part in enumerate(grad):
                flat[channel * ctx.shape[2] * ctx.shape[3] :].scatter_add_(0, taps, (weights * part).view(-1))
        if ctx.needs_input_grad[1]:
            grad_uv = grad.new_zeros(2, grad.shape[1])
            for k, slope in enumerate(slopes):
                grad_uv[k % 2].addcmul_(grad[k // 2], slope)
        return grad_texture, grad_uv, None, None


class Blend(Function):
    """image[:, target] += weight · (image[:, other] − image[:, target]) with the old image (C, P) on the right, summed
    over pairs.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, target: Tensor, other: Tensor) -> Tensor:
        difference = image.index_select(1, other) - image.index_select(1, target)
        ctx.save_for_backward(weight, target, other, difference)
        return _add_columns(image, target, difference * weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, target, other, difference = ctx.saved_tensors
        at_target = grad.index_select(1, target)
        flow = at_target * weight
        grad_image = _add_columns(grad, torch.cat([other, target]), torch.cat([flow, -flow], dim=1))
        return grad_image, (at_target * difference).sum(dim=0), None, None


def _add_columns(image: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    image = image.clone(memory_format=torch.contiguous_format)
    for channel, added in zip(image, values):
        channel.index_add_(0, columns, added)  # several times faster than one index_add_ of all
    return image

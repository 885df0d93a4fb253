"""Meshes and points drawn over images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from texalign._internal import dilate, expect, expect_floating
from texalign.render import Rendering


def overlay(image: Tensor, rendering: Rendering, alpha: float = 1.0) -> Tensor:
    """Lay a rendered hand over an image: alpha 0 shows the image alone, 1 hides what is behind the hand.

    Args:
        image: (B, 3, H, W) in [0, 1], or (1, 3, H, W) for all; ``torch.ones(1, 3, 1, 1)`` is a white background.
        rendering: of B hands, H × W.
        alpha: opacity of the hand in [0, 1].

    Returns:
        (B, 3, H, W), differentiable in both.

    Example:
        >>> from texalign.render import TexturedHandRenderer
        >>> from texalign.surface import HandSurface
        >>> from texalign.synthetic import generate
        >>> hands = generate(1, image_size=64, left_share=0)
        >>> renderer = TexturedHandRenderer(HandSurface.mano(), image_size=64)
        >>> seen = overlay(hands.image, renderer(hands.vertices, hands.camera, hands.texture), alpha=0.7)
    """
    return image * (1 - alpha * rendering.coverage) + alpha * rendering.image


def outline(image: Tensor, coverage: Tensor, colour: Sequence[float] = (0.1, 1.0, 0.2), width: int = 2) -> Tensor:
    """Draw the contour of a hand over an image, bright with a dark rim, so that the image stays to be seen.

    Args:
        image: (B, 3, H, W) in [0, 1].
        coverage: (B, 1, H, W) in [0, 1], as a `Rendering` has it; the contour runs outside of what is above one half.
        colour: RGB in [0, 1].
        width: of the line, pixels.

    Returns:
        (B, 3, H, W).

    Example:
        >>> outline(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """
    expect_floating(image, "outline", "image", ("B", 3, "H", "W"))
    expect_floating(coverage, "outline", "coverage", (len(image), 1, *image.shape[2:]))
    expect(width > 0, "outline", "width > 0", width)
    inside = (coverage.detach() > 0.5).to(image.dtype)
    reach = dilate(inside, width)
    rim = dilate(reach, 1) - (1 - dilate(1 - inside, 1))
    line = reach - inside
    image = image * (1 - 0.6 * rim)
    return torch.where(line > 0.5, image.new_tensor(colour)[:, None, None], image)


def mark(image: Tensor, points: Tensor, colour: Sequence[float] = (1.0, 1.0, 0.2), radius: float = 1.5) -> Tensor:
    """Draw points over an image, as bright dots with a dark rim.

    Args:
        image: (B, 3, H, W) in [0, 1].
        points: (B, N, 2) pixels; NaN is left out.
        colour: RGB in [0, 1].
        radius: of the dots, pixels, to which the rim adds 1.

    Returns:
        (B, 3, H, W).

    Example:
        >>> mark(torch.zeros(1, 3, 64, 64), points=torch.tensor([[[20.0, 30.0]]]))[0, :, 30, 20]
        tensor([1.0000, 1.0000, 0.2000])
    """
    expect_floating(image, "mark", "image", ("B", 3, "H", "W"))
    expect_floating(points, "mark", "points", (len(image), "N", 2))
    height, width = image.shape[2:]
    rows, columns = torch.arange(height, device=image.device) + 0.5, torch.arange(width, device=image.device) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).view(1, -1, 2).to(points)
    known = torch.where(torch.isfinite(points).all(dim=2, keepdim=True), points, -1e4)
    far = torch.cat([known, torch.full_like(known[:, :1], -1e4)], dim=1)  # at least one, for the minimum
    distance = torch.cdist(pixels.expand(len(image), -1, -1), far).amin(dim=2).view(len(image), 1, height, width)
    marked = torch.where(distance < radius + 1, 0.3 * image, image)
    return torch.where(distance < radius, image.new_tensor(colour)[:, None, None], marked)

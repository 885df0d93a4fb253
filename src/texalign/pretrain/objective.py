"""What the prior sees, what it must reproduce, and how the error counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from texalign.pretrain.settings import VIEWS
from texalign.render import UVObservations
from texalign.surface import HandSurface

# Weight of an error in the other image of a pair: light falls differently there, and the loss reads its own image.
OTHER_VIEW_SHARE = 0.3


def drop_a_side(observations: UVObservations, generator: torch.Generator) -> UVObservations:
    """In half of the samples drop the observations on one side of a random line through the atlas.

    The prior then learns to extrapolate, not only to interpolate.
    """
    uv = observations.uv
    batch = len(uv)
    angle = 2 * math.pi * torch.rand(batch, 1, generator=generator, device=uv.device)
    keep_all = torch.rand(batch, 1, generator=generator, device=uv.device) < 0.5
    along = uv[..., 0] * angle.cos() + uv[..., 1] * angle.sin()
    share = torch.rand(batch, 1, generator=generator, device=uv.device)
    low = torch.where(observations.valid, along, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(observations.valid, along, -torch.inf).amax(dim=1, keepdim=True)
    kept = observations.valid & (keep_all | (along <= torch.lerp(low, high, 0.2 + 0.7 * share)))
    return UVObservations(uv, observations.rgb, kept)


def forget_some(observations: UVObservations, share: float, generator: torch.Generator) -> UVObservations:
    """In a `share` of the samples drop all observations, so that the prior learns what to predict from none."""
    uv = observations.uv
    kept = torch.rand(len(uv), 1, generator=generator, device=uv.device) >= share
    return UVObservations(uv, observations.rgb, observations.valid & kept)


def partners(count: int, device: torch.device) -> Tensor:
    """(B,) int64: for each image the row of its pair's other image."""
    return torch.arange(count, device=device).view(-1, VIEWS).flip(1).flatten()


def with_other_view(targets: UVObservations, hand: Tensor) -> tuple[UVObservations, Tensor]:
    """Every sample's targets followed by those of its pair's other image, and their weights (B, 2 N).

    The other image has weight only where both show the same `hand` (B,).
    """
    where = targets.valid.device
    partner = partners(len(targets.valid), where)
    hand = hand.to(where)

    def beside(values: Tensor) -> Tensor:
        return torch.cat([values, values[partner]], dim=1)

    both = UVObservations(beside(targets.uv), beside(targets.rgb), beside(targets.valid))
    own = torch.ones_like(targets.rgb[..., 0])
    other = torch.where(hand == hand[partner], OTHER_VIEW_SHARE, 0.0)[:, None] * own
    return both, torch.cat([own, other], dim=1)


def read_texture(texture: Tensor, uv: Tensor, surface: HandSurface) -> Tensor:
    """Texture (B, C, T, T) at uv (B, N, 2) → (B, N, C), as the renderer reads it.

    Example:
        >>> read_texture(torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 5, 2), HandSurface.mano()).shape
        torch.Size([1, 5, 3])
    """
    grid = 2 * uv[:, None] - 1
    values = functional.grid_sample(surface.dilated(texture), grid, padding_mode="border", align_corners=False)
    return values[:, :, 0].transpose(1, 2)


def prior_loss(
    texture: Tensor, log_variance: Tensor, targets: UVObservations, counts: Tensor, surface: HandSurface
) -> tuple[Tensor, Tensor]:
    """Mean absolute error at the targets, and their negative log likelihood by the predicted scale (Laplace).

    Args:
        texture: (B, 3, T, T).
        log_variance: (B, 1, T, T).
        targets: N a sample.
        counts: (B, N) weights of the targets in the means.
        surface: whose atlas it is.
    """
    read = read_texture(torch.cat([texture, log_variance], dim=1), targets.uv, surface)
    error = (read[..., :3] - targets.rgb).abs().mean(dim=-1)
    scale = (0.5 * read[..., 3]).exp()
    weight = targets.valid * counts
    weight = weight / weight.sum().clamp(min=1)
    return (error * weight).sum(), ((error.detach() / scale + scale.log()) * weight).sum()

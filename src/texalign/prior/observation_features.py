"""What the encoder reads of observations: place, centred colour, and whose images show one hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from texalign._internal import opaque
from texalign.render import UVObservations

# Colours are compared as logits, where a change of exposure is nearly a shift, and clamped this far from 0 and 1.
COLOUR_MARGIN = 0.02
# In logits: about 2 % of the range of a mid-grey.
LEAST_CONTRAST = 0.1
# Sine and cosine of 2^k π u: the finest wave is as long as a 32nd of the atlas.
FREQUENCIES = 7


def fourier_features(uv: Tensor) -> Tensor:
    """Coordinates (…, 2) → (…, 2 + 4 · FREQUENCIES): themselves around 0, then sines and cosines, coarse to fine."""
    scale = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=uv.device, dtype=uv.dtype)
    angle = (uv[..., None] * scale).flatten(-2)
    return torch.cat([2 * uv - 1, angle.sin(), angle.cos()], dim=-1)


def centre_colours(rgb: Tensor, valid: Tensor, default: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split colours into a mean, a contrast and what remains, as logits: rgb = sigmoid(mean + contrast · residual).

    Args:
        rgb: (B, N, 3) in [0, 1], 0 where not valid.
        valid: (B, N) bool.
        default: (3,) logits, the mean where nothing is valid.

    Returns:
        residual (B, N, 3), of variance about 1; mean (B, 3); contrast (B, 1) > 0; and a summary (B, 5) of what the
        residual lacks: mean, logarithm of contrast and 1, or all 0 where nothing is valid.
    """
    some = valid.any(dim=1, keepdim=True)
    weight = valid[..., None].to(rgb.dtype)
    count = weight.sum(dim=1).clamp(min=1)
    mean = torch.where(some, _logit(rgb.sum(dim=1) / count), default)
    deviation = (_logit(rgb) - mean[:, None]) * weight
    variance = (deviation.square().sum(dim=1) / count).mean(dim=1, keepdim=True)
    # Noise is not amplified to full contrast; an ordinary contrast where nothing was seen.
    contrast = torch.where(some, variance + LEAST_CONTRAST**2, 10 * LEAST_CONTRAST**2).sqrt()
    palette = torch.cat([mean, contrast.log(), torch.ones_like(contrast)], dim=1)
    return deviation / contrast[:, None], mean, contrast, torch.where(some, palette, 0)


def _logit(colour: Tensor) -> Tensor:
    return colour.clamp(COLOUR_MARGIN, 1 - COLOUR_MARGIN).logit()


@opaque
def pool_observations(observations: UVObservations, group: Tensor) -> tuple[UVObservations, Tensor]:
    """Concatenate the observations of images that share an id.

    Args:
        observations: of B images, N each.
        group: (B,) integer ids, any values.

    Returns:
        observations of G groups, N times the largest group's images each (smaller groups are padded), and (B,) int64:
        the group of each image.
    """
    device = observations.valid.device
    _, member, counts = torch.unique(group.cpu(), return_inverse=True, return_counts=True)
    slot = torch.arange(int(counts.max()) if len(counts) else 0)
    first = counts.cumsum(0) - counts
    image = member.argsort(stable=True)[(first[:, None] + slot).clamp(max=max(len(group) - 1, 0))].to(device)
    present = (slot < counts[:, None]).to(device)
    pooled = UVObservations(
        observations.uv[image].flatten(1, 2),
        observations.rgb[image].flatten(1, 2),
        (observations.valid[image] & present[..., None]).flatten(1, 2),
    )
    return pooled, member.to(device)

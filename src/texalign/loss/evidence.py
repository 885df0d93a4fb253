from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import dilate
from texalign.loss.background import background_cost
from texalign.loss.colour_fit import extend_colours, fit_colour
from texalign.loss.likelihoods import ResidualCost, hand_cost, laplace_cost, laplace_scale

# A pixel's evidence is clamped here, in units of log-likelihood: e^6 = 400 to 1 for or against the hand. Beyond that an
# occluder or a highlight would only gain gradient.
EVIDENCE_LIMIT = 6.0
# The residual's scale is taken from the very pixels that the prior was shown and the colours were fitted to, and comes
# out too small. Twice as large made fits to photographs better in 2D, in 3D and in the mask (docs/benchmarks.md says on
# which frames that was seen).
SCALE_FACTOR = 2.0
# How much of the interior's gradient is passed on. A small prior's texture is blurred: at full strength its slopes help
# on photographs but harm on cluttered synthetic images; without them PA-MPJPE is worse.
INTERIOR_SHARE = 0.6
# Fewer pixels than this are no hand, and no segmentation.
MINIMUM_PIXELS = 16


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an image says of each pixel, for or against the hand, and what that was computed from.

    Attributes:
        per_sample: (B,) the loss: Σ coverage · evidence over the hand's size; differentiable.
        fitted: (B, 3, H, W) the colours compared with the image: fitted to its light, extended past the silhouette.
        residual: (B, 3, H, W) absolute difference between `fitted` and the image.
        evidence: (B, 1, H, W) in [-6, 6], negative where the image looks more like this hand than its own background, 0
            outside the valid region.
    """

    per_sample: Tensor
    fitted: Tensor
    residual: Tensor
    evidence: Tensor


def region_competition(
    rendered: Tensor,
    coverage: Tensor,
    image: Tensor,
    region: Tensor,
    mask: Tensor | None = None,
    residual_cost: ResidualCost = laplace_cost,
) -> Evidence:
    """Σ coverage · evidence / N by sample, with the evidence it came from.

    N is the number of pixels whose evidence is for the hand (the hand's size in the image), or the mesh's own area
    where that is larger. With its own area alone, a hand that shrinks into its best-explained part would lower the
    mean.

    Args:
        rendered: (B, 3, H, W), premultiplied by coverage.
        coverage: (B, 1, H, W), differentiable.
        image: (B, 3, H, W), detached.
        region: (B, 1, H, W), the valid region: 0 where nothing may be concluded.
        mask: (B, 1, H, W) or None. A sample's mask that is 1 everywhere is no segmentation.
        residual_cost: negative log density of the colours' residual; see `ResidualCost`.

    Returns:
        Evidence, detached but for `per_sample`.
    """
    radius = dilation_radius(image)
    inside = (coverage > 0.5).to(image.dtype)
    colour = extend_colours(rendered, coverage, radius)
    with torch.no_grad():
        known = inside * region * (1 if mask is None else mask)
        gain, offset = fit_colour(colour, image, known)
        outside = (1 - dilate(coverage, 3 * radius)) * region
        if mask is not None:
            # Skin that the mesh misses is not background; a mask that leaves none is no segmentation.
            without_skin = outside * (1 - mask)
            enough = without_skin.sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
            outside = torch.where(enough, without_skin, outside)
        background = background_cost(image, outside)
    fitted = gain * colour + offset
    # Past the silhouette the colour is only a copy: its slope means nothing.
    constant = fitted.detach()
    fitted = constant + INTERIOR_SHARE * inside * (fitted - constant)
    residual = (fitted - image).abs()
    with torch.no_grad():
        scale = SCALE_FACTOR * laplace_scale(residual, known)
    hand = hand_cost(residual, scale, residual_cost=residual_cost)
    evidence = (hand - background).clamp(-EVIDENCE_LIMIT, EVIDENCE_LIMIT)
    if mask is not None:
        # Where the mask says "not skin", background repels as far as it looks like it; an occluder has evidence 0.
        elsewhere = (-background).clamp(0, EVIDENCE_LIMIT)
        segmented = (1 - mask).sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
        evidence = torch.where(segmented, mask * evidence.clamp(max=0) + (1 - mask) * elsewhere, evidence)
    evidence = evidence * region
    size = torch.maximum((evidence.detach() < 0).sum(dim=(1, 2, 3)), coverage.detach().sum(dim=(1, 2, 3))).clamp(min=1)
    per_sample = (coverage * evidence).sum(dim=(1, 2, 3)) / size
    return Evidence(per_sample, fitted.detach(), residual.detach(), evidence.detach())


def dilation_radius(image: Tensor) -> int:
    """How many pixels the hand's colours are extended past its silhouette: 3 at 128."""
    return max(1, round(min(image.shape[2:]) / 40))

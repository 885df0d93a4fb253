from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import dilate
from texalign.loss.background import background_cost
from texalign.loss.colour_fit import extend_colours, fit_colour
from texalign.loss.likelihoods import ResidualCost, hand_cost, laplace_cost, laplace_scale
from texalign.loss.residual import InteriorResidual

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
# Pixels of a batch that are worked on together on a CPU: a dozen arrays of them fit its cache, and are not handed back
# to the system and fetched again, page by page, at every operation.
PIXELS_AT_ONCE = 2**17
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

    Example:
        >>> coverage = torch.zeros(1, 1, 64, 64)
        >>> coverage[..., 16:48, 16:48] = 1
        >>> rendered, image = 0.7 * coverage.expand(-1, 3, -1, -1), 0.1 + 0.6 * coverage.expand(-1, 3, -1, -1)
        >>> found = region_competition(rendered, coverage, image, region=torch.ones_like(coverage))
        >>> bool(found.per_sample < 0)  # the image looks like the hand where the hand is
        True
    """
    rest = (coverage, image, region) + (() if mask is None else (mask,))
    count = _samples_at_once(image)
    with torch.no_grad():
        parts = [_hypotheses(*part) for part in zip(*(each.split(count) for each in (rendered, *rest)))]
        fitted, gain, scale, background = (torch.cat(each) if len(parts) > 1 else each[0] for each in zip(*parts))
    residual: Tensor = InteriorResidual.apply(rendered, coverage, fitted, image, gain, INTERIOR_SHARE)
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
    return Evidence(per_sample, fitted, residual.detach(), evidence.detach())


def _samples_at_once(image: Tensor) -> int:
    """How many samples of a batch to work on together: as many as a processor's cache holds; on a GPU all."""
    if image.is_cuda:
        return max(1, len(image))
    return max(1, PIXELS_AT_ONCE // max(1, image.shape[2] * image.shape[3]))


def _hypotheses(
    rendered: Tensor, coverage: Tensor, image: Tensor, region: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the two hypotheses predict, without a graph.

    Returns:
        Colours of the hand (B, 3, H, W), the gain in them (B, 3, 1, 1), the scale of its residual (B, 1, 1, 1) and the
        cost of each pixel as background (B, 1, H, W).
    """
    radius = dilation_radius(image)
    rendered, coverage = rendered.contiguous(), coverage.contiguous()  # else the channels lie interleaved
    colour = extend_colours(rendered, coverage, radius)
    known = torch.where(coverage > 0.5, region if mask is None else region * mask, 0)
    gain, offset = fit_colour(colour, image, known)
    fitted = torch.addcmul(offset, colour, gain)
    scale = SCALE_FACTOR * laplace_scale((fitted - image).abs_(), known)
    outside = (1 - dilate(coverage, 3 * radius)).mul_(region)
    if mask is not None:
        # Skin that the mesh misses is not background; a mask that leaves none is no segmentation.
        without_skin = outside * (1 - mask)
        enough = without_skin.sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
        outside = torch.where(enough, without_skin, outside)
    return fitted, gain, scale, background_cost(image, outside)


def dilation_radius(image: Tensor) -> int:
    """How many pixels the hand's colours are extended past its silhouette: 3 at 128.

    Example:
        >>> dilation_radius(torch.zeros(1, 3, 256, 256))
        6
    """
    return max(1, round(min(image.shape[2:]) / 40))

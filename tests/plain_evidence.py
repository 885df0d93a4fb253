"""The evidence as its definition reads: every window pooled, every cost differentiated by autograd, all at once."""

from __future__ import annotations

import torch
from torch.nn import functional

from texalign.loss import EVIDENCE_LIMIT, dilation_radius, laplace_cost
from texalign.loss.evidence import INTERIOR_SHARE, MINIMUM_PIXELS, SCALE_FACTOR


def mean_within(image, radius):
    return functional.avg_pool2d(image, 2 * radius + 1, 1, radius, count_include_pad=False)


def largest_within(image, radius):
    return functional.max_pool2d(image, 2 * radius + 1, 1, radius)


def fitted_colour(rendered, observed, weight, strength=0.05):
    def mean(values):
        return (values * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)

    r, o = rendered - mean(rendered), observed - mean(observed)
    gain = ((mean(r * o) + strength**2) / (mean(r * r) + strength**2)).clamp(0.25, 4)
    return gain, mean(observed) - gain * mean(rendered)


def density_cost(image, outside, uniform=0.1, bins=16):
    cell = (image.clamp(0, 1) * bins).long().clamp(0, bins - 1)
    index = (cell[:, 0] * bins + cell[:, 1]) * bins + cell[:, 2]
    counts = image.new_zeros(len(image), bins**3).scatter_add(1, index.flatten(1), outside.flatten(1))
    kernel = image.new_tensor([0.25, 0.5, 0.25])
    kernel = kernel[:, None, None] * kernel[:, None] * kernel
    cube = functional.conv3d(counts.reshape(-1, 1, bins, bins, bins), kernel[None, None], padding=1)
    density = cube * bins**3 / cube.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-6)
    place = (2 * image.clamp(0, 1) - 1).permute(0, 2, 3, 1).flip(-1)[:, None]
    seen = functional.grid_sample(density, place, padding_mode="border", align_corners=False)[:, :, 0]
    return -((1 - uniform) * seen + uniform).log()


def plain_evidence(rendered, coverage, image, region, mask=None, residual_cost=laplace_cost):
    """`per_sample`, `fitted`, `residual` and `evidence` of `region_competition`, which documents the arguments."""
    radius, inside = dilation_radius(image), (coverage > 0.5).to(image.dtype)
    near = mean_within(rendered, radius) / mean_within(coverage, radius).clamp(min=1e-4)
    colour = torch.where(coverage > 0.5, rendered / coverage.clamp(min=1e-4), near.detach())
    known = inside * region * (1 if mask is None else mask)
    gain, offset = fitted_colour(colour.detach(), image, known)
    outside = (1 - largest_within(coverage.detach(), 3 * radius)) * region
    if mask is not None:
        enough = (outside * (1 - mask)).sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
        outside = torch.where(enough, outside * (1 - mask), outside)
    background = density_cost(image, outside)
    fitted = gain * colour + offset
    fitted = fitted.detach() + INTERIOR_SHARE * inside * (fitted - fitted.detach())
    residual = (fitted - image).abs()
    scale = torch.full_like(gain[:, :1], 0.1 / 0.6931)
    for sample in range(len(image)):
        where = known[sample, 0] > 0.5
        if where.any():
            scale[sample] = residual.detach()[sample].mean(dim=0)[where].median() / 0.6931
    scale = SCALE_FACTOR * scale.clamp(0.02, 0.5)
    hand = -((1 - 0.1) * (-residual_cost(residual, scale)).exp() + 0.1).log()
    evidence = (hand - background).clamp(-EVIDENCE_LIMIT, EVIDENCE_LIMIT)
    if mask is not None:
        segmented = (1 - mask).sum(dim=(1, 2, 3), keepdim=True) >= MINIMUM_PIXELS
        mixed = mask * evidence.clamp(max=0) + (1 - mask) * (-background).clamp(0, EVIDENCE_LIMIT)
        evidence = torch.where(segmented, mixed, evidence)
    evidence = evidence * region
    size = torch.maximum((evidence < 0).sum(dim=(1, 2, 3)), coverage.detach().sum(dim=(1, 2, 3))).clamp(min=1)
    per_sample = (coverage * evidence).sum(dim=(1, 2, 3)) / size
    return {"per_sample": per_sample, "fitted": fitted, "residual": residual, "evidence": evidence}

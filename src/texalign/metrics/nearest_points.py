"""F@5 and F@15 mm."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import expect_floating, expect_same_device, finite_samples
from texalign.metrics.pairs import computable


def f_score(predicted: Tensor, true: Tensor, threshold: float) -> Tensor:
    """(B,) in [0, 1]: the share of points that lie near the other surface's (Knapitsch et al., 2017), both ways.

    The harmonic mean of the share of predicted points nearer than `threshold` to some true one, and of true points
    nearer than that to some predicted one. 0 if both shares are. Equal to FreiHAND's and HO3D's evaluation; their
    aligned scores are of ``procrustes_aligned(predicted, true, reflection=True)``.

    Args:
        predicted: (B, N, 3) metres.
        true: (B, M, 3) metres; their numbers may differ.
        threshold: metres: 0.005 for F@5 mm, 0.015 for F@15 mm.

    Raises:
        ValueError: a shape, dtype or device does not fit.

    Example:
        >>> points = torch.rand(1, 100, 3)
        >>> f_score(points + 0.001, points, 0.005)  # all within 5 mm
        tensor([1.])
    """
    expect_floating(predicted, "f_score", "predicted", ("B", "N", 3))
    expect_floating(true, "f_score", "true", (len(predicted), "M", 3))
    expect_same_device("f_score", predicted=predicted, true=true)
    with torch.autocast(true.device.type, enabled=False):
        # The faster way, by a matrix product, is off by tenths of a millimetre in float32.
        distance = torch.cdist(*computable(predicted, true), compute_mode="donot_use_mm_for_euclid_dist")
    near = distance < threshold
    precision = near.any(dim=2).to(distance.dtype).mean(dim=1)
    recall = near.any(dim=1).to(distance.dtype).mean(dim=1)
    total = precision + recall
    score = torch.where(total > 0, 2 * precision * recall / total, 0.0)
    return torch.where(finite_samples(true), score, torch.nan)

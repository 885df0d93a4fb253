"""The percentage of correct keypoints: by the size of the hand's box, and as a curve over distances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from texalign._internal import expect, expect_floating, expect_same_device
from texalign.metrics.pairs import check_among, distances, mean_among, same_shape, within

# Metres: where FreiHAND and HO3D evaluate their curves, 100 steps from 0 to 50 mm.
FREIHAND_THRESHOLDS = tuple(0.05 * step / 99 for step in range(100))


def correct_joints(
    predicted: Tensor, true: Tensor, box_size: Tensor, threshold: float, among: Tensor | None = None
) -> Tensor:
    """(B, J): 1 for joints not farther off than ``threshold * box_size``, 0 for others, NaN where `among` is false.

    Args:
        predicted: (B, J, 2) pixels.
        true: (B, J, 2) pixels.
        box_size: (B,) pixels: the longer side of the hand's box. HaMeR's evaluation on HInt takes the box of the
            annotation, before the network's crop enlarges it (its ``box_size / bbox_expand_factor``).
        threshold: as a share of the box: 0.05, 0.1 or 0.15 on HInt.
        among: (B, J) bool: which joints count. All that are annotated, the visible ones or the occluded ones.
            None: every joint.

    Raises:
        ValueError: a shape, dtype or device does not fit.

    Example:
        >>> true = torch.zeros(1, 2, 2)
        >>> predicted = true + torch.tensor([[3.0, 0.0], [9.0, 0.0]])
        >>> correct_joints(predicted, true, box_size=torch.tensor([100.0]), threshold=0.05)
        tensor([[1., 0.]])
    """
    who = "correct_joints"
    distance = distances(*same_shape(who, predicted, true, ("B", "J", 2)))
    expect_floating(box_size, who, "box_size", (len(distance),))
    expect_same_device(who, predicted=predicted, box_size=box_size)
    correct = within(distance, threshold * box_size[:, None])
    if among is None:
        return correct
    check_among(who, correct, among)
    return torch.where(among, correct, torch.nan)


def pck(predicted: Tensor, true: Tensor, box_size: Tensor, threshold: float, among: Tensor | None = None) -> Tensor:
    """(B,) in [0, 1]: the share of each sample's joints that `correct_joints` finds correct; NaN where none counts.

    HaMeR's number is another mean: over the samples for each joint first, then over the 21 joints. Where samples lack
    joints the two differ. HaMeR's is ``correct_joints(…).nanmean(dim=0).nanmean()``.

    Example:
        >>> true = torch.zeros(1, 2, 2)
        >>> predicted = true + torch.tensor([[3.0, 0.0], [9.0, 0.0]])
        >>> pck(predicted, true, box_size=torch.tensor([100.0]), threshold=0.05)
        tensor([0.5000])
    """
    return correct_joints(predicted, true, box_size, threshold, among).nanmean(dim=1)


def pck_curve(
    predicted: Tensor, true: Tensor, thresholds: Sequence[float] = FREIHAND_THRESHOLDS, among: Tensor | None = None
) -> Tensor:
    """(B, T) in [0, 1]: the share of points not farther off than each threshold.

    Args:
        predicted: (B, N, D).
        true: (B, N, D).
        thresholds: T distances, in the unit of the points.
        among: (B, N) bool: which points count. None: all. NaN for a sample where none does.

    Raises:
        ValueError: a shape, dtype or device does not fit, or no threshold.

    Example:
        >>> true = torch.zeros(1, 21, 3)
        >>> pck_curve(true + torch.tensor([0.01, 0.0, 0.0]), true, thresholds=(0.005, 0.02))
        tensor([[0., 1.]])
    """
    expect(len(thresholds) > 0, "pck_curve", "at least one threshold", len(thresholds))
    distance = distances(*same_shape("pck_curve", predicted, true, ("B", "N", "D")))
    shares = [mean_among("pck_curve", within(distance, each), among) for each in thresholds]
    return torch.stack(shares, dim=1)


def pck_auc(
    predicted: Tensor, true: Tensor, thresholds: Sequence[float] = FREIHAND_THRESHOLDS, among: Tensor | None = None
) -> Tensor:
    """(B,) in [0, 1]: the area under `pck_curve` by the trapezoidal rule, over the range of the thresholds.

    With the thresholds as they are, and every point known in every sample, its mean over samples is the ``auc`` of
    FreiHAND's and HO3D's evaluation.

    Raises:
        ValueError: as in `pck_curve`, or the thresholds do not ascend.

    Example:
        >>> true = torch.zeros(1, 21, 3)
        >>> pck_auc(true + torch.tensor([0.01, 0.0, 0.0]), true, thresholds=(0.0, 0.01, 0.02))
        tensor([0.7500])
    """
    ascend = all(low < high for low, high in pairwise(thresholds))
    expect(len(thresholds) > 1 and ascend, "pck_auc", "two thresholds or more that ascend", list(thresholds))
    curve = pck_curve(predicted, true, thresholds, among)
    places = torch.tensor(thresholds, dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, places, dim=1) / (thresholds[-1] - thresholds[0])

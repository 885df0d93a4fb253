"""How good a hand is, as the field's own evaluation code says it. One value a sample.

What is predicted always comes first. Points are in metres; a name that ends in ``_mm`` or ``_db`` says its unit.
float16 and bfloat16 are computed in float32, whatever autocast says; float64 stays.

No sample stops an evaluation:

- NaN: there was nothing to measure, such as no occluded joint, or a truth that is NaN. Means leave it out:
  ``values.nanmean()``, or ``torchmetrics.MeanMetric(nan_strategy="ignore")`` over batches and processes.
- A prediction that is not finite is not left out: its error is infinite, its score 0. Pixels that are not finite count
  as black.
"""

from __future__ import annotations

from texalign.metrics.correct_points import FREIHAND_THRESHOLDS, correct_joints, pck, pck_auc, pck_curve
from texalign.metrics.masks import boundary_f_score, mask_iou
from texalign.metrics.nearest_points import f_score
from texalign.metrics.points import (
    mpjpe_mm,
    mpvpe_mm,
    pa_mpjpe_mm,
    pa_mpvpe_mm,
    point_error,
    procrustes_aligned,
    root_relative_mpjpe_mm,
    root_relative_mpvpe_mm,
)
from texalign.metrics.psnr import psnr_db

__all__ = [
    "FREIHAND_THRESHOLDS",
    "boundary_f_score",
    "correct_joints",
    "f_score",
    "mask_iou",
    "mpjpe_mm",
    "mpvpe_mm",
    "pa_mpjpe_mm",
    "pa_mpvpe_mm",
    "pck",
    "pck_auc",
    "pck_curve",
    "point_error",
    "procrustes_aligned",
    "psnr_db",
    "root_relative_mpjpe_mm",
    "root_relative_mpvpe_mm",
]

"""Photographs with weak labels; see docs/photographs.md for the folder's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fits.real_refinement import known, noisy_labels
from texalign.photographs import Photographs, read_photographs
from training.order import seeded
from training.samples import Samples

TRAIN, VALIDATE = range(0, 298), range(318, 398)
# Rates are chosen on training frames only; between the two parts as many frames are left out as in the table's split.
# From 281 to 286 the detector is 8 to 14 px off or finds nothing: no network finds the hand there, and what it says
# instead would decide the mean.
TUNE_TRAIN, TUNE_VALIDATE = range(0, 238), (*range(258, 281), *range(287, 298))


def real_samples(folder: Path, frames: Sequence[int], seed: int | None, size: int = 128) -> Samples:
    """Some frames with a detector's keypoints to show, and with noisy labels of a seed or, without one, those too.

    The noise is drawn once for each frame number, whatever frames are asked for: true joints plus 6 px and 10 %
    outliers of 20 px, on frames of 256 pixels.
    """
    photographs = read_photographs(folder, frames, size)
    keypoints = photographs.keypoints if seed is None else frame_labels(photographs, seed)
    mask = (255 * known(photographs.mask)).round().byte()
    return Samples(
        image=(255 * photographs.image).round().byte(),
        mask=mask,
        free=torch.full_like(mask, 255),
        camera=photographs.camera,
        keypoints=keypoints,
        joints=known(photographs.joints),
        detections=photographs.keypoints,
    )


def frame_labels(photographs: Photographs, seed: int) -> Tensor:
    """(B, 21, 2) pixels."""
    rows = torch.arange(len(photographs))
    labels = [noisy_labels(photographs.select(rows[i : i + 1]), seeded(seed, 3, photographs.ids[i])) for i in rows]
    return torch.cat(labels)

"""How far image-only networks are off, photograph by photograph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import texalign as ta
from image_only.examples import SIZE, Examples
from image_only.network import Network, Views
from texalign.metrics import (
    boundary_f_score,
    mask_iou,
    pa_mpjpe_mm,
    pa_mpvpe_mm,
    point_error,
    root_relative_mpjpe_mm,
)
from training.network import Prediction, position

CHUNK = 32
Figures = dict[str, Tensor]


def predictions(network: Network, examples: Examples, views: Views) -> Iterator[tuple[Examples, Prediction]]:
    """Chunk by chunk, of the photographs as they are."""
    for rows in torch.arange(len(examples)).split(CHUNK):
        part = examples.select(rows)
        shown = views.plain(rows)
        with torch.no_grad():
            yield part, network(shown.image, shown.crop, part.camera).prediction


def seen_joints(network: Network, examples: Examples, views: Views) -> Tensor:
    """(N, 21, 2) pixels."""
    return torch.cat([part.camera.project(said.joints) for part, said in predictions(network, examples, views)])


def mean_offset(seen: Tensor, detections: Tensor) -> Tensor:
    """(21, 2): predicted minus detected, in spreads of the upright hand, a matter of definition."""
    _, spread, roll = position(2 * detections / SIZE - 1)
    return ((seen - detections) @ roll / spread[:, None]).mean(dim=0)


def without_offset(seen: Tensor, detections: Tensor, offset: Tensor) -> Tensor:
    """Predicted joints (N, 21, 2) less a `mean_offset`."""
    _, spread, roll = position(2 * detections / SIZE - 1)
    return seen - (offset * spread[:, None]) @ roll.transpose(1, 2)


def errors(network: Network, examples: Examples, views: Views, offset: Tensor) -> Figures:
    """By figure (N,), NaN where there is nothing to measure.

    Args:
        network: trained.
        examples: unseen.
        views: of them.
        offset: of training photographs.
    """
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    parts: list[Figures] = []
    for part, said in predictions(network, examples, views):
        with torch.no_grad():
            coverage = renderer(said.vertices, part.camera, torch.ones(1, 3, 8, 8)).coverage * part.counted
        seen = part.camera.project(said.joints)
        masked = part.mask.isfinite().all(dim=(1, 2, 3))
        mask = part.mask.nan_to_num() * part.counted
        shifted = without_offset(seen, part.detections, offset)
        parts.append(
            {
                "IoU": torch.where(masked, mask_iou(coverage, mask), torch.nan),
                "boundary F": torch.where(masked, boundary_f_score(coverage, mask), torch.nan),
                "2D to the detector, px": point_error(shifted, part.detections),
                "2D joints, px": point_error(seen, part.marks),
                "PA-MPJPE, mm": pa_mpjpe_mm(said.joints, part.joints),
                "MPJPE, mm": root_relative_mpjpe_mm(said.joints, part.joints),
                "PA-MPVPE, mm": pa_mpvpe_mm(said.vertices, part.vertices),
            }
        )
    return {name: torch.cat([figures[name] for figures in parts]) for name in parts[0]}

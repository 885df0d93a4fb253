"""Misplaced synthetic hands, pulled back by 2D keypoints alone and together with the loss.

Part of `python experiments/fits`. Start: the truth with `texalign.hand.disturbed`. Keypoints: the true ones with 2 px
of noise. 50 Adam steps on pose and translation; the shape is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from fits.landscape import Batch, seeded
from fits.stand_ins import mask_difference
from texalign.hand import Hand, KnownShape, disturbed, keypoint_objective, parameters_of_pose, pose_hand, refine
from texalign.metrics import mask_iou, point_error
from texalign.photographs import Photographs

STEPS, RATE, NOISE, KEYPOINT_SCALE = 50, 0.01, 2.0, 8.0
Extra = Callable[[Any], Callable[[Hand], Tensor]]


def with_loss(loss_fn: nn.Module, weight: float, neighbours: int = 1) -> Extra:
    """The loss by sample, as something to add to fits of images or photographs; `neighbours` share a texture."""

    def of(batch: Batch | Photographs) -> Callable[[Hand], Tensor]:
        generator, camera, image = seeded(), batch.camera, batch.image
        group = {} if neighbours == 1 else {"group": torch.arange(len(image)) // neighbours}
        return lambda hand: weight * loss_fn(hand.vertices, camera, image, generator=generator, **group)

    return of


def with_true_silhouette(renderer: ta.TexturedHandRenderer, weight: float = 8.0) -> Extra:
    """Squared difference from the true mask, over its area: what a mask would buy. Occluded pixels do not count."""

    def of(batch: Batch) -> Callable[[Hand], Tensor]:
        free = 1 - batch.occluder_mask

        def silhouette(hand: Hand) -> Tensor:
            coverage = renderer(hand.vertices, batch.camera, torch.ones(1, 3, 8, 8)).coverage
            return weight * mask_difference(coverage, batch.mask, free)

        return silhouette

    return of


def refined(batch: Batch, extra: Extra | None, renderer: ta.TexturedHandRenderer, seed: int) -> dict[str, list[float]]:
    """Errors by image after a refinement; the start and the noise depend on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    model = KnownShape(batch.betas)
    start = disturbed(parameters_of_pose(model, batch.pose, batch.translation), generator)
    true = batch.camera.project(batch.joints)
    keypoints = true + NOISE * torch.randn(true.shape, generator=generator)
    added = None if extra is None else extra(batch)
    objective = keypoint_objective(model, batch.camera, keypoints, KEYPOINT_SCALE, added)
    end = refine(model, start, objective, STEPS, RATE)
    with torch.no_grad():
        hand = pose_hand(model, end)
        coverage = renderer(hand.vertices, batch.camera, torch.ones(1, 3, 8, 8)).coverage
        project = batch.camera.project
        relative, true_relative = (mesh.vertices - mesh.joints[:, :1] for mesh in (hand, batch))
        errors = {
            "root-relative, mm": 1000 * point_error(relative, true_relative),
            "projected, px": point_error(project(hand.vertices), project(batch.vertices)),
            "absolute, mm": 1000 * point_error(hand.vertices, batch.vertices),
            "IoU": mask_iou(coverage * (1 - batch.occluder_mask), batch.mask),
        }
    return {name: values.tolist() for name, values in errors.items()}

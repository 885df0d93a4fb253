"""Fits to real photographs, by noisy 2D labels alone and together with the loss. Part of `python experiments/fits`.

Labels are the true 2D joints plus 3 px of noise at 128 pixels, with 10 % outliers of 10 px, under a robust keypoint
term; or a detector's. The start is the true fit turned by 0.15 rad, of the mean shape, refitted to the labels. Every
variant then takes 80 Adam steps from there. The pseudo mask serves the IoU and the upper bound only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import texalign as ta
from fits.stand_ins import mask_difference, short_of_wrist
from fits.synthetic_refinement import Extra
from texalign.hand import Hand, HandModel, HandParameters, fit_to_joints, keypoint_objective, pose_hand, refine
from texalign.metrics import mask_iou, point_error, procrustes_aligned
from texalign.photographs import Photographs

STEPS, RATE, KEYPOINT_SCALE, SILHOUETTE_WEIGHT = 80, 0.02, 4.0, 8.0
LABEL_NOISE, OUTLIER, OUTLIER_SHARE, POSE_NOISE = 3.0, 10.0, 0.1, 0.15
# Frames that share a texture in the multi-frame variant: neighbours in the video.
NEIGHBOURS = 4
Value = TypeVar("Value")


def noisy_labels(photographs: Photographs, generator: torch.Generator) -> Tensor:
    """(B, 21, 2) pixels."""
    return noisy(known(photographs.joints_image), generator)


def noisy(marks: Tensor, generator: torch.Generator) -> Tensor:
    """Marks (B, 21, 2) with noise and outliers."""
    noise = LABEL_NOISE * torch.randn(marks.shape, generator=generator)
    far = nn.functional.normalize(torch.randn(marks.shape, generator=generator), dim=-1) * OUTLIER
    outlier = torch.rand(marks.shape[:2], generator=generator)[..., None] < OUTLIER_SHARE
    return marks + torch.where(outlier, far, noise)


def turned(fit: HandParameters, generator: torch.Generator) -> HandParameters:
    """The true fit with a wrong pose and the mean shape."""
    axes = torch.tensor([1.0, 0.3, 0.3])
    angles = fit.angles + POSE_NOISE * axes * torch.randn(fit.angles.shape, generator=generator)
    orientation = fit.orientation + POSE_NOISE * torch.randn(fit.orientation.shape, generator=generator)
    return HandParameters(angles, orientation, fit.translation, torch.zeros_like(fit.shape))


def with_pseudo_mask(renderer: ta.TexturedHandRenderer) -> Extra:
    """Squared difference from the pseudo mask, over its area, but beyond the wrist."""

    def of(photographs: Photographs) -> Callable[[Hand], Tensor]:
        mask, camera, size = known(photographs.mask), photographs.camera, photographs.image.shape[-1]

        def silhouette(hand: Hand) -> Tensor:
            coverage = renderer(hand.vertices, camera, torch.ones(1, 3, 8, 8)).coverage
            care = short_of_wrist(renderer.surface, hand.vertices, camera, size)
            return SILHOUETTE_WEIGHT * mask_difference(coverage, mask, care)

        return silhouette

    return of


def starts(photographs: Photographs, true_fit: HandParameters, seed: int | None) -> tuple[Tensor, HandParameters]:
    """Labels (B, 21, 2) and fits to them: noisy true ones, or a detector's if there is no seed."""
    generator = torch.Generator().manual_seed(seed or 0)
    labels = photographs.keypoints if seed is None else noisy_labels(photographs, generator)
    model = HandModel()
    objective = keypoint_objective(model, photographs.camera, labels, KEYPOINT_SCALE)
    return labels, refine(model, turned(true_fit, generator), objective, 200, RATE)


def fitted(photographs: Photographs, labels: Tensor, start: HandParameters, extra: Extra | None) -> HandParameters:
    """80 steps on the labels and what is added."""
    model = HandModel()
    added = None if extra is None else extra(photographs)
    objective = keypoint_objective(model, photographs.camera, labels, KEYPOINT_SCALE, added)
    return refine(model, start, objective, STEPS, RATE)


def errors(photographs: Photographs, fit: HandParameters, renderer: ta.TexturedHandRenderer) -> dict[str, list[float]]:
    """By frame: 2D joint error (px of the 128 px frame), PA-MPJPE, IoU with the pseudo mask."""
    with torch.no_grad():
        hand, true = pose_hand(HandModel(), fit), known(photographs.joints)
        coverage = renderer(hand.vertices, photographs.camera, torch.ones(1, 3, 8, 8)).coverage
        values = {
            "2D joints, px": point_error(photographs.camera.project(hand.joints), known(photographs.joints_image)),
            "PA-MPJPE, mm": 1000 * point_error(procrustes_aligned(hand.joints, true), true),
            "IoU": mask_iou(coverage, known(photographs.mask)),
        }
    return {name: value.tolist() for name, value in values.items()}


def true_fits(photographs: Photographs) -> HandParameters:
    """The bundled hand fitted to the true 3D joints."""
    return fit_to_joints(HandModel(), known(photographs.joints), 300)


def over_seeds(runs: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """By frame, the mean over seeds: seeds of one frame are no independent frames."""
    return {key: torch.tensor([run[key] for run in runs]).mean(dim=0).tolist() for key in runs[0]}


def to_lists(labels: Tensor, fit: HandParameters) -> dict[str, list[Any]]:
    """For a JSON file; `from_lists` undoes it. A missing label (NaN) stays one."""
    return {"labels": labels.tolist(), "fit": [tensor.tolist() for tensor in fit.tensors()]}


def from_lists(content: dict[str, list[Any]]) -> tuple[Tensor, HandParameters]:
    """Labels (B, 21, 2), and the parameters."""
    return torch.tensor(content["labels"]), HandParameters(*(torch.tensor(values) for values in content["fit"]))


def known(value: Value | None) -> Value:
    """What the photographs of this experiment have."""
    assert value is not None, "the folder lacks what this experiment measures against"
    return value

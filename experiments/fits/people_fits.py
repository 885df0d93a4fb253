"""Fits to photographs of many people, by a detector's keypoints alone and with something added. Part of `fits`.

Labels are the detector's keypoints, or the same with noise and outliers. The start is a fit to the labels; every arm
then takes 80 Adam steps from there. What is added is given by the ratio of its gradient to that of the keypoint
objective, both at starts disturbed as a network's predictions are: at the start itself the objective is at its minimum
and has no gradient to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from fits.comparison import change, comparison
from fits.landscape import seeded
from fits.people import People
from fits.real_refinement import KEYPOINT_SCALE, RATE, STEPS, known, noisy, over_seeds
from fits.stand_ins import mask_difference, short_of_wrist
from texalign.hand import (
    Hand,
    HandModel,
    HandParameters,
    disturbed,
    fit_to_keypoints,
    keypoint_objective,
    pose_hand,
    refine,
)
from texalign.metrics import boundary_f_score, mask_iou, pa_mpjpe_mm, point_error, root_relative_mpjpe_mm

CHUNK = 16
# From photographs to what is added to a fit of them, (B,) of a posed hand.
Term = Callable[[People], Callable[[Hand], Tensor]]
# Loss of IoU that counts as worse: less is the noise of a fit.
WORSE = 0.005
BASE = "labels only"
Errors = dict[str, list[float]]


def texture_term(loss_fn: nn.Module) -> Term:
    """A loss by sample on the photographs' pixels."""

    def of(people: People) -> Callable[[Hand], Tensor]:
        generator, camera, image = seeded(), people.photographs.camera, people.photographs.image
        return lambda hand: loss_fn(hand.vertices, camera, image, valid=people.valid, generator=generator)

    return of


def mask_term(renderer: ta.TexturedHandRenderer) -> Term:
    """Squared difference from the mask over its area, but beyond the mesh's wrist and outside the photograph."""

    def of(people: People) -> Callable[[Hand], Tensor]:
        camera, mask = people.photographs.camera, people.mask

        def silhouette(hand: Hand) -> Tensor:
            coverage = renderer(hand.vertices, camera, torch.ones(1, 3, 8, 8)).coverage
            counted = short_of_wrist(renderer.surface, hand.vertices, camera, renderer.height)
            return mask_difference(coverage, mask, counted if people.valid is None else counted * people.valid)

        return silhouette

    return of


def labels_of(people: People, seed: int | None) -> Tensor:
    """(B, 21, 2): the detector's keypoints, with noise of a seed or without."""
    marks = people.photographs.keypoints
    return marks if seed is None else noisy(marks, torch.Generator().manual_seed(seed))


def start_of(people: People, labels: Tensor) -> HandParameters:
    """The bundled hand fitted to labels, without a start."""
    return fit_to_keypoints(HandModel(), people.photographs.camera, labels, KEYPOINT_SCALE)


def weight_at_one(people: People, labels: Tensor, start: HandParameters, term: Term) -> float:
    """The weight at which what is added has as large a gradient as the keypoint objective, at disturbed starts."""
    model = HandModel()
    parameters = disturbed(start, seeded()).clone()
    hand = pose_hand(model, parameters)
    others = keypoint_objective(model, people.photographs.camera, labels, KEYPOINT_SCALE)(parameters, hand)
    at = (parameters.angles, parameters.orientation, parameters.translation)
    return ta.balanced_weight(term(people)(hand), others, at, ratio=1.0).item()


def fitted(people: People, labels: Tensor, start: HandParameters, term: Term | None, weight: float) -> HandParameters:
    """80 steps on the labels and `weight` times what is added."""
    model = HandModel()
    added = None if term is None else term(people)
    extra = None if added is None else (lambda hand: weight * added(hand))
    objective = keypoint_objective(model, people.photographs.camera, labels, KEYPOINT_SCALE, extra)
    return refine(model, start, objective, STEPS, RATE)


def errors(people: People, fit: HandParameters, renderer: ta.TexturedHandRenderer) -> Errors:
    """`hand_errors` of the bundled hand."""
    with torch.no_grad():
        return hand_errors(people, pose_hand(HandModel(), fit), renderer)


@torch.no_grad()
def hand_errors(people: People, hand: Hand, renderer: ta.TexturedHandRenderer) -> Errors:
    """By photograph. IoU and outline where masks are compared; pixels of the 128 px image."""
    photographs = people.photographs
    camera, mask = photographs.camera, people.mask * people.counted
    coverage = torch.cat(
        [
            renderer(hand.vertices[rows], camera[rows], torch.ones(1, 3, 8, 8)).coverage
            for rows in torch.arange(len(people)).split(CHUNK)
        ]
    )
    coverage = coverage * people.counted
    seen = camera.project(hand.joints)
    # A detector's joints and the mesh's are defined differently.
    offset = (seen - photographs.keypoints).mean(dim=0)
    values = {
        "IoU": mask_iou(coverage, mask),
        "boundary F": boundary_f_score(coverage, mask),
        "to the detector's joints, px": point_error(seen - offset, photographs.keypoints),
    }
    if photographs.joints is not None:
        values["2D joints, px"] = point_error(seen, known(photographs.joints_image))
        values["PA-MPJPE, mm"] = pa_mpjpe_mm(hand.joints, photographs.joints)
        values["root-relative MPJPE, mm"] = root_relative_mpjpe_mm(hand.joints, photographs.joints)
    return {name: value.tolist() for name, value in values.items()}


def arm_table(
    runs: Sequence[dict[str, Errors]], weights: Sequence[dict[str, float]], people: People
) -> list[dict[str, Any]]:
    """A row for each arm: its weight, means, changes, and how many fits are worse than by the labels alone.

    Args:
        runs: errors by arm, for each seed of the labels' noise; of a photograph the mean over them counts.
        weights: by arm, for each seed.
        people: of all runs.
    """
    rows = comparison({arm: over_seeds([run[arm] for run in runs]) for arm in runs[0]}, BASE, people.person)
    base = torch.tensor([run[BASE]["IoU"] for run in runs])
    for row in rows:
        arm = row["variant"]
        row["weight"] = sum(weight[arm] for weight in weights) / len(weights)
        row["worse in IoU"] = worse_share(torch.tensor([run[arm]["IoU"] for run in runs]), base)
    return rows


def worse_share(iou: Tensor, base: Tensor) -> float:
    """The share of fits whose IoU is lower than the base's by more than a fit's noise."""
    return (iou < base - WORSE).float().mean().item()


def skin_table(results: dict[str, Errors], arm: str, people: People) -> list[dict[str, Any]]:
    """The change of IoU in thirds of the photographs, from the lightest skin to the darkest."""
    light = people.luminance()
    mine, base = (torch.tensor(results[name]["IoU"]) for name in (arm, BASE))
    rows = []
    for name, index in zip(("light", "middle", "dark"), light.argsort(descending=True).tensor_split(3)):
        rows.append(
            {
                "skin": name,
                "median luminance": light[index].median().item(),
                "n": len(index),
                "people": len(people.person[index].unique()),
                "IoU": base[index].mean().item(),
                "IoU change": change("IoU", mine[index], base[index], people.person[index]),
                "worse in IoU": worse_share(mine[index], base[index]),
            }
        )
    return rows

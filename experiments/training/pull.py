"""Where the terms pull: at a trained network's own predictions, on augmented training images, against the way home.

A loss that is lower at the truth may still train badly: what a network feels is its gradient, at hands that are off as
the network's are. Home is the difference between the true mesh and the predicted one, in the image. Where vertices are
not known, the true mesh is the bundled hand fitted to the true joints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fits.stand_ins import MeanColour
from texalign.hand import HandModel, fit_to_joints, pose_hand
from texalign.metrics import point_error
from training.arms import TEXTURE, Term, make_term
from training.augmentation import augmented
from training.commands import usable_arms
from training.network import HandNetwork, Prediction
from training.order import seeded
from training.samples import Batch, Samples, as_they_are
from training.settings import Settings

AT_ONCE = 20
# Pixels of 128: hands that are farther off are not counted.
NEAR = 14.0


class Field(NamedTuple):
    """A displacement of vertices in the image, taken apart: (B, 2), (B,), (B,), (B, V, 2).

    Attributes:
        translation: mean over the vertices.
        size: growth about the middle, by length.
        turn: about the middle.
        rest: what remains, in which fingers bend.
    """

    translation: Tensor
    size: Tensor
    turn: Tensor
    rest: Tensor


def apart(displacement: Tensor, pixels: Tensor) -> Field:
    """The parts of displacements (B, V, 2) of vertices at `pixels` (B, V, 2), by least squares."""
    middle = pixels - pixels.mean(dim=1, keepdim=True)
    across = torch.stack([-middle[..., 1], middle[..., 0]], dim=-1)
    extent = middle.square().sum(dim=(1, 2))
    translation = displacement.mean(dim=1)
    rest = displacement - translation[:, None]
    size, turn = ((rest * direction).sum(dim=(1, 2)) / extent for direction in (middle, across))
    rest = rest - size[:, None, None] * middle - turn[:, None, None] * across
    return Field(translation, size, turn, rest)


def agreement(step: Tensor, home: Tensor, pixels: Tensor) -> dict[str, Tensor]:
    """Of steps (B, V, 2) with the way home (B, V, 2): (B,) each; cosines, and 0 or 1 for size and turn."""
    mine, true = apart(step, pixels), apart(home, pixels)

    def cosine(first: Tensor, second: Tensor) -> Tensor:
        return functional.cosine_similarity(first.flatten(1), second.flatten(1), dim=1)

    return {
        "all": cosine(step, home),
        "translation": cosine(mine.translation, true.translation),
        "size the right way": (mine.size * true.size > 0).to(step.dtype),
        "turn the right way": (mine.turn * true.turn > 0).to(step.dtype),
        "rest": cosine(mine.rest, true.rest),
    }


def with_true_vertices(batch: Batch) -> Batch:
    """The same, vertices known."""
    if batch.vertices is not None:
        return batch
    model = HandModel().to(batch.joints.device)
    return replace(batch, vertices=pose_hand(model, fit_to_joints(model, batch.joints, 300)).vertices)


def terms_of(settings: Settings, priors: dict[str, nn.Module], device: torch.device) -> dict[str, Term]:
    """What is compared, all at weight 1 but the mask, which has the arm's."""
    settings = replace(settings, texture_weight=1.0, plain_weight=1.0)
    made = {arm: make_term(arm, settings, priors, device) for arm in usable_arms(priors)}
    made[f"{TEXTURE}, mean colour for a prior"] = make_term(TEXTURE, settings, {"bundled": MeanColour()}, device)
    return {name: term for name, term in made.items() if term is not None}


def pull(term: Term, prediction: Prediction, batch: Batch) -> Tensor:
    """(B, V, 3): the step that each hand's vertices feel, whether or not its keypoints are within reach."""
    steps, device = [], batch.image.device
    # Labels at the predicted joints: nothing is out of reach.
    batch = replace(batch, keypoints=batch.camera.project(prediction.joints))
    for rows in torch.arange(len(batch), device=device).split(AT_ONCE):
        vertices = prediction.vertices[rows].detach().requires_grad_()
        generator = torch.Generator(device=device).manual_seed(seeded(0).initial_seed())
        shown = prediction._replace(vertices=vertices, joints=prediction.joints[rows])
        value = term(shown, batch.select(rows), generator)
        steps.append(-len(rows) * torch.autograd.grad(value, vertices)[0])
    return torch.cat(steps)


def every_other_group(count: int, neighbours: int, most: int) -> Tensor:
    """Rows of whole groups of neighbours, spread over `count` samples, `most` at the most."""
    groups = torch.arange(count // neighbours * neighbours).reshape(-1, neighbours)
    return groups[:: max(2, -(-len(groups) * neighbours // most))].flatten()


def pull_table(
    network: HandNetwork, samples: Samples, settings: Settings, priors: dict[str, nn.Module], draws: int = 2
) -> list[dict[str, Any]]:
    """A row for each term: means over hands within `NEAR`, `draws` augmentations of every image.

    Args:
        network: trained on these samples.
        samples: whole groups of neighbours.
        settings: of the run.
        priors: see `make_term`.
        draws: of the augmentation.
    """
    neighbours = settings.neighbours
    batch = with_true_vertices(as_they_are(samples))
    batch = replace(batch, group=torch.arange(len(batch), device=batch.image.device) // neighbours)
    found: dict[str, list[dict[str, Tensor]]] = {}
    terms = terms_of(settings, priors, samples.image.device)
    for draw in range(draws):
        seen = augmented(batch, neighbours, seeded(0, 4, draw))
        assert seen.vertices is not None
        with torch.no_grad():
            prediction = network(seen.image, seen.camera, seen.detections)
        pixels = seen.camera.project(prediction.vertices)
        home = seen.camera.project(seen.vertices) - pixels
        off = point_error(seen.camera.project(prediction.joints), seen.camera.project(seen.joints))
        near = off < NEAR * settings.image_size / 128
        for name, term in terms.items():
            step = pull(term, prediction, seen)
            # Seen from so far away a step aside is one in the image.
            figures = agreement(step[..., :2], home, pixels)
            figures["strength, per metre"] = step.flatten(1).norm(dim=1)
            found.setdefault(name, []).append({key: value[near] for key, value in figures.items()})
    rows = []
    for name, parts in found.items():
        values = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        rows.append({"term": name, "hands": len(values["all"]), **{k: float(v.mean()) for k, v in values.items()}})
    return rows

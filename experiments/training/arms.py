"""What the networks learn from. Every arm has keypoints and anatomy; most add a term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import texalign as ta
from fits.stand_ins import PlainDifference, mask_difference, short_of_wrist
from texalign.hand import KEYPOINT_WEIGHT, HandModel, anatomy_loss, keypoint_loss
from training.network import Prediction
from training.samples import Batch
from training.settings import Settings

WEAK = "weak labels"
TEXTURE = "+ texture loss"
FINE_TUNED = "+ texture loss, fine-tuned prior"
GROUPED = "+ texture loss, shared textures"
PLAIN = "+ plain difference"
SILHOUETTE = "+ mask"
FULL = "full 3D labels"
FINE_TUNED_GROUPED = "+ texture loss, fine-tuned prior, shared textures"
ARMS = (WEAK, TEXTURE, FINE_TUNED, GROUPED, FINE_TUNED_GROUPED, PLAIN, SILHOUETTE, FULL)
# Those that need the prior trained on the photographs.
OF_FINE_TUNED_PRIOR = (FINE_TUNED, FINE_TUNED_GROUPED)
# The arm's own weight among the settings.
WEIGHTS = {
    TEXTURE: "texture_weight",
    FINE_TUNED: "texture_weight",
    GROUPED: "texture_weight",
    FINE_TUNED_GROUPED: "texture_weight",
    PLAIN: "plain_weight",
    SILHOUETTE: "silhouette_weight",
    FULL: "space_weight",
}
MAP_WEIGHT = 4.0
# A share of the image's side: hands whose keypoints are farther from their labels, in the median, are no longer, or not
# yet, within a finger's width, and the texture term leaves them to the labels.
REACH = 1 / 16
# Metres: an error that counts one.
SPACE_UNIT = 0.02

# By sample (B,), or a mean over those that count.
Term = Callable[[Prediction, Batch, torch.Generator], Tensor]


def labels_of(arm: str) -> str:
    """The arm whose first stage it shares."""
    return FULL if arm == FULL else WEAK


def settings_of(arm: str, settings: Settings) -> Settings:
    """Without the other arms' weights: those who change one need not train the other arms again."""
    mine = {WEIGHTS.get(arm), WEIGHTS[FULL] if settings.rehearsed else None}
    others: dict[str, Any] = {weight: 0.0 for weight in WEIGHTS.values() if weight not in mine}
    return replace(settings, **others)


def with_true_keypoints(batch: Batch) -> Batch:
    """Keypoints without noise."""
    return replace(batch, keypoints=batch.camera.project(batch.joints))


def label_objective(
    model: HandModel, prediction: Prediction, batch: Batch, scale: float, settings: Settings, full: bool
) -> Tensor:
    """A scalar: the robust keypoint term and anatomy, as in the fits; with full labels also true points in space.

    The points are relative to the wrist: true keypoints say where it is in the image, and how large the hand looks.
    """
    seen = with_true_keypoints(batch) if full else batch
    value = KEYPOINT_WEIGHT * keypoint_loss(prediction.joints, seen.camera, seen.keypoints, scale)
    value = value + anatomy_loss(model, prediction.parameters)
    value = value + MAP_WEIGHT * map_loss(prediction.maps, seen.keypoints, seen.image.shape[-1])
    if full:
        value = value + settings.space_weight * space_error(prediction, batch)
    return value.mean()


def map_loss(maps: Tensor, keypoints: Tensor, image_size: int) -> Tensor:
    """(B,): cross-entropy of maps (B, 21, H, W), logits, with the cells around the keypoints (B, 21, 2), pixels.

    The four cells around a keypoint share it as in bilinear interpolation. One outside the image does not count.
    """
    height, width = maps.shape[2:]
    cell = keypoints / image_size * keypoints.new_tensor([width, height])
    known = (torch.isfinite(cell) & (cell >= 0) & (cell < cell.new_tensor([width, height]))).all(dim=-1)
    cell = torch.where(known[..., None], cell, 1.0)
    grid = (2 * cell / cell.new_tensor([width, height]) - 1).flatten(0, 1)[:, None, None]
    costs = -maps.flatten(2).log_softmax(dim=2).unflatten(2, (height, width))
    # Reading the costs at the keypoint is the same as sharing it among the cells.
    read = functional.grid_sample(costs.flatten(0, 1)[:, None], grid, padding_mode="border", align_corners=False)
    return (read.reshape(known.shape) * known).mean(dim=1)


def space_error(prediction: Prediction, batch: Batch) -> Tensor:
    """(B,) mean distance of joints, and of vertices if they are known, relative to the wrist, in `SPACE_UNIT`."""
    wrist, true_wrist = prediction.joints[:, :1], batch.joints[:, :1]
    pairs = [(prediction.joints, batch.joints)]
    if batch.vertices is not None:
        pairs.append((prediction.vertices, batch.vertices))
    errors = [((mine - wrist) - (true - true_wrist)).square().sum(dim=-1).add(1e-8).sqrt() for mine, true in pairs]
    return torch.stack([error.mean(dim=1) for error in errors]).mean(dim=0) / SPACE_UNIT


def make_term(arm: str, settings: Settings, priors: dict[str, nn.Module], device: torch.device) -> Term | None:
    """What the arm adds to its labels in the second stage, already weighted.

    Args:
        arm: one of `ARMS`.
        settings: of the run.
        priors: "bundled" and, for its arms, "fine-tuned".
        device: where.

    Raises:
        ValueError: an unknown arm, or a prior that is missing.
    """
    if arm not in ARMS:
        raise ValueError(f"make_term: expected one of {', '.join(ARMS)}, got {arm!r}")
    if arm in (WEAK, FULL):
        return None
    surface = ta.HandSurface.mano().to(device)
    renderer = ta.TexturedHandRenderer(surface, settings.loss_size)
    if arm == SILHOUETTE:
        return silhouette_term(renderer, settings.silhouette_weight)
    name = "fine-tuned" if arm in OF_FINE_TUNED_PRIOR else "bundled"
    if name not in priors:
        raise ValueError(f"make_term: expected a {name} prior for {arm!r}, got {', '.join(priors) or 'none'}")
    if arm == PLAIN:
        return plain_term(PlainDifference(renderer, priors[name]), settings.plain_weight)
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, priors[name], settings.token_count, reduction="none")
    return texture_term(loss_fn, settings.texture_weight, grouped=arm in (GROUPED, FINE_TUNED_GROUPED))


def texture_term(loss_fn: ta.DenseTextureAlignmentLoss, weight: float, grouped: bool) -> Term:
    """The loss without a mask, for hands within `REACH`. Padding is told, and what the augmentation pasted over."""
    size = loss_fn.renderer.height

    def term(prediction: Prediction, batch: Batch, generator: torch.Generator) -> Tensor:
        camera, (image, valid) = at_size(size, batch.camera, batch.image, batch.valid)
        group = batch.group if grouped else None
        valid = (valid > 0.99).to(image.dtype)
        values: Tensor = loss_fn(prediction.vertices, camera, image, None, valid, group=group, generator=generator)
        return weight * (values * within_reach(prediction, batch)).mean()

    return term


def within_reach(prediction: Prediction, batch: Batch) -> Tensor:
    """(B,): 1 where the median distance of keypoints from their labels is no more than `REACH`, else 0."""
    with torch.no_grad():
        distance = (batch.camera.project(prediction.joints) - batch.keypoints).norm(dim=-1)
        median = torch.where(distance.isfinite(), distance, torch.nan).nanmedian(dim=1).values
        return (median <= REACH * batch.image.shape[-1]).to(batch.image.dtype)


def plain_term(difference: PlainDifference, weight: float) -> Term:
    """The plain reading of the idea: mean absolute difference over the covered pixels."""
    size = difference.renderer.height

    def term(prediction: Prediction, batch: Batch, generator: torch.Generator) -> Tensor:
        camera, (image,) = at_size(size, batch.camera, batch.image)
        value: Tensor = difference(prediction.vertices, camera, image, generator)
        return weight * value.mean()

    return term


def silhouette_term(renderer: ta.TexturedHandRenderer, weight: float) -> Term:
    """Squared difference from the mask over its area: what an annotation of masks would buy.

    Pixels beyond the wrist, under occluders and under padding do not count.
    """
    size = renderer.height

    def term(prediction: Prediction, batch: Batch, generator: torch.Generator) -> Tensor:
        camera, (mask, free) = at_size(size, batch.camera, batch.mask, batch.free)
        white = torch.ones(1, 3, 8, 8, device=mask.device)
        coverage = renderer(prediction.vertices, camera, white).coverage
        care = free * short_of_wrist(renderer.surface, prediction.vertices, camera, size)
        return weight * mask_difference(coverage, mask, care).mean()

    return term


def at_size(size: int, camera: ta.PinholeCamera, *images: Tensor) -> tuple[ta.PinholeCamera, list[Tensor]]:
    """Camera and images resized by area."""
    scale = size / images[0].shape[-1]
    corner = camera.focal.new_zeros(2)
    resized = [functional.interpolate(image, size=size, mode="area") for image in images]
    return camera.cropped(corner, camera.focal.new_tensor(scale)), resized

"""The demo's two fits from one start: by keypoints alone, and by keypoints and texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign.hand import Hand, HandModel, HandParameters, disturbed, keypoint_objective, pose_hand, refine
from texalign.loss import DenseTextureAlignmentLoss, balanced_weight
from texalign.photographs import Photographs
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface

START, ALONE, TOGETHER = "start", "keypoints only", "keypoints + texture"
# Of the gradients of loss and keypoints, as in experiments/fits: a fit bears more than a training.
RATIO = 1.0
RATE = 0.02
# A share of the image's side: 8 px at 128, at which a keypoint's gradient begins to fall.
KEYPOINT_SCALE = 1 / 16
# Hands whose way is kept for the animation.
MOVING = 4


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two refinements from one start.

    Attributes:
        hands: B hands by the names `START`, `ALONE` and `TOGETHER`.
        weight: of the loss beside the keypoints, measured by `balanced_weight`.
        tracks: of the first `MOVING` hands, their vertices before every step and at the end, by `ALONE` and `TOGETHER`.
        loss: that was added in `TOGETHER`, with ``reduction="none"``.
    """

    hands: dict[str, Hand]
    weight: float
    tracks: dict[str, list[Tensor]]
    loss: DenseTextureAlignmentLoss


def align(
    model: HandModel,
    hands: Photographs,
    start: HandParameters,
    steps: int,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Alignment:
    """Refine the start twice: with keypoints only, and with `DenseTextureAlignmentLoss` and the bundled prior as well.

    Args:
        model: the hand, or `KnownShape`.
        hands: B right hands.
        start: of B hands.
        steps: of each refinement.
        seed: of the loss's draws.
        tick: called before every step with the loss; those with keypoints only take no time.
    """
    size = hands.image.shape[-1]
    surface = HandSurface.mano()
    renderer = TexturedHandRenderer(surface, size)
    loss = DenseTextureAlignmentLoss(renderer, UVTextureEncoder.from_pretrained(surface=surface), reduction="none")
    draws = torch.Generator().manual_seed(seed)
    keypoints = keypoint_objective(model, hands.camera, hands.keypoints, KEYPOINT_SCALE * size)

    def texture(hand: Hand) -> Tensor:
        value: Tensor = loss(hand.vertices, hands.camera, hands.image, generator=draws)
        return value

    # At a fit's own minimum keypoints have no gradient to compare with: the weight is measured beside it.
    beside = disturbed(start, draws).clone()
    hand = pose_hand(model, beside)
    weight = balanced_weight(texture(hand), keypoints(beside, hand), beside.tensors()[:3], RATIO)

    def together(parameters: HandParameters, hand: Hand) -> Tensor:
        tick()
        return keypoints(parameters, hand) + weight * texture(hand)

    with torch.no_grad():
        posed = {START: pose_hand(model, start)}
    tracks: dict[str, list[Tensor]] = {ALONE: [], TOGETHER: []}
    for name, objective in ((ALONE, keypoints), (TOGETHER, together)):
        track = tracks[name]

        def watch(step: int, parameters: HandParameters, hand: Hand, track: list[Tensor] = track) -> None:
            track.append(hand.vertices[:MOVING].detach())

        end = refine(model, start, objective, steps, RATE, watch)
        with torch.no_grad():
            posed[name] = pose_hand(model, end)
        track.append(posed[name].vertices[:MOVING])
    return Alignment(posed, weight.item(), tracks, loss)

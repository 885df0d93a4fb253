"""Laying hands over the photographs they were cut out of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from texalign._internal import dilate
from texalign.camera import PinholeCamera
from texalign.cli.align_crops import HandCrop
from texalign.hand import (
    Hand,
    HandModel,
    HandParameters,
    fit_to_joints,
    fit_to_keypoints,
    keypoint_objective,
    pose_hand,
    refine,
)
from texalign.loss import DenseTextureAlignmentLoss, LossDetails, beyond_wrist
from texalign.metrics import mask_iou

# Shares of the image's side: scales of the robust keypoint loss, for the fit to keypoints and beside the texture loss.
_START_SCALE, _SCALE = 0.03, 1 / 16
# The loss's weight beside that of the keypoints.
TEXTURE_WEIGHT = 4.0
# Every so many steps it is looked again where a photograph's other hands are; they reach so much further, of the side.
_LOOK, _REACH = 10, 1 / 32


@dataclass(frozen=True, eq=False)
class AlignedHands:
    """B hands at the start and at the end of a fit.

    Attributes:
        parameters: of the fitted right hands, or mirrored left ones.
        hands: posed at the start, a fit to keypoints, and at the end; before the crops' cameras.
        details: what the loss saw at the start and at the end.
        agreement: (2, B) the mean evidence for the hand, at the start and at the end.
        iou: (2, B) of the outline and the mask, up to the wrist; NaN where there is no mask.
        distances: (2, B) pixels of the photographs, the mean from joints to known keypoints.
        seconds: for all of them.
    """

    parameters: HandParameters
    hands: tuple[Hand, Hand]
    details: tuple[LossDetails, LossDetails]
    agreement: Tensor
    iou: Tensor
    distances: Tensor
    seconds: float


def align_hands(
    crops: Sequence[HandCrop],
    photographs: Sequence[int],
    steps: int,
    loss: DenseTextureAlignmentLoss,
    same_hand: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> AlignedHands:
    """Fit the bundled hand to keypoints or predicted joints, then to keypoints and texture.

    Args:
        crops: B hands.
        photographs: the number of the photograph that each was cut out of. Hands of one photograph may hide each other.
        steps: of the second fit.
        loss: with ``reduction="none"`` and the crops' image size.
        same_hand: all hands of a side share one texture.
        tick: called before every step.
    """
    began = time.perf_counter()
    model, size = HandModel(), crops[0].image.shape[-1]
    camera = PinholeCamera(
        torch.cat([crop.camera.focal for crop in crops]), torch.cat([crop.camera.principal for crop in crops])
    )
    image, keypoints, valid = (
        torch.stack([getattr(crop, name) for crop in crops]) for name in ("image", "keypoints", "valid")
    )
    group = torch.tensor([int(crop.is_right) for crop in crops]) if same_hand else None
    draws = torch.Generator().manual_seed(0)
    predicted = [crop.joints for crop in crops if crop.joints is not None]
    if predicted:  # of all hands, or of none
        start = fit_to_joints(model, torch.stack(predicted))
    else:
        start = fit_to_keypoints(model, camera, keypoints, _START_SCALE * size)
    clear, step = valid, 0

    def texture(hand: Hand) -> Tensor:
        nonlocal clear, step
        if step % _LOOK == 0:
            clear = valid * (1 - others(hand.vertices.detach(), camera, crops, photographs, loss))
        step += 1
        value: Tensor = loss(hand.vertices, camera, image, valid=clear, group=group, generator=draws)
        return TEXTURE_WEIGHT * value

    objective = keypoint_objective(model, camera, keypoints, _SCALE * size, texture)
    end = refine(model, start, objective, steps, progress=lambda *_: tick())
    with torch.no_grad():
        hands = pose_hand(model, start), pose_hand(model, end)
        # Both are judged by the same pixels.
        clear = valid * (1 - others(hands[1].vertices, camera, crops, photographs, loss))
        seen = []
        for hand in hands:
            draws.manual_seed(0)
            options = {"group": group, "generator": draws}
            seen.append(loss(hand.vertices, camera, image, valid=clear, return_details=True, **options)[1])  # type: ignore[call-overload]
        scale = torch.tensor([crop.scale for crop in crops])
        gaps = [(camera.project(hand.joints) - keypoints).norm(dim=-1).nanmean(dim=1) / scale for hand in hands]
        overlap = [_overlap(hand, details, camera, crops, loss) for hand, details in zip(hands, seen)]
    return AlignedHands(
        parameters=end,
        hands=hands,
        details=(seen[0], seen[1]),
        agreement=-torch.stack([details.per_sample for details in seen]),
        iou=torch.stack(overlap),
        distances=torch.stack(gaps),
        seconds=time.perf_counter() - began,
    )


def others(
    vertices: Tensor,
    camera: PinholeCamera,
    crops: Sequence[HandCrop],
    photographs: Sequence[int],
    loss: DenseTextureAlignmentLoss,
) -> Tensor:
    """(B, 1, S, S): 1 where a hand's photograph shows, or may show, another of its hands.

    Such a pixel is skin, but not this hand's; which of two hands lies in front, meshes at guessed distances do not say.
    """
    size = crops[0].image.shape[-1]
    shown = vertices.new_zeros(len(crops), 1, size, size)
    pairs = [
        (one, other)
        for one in range(len(crops))
        for other in range(len(crops))
        if one != other and photographs[one] == photographs[other]
    ]
    if not pairs:
        return shown
    rows = torch.tensor([one for one, _ in pairs])
    meshes = torch.stack([crops[one].in_space(crops[other].in_space(vertices[other])) for one, other in pairs])
    coverage = loss.renderer(meshes, camera[rows], vertices.new_ones(1, 3, 1, 1)).coverage
    near = dilate((coverage > 0.5).to(shown), max(1, round(_REACH * size)))
    return shown.index_add(0, rows, near).clamp(max=1)


def _overlap(
    hand: Hand,
    details: LossDetails,
    camera: PinholeCamera,
    crops: Sequence[HandCrop],
    loss: DenseTextureAlignmentLoss,
) -> Tensor:
    size = crops[0].image.shape[-1]
    known = torch.tensor([crop.mask is not None for crop in crops])
    masks = torch.stack([torch.zeros(1, size, size) if crop.mask is None else crop.mask for crop in crops])
    points = camera.project(hand.vertices)
    before_wrist = 1 - beyond_wrist(points[:, loss.wrist], points.mean(dim=1), size, size)
    return torch.where(known, mask_iou(details.coverage * before_wrist, masks * before_wrist), torch.nan)

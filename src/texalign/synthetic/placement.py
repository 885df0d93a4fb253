from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from texalign._internal import Draws, computes_constants, per_sample
from texalign.camera import PinholeCamera
from texalign.hand import FINGERS_UP, HandModel, rotation_vectors, sample_pose, turned_leaned_rolled

VIEWS = ("palm", "back", "side", "fist")


class Placed(NamedTuple):
    """Hands in front of their cameras."""

    pose: Tensor
    betas: Tensor
    translation: Tensor
    vertices: Tensor
    joints: Tensor
    camera: PinholeCamera


def _draw_poses(draws: Draws, gestures: bool) -> Tensor:
    """(B, 16, 3): a quarter fists; of the others, two in five take every finger from one of two poses."""
    count, source = draws.count, draws.generator
    kind = "gesture" if gestures else None
    first, second, fists = (sample_pose(count, source, kind=each).to(draws.device) for each in (kind, kind, "fist"))
    finger = first.new_tensor([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]).long()
    swapped = (draws.chance(0.5, 6) * draws.chance(0.4, 1))[:, finger, None]
    view = draws.equal_shares(len(VIEWS))
    pose = torch.where(swapped > 0, second, first)
    pose = torch.where(per_sample(view == VIEWS.index("fist"), 3), fists, pose)
    pose[:, 0] = rotation_vectors(_orientation(draws, view))
    return pose


def _orientation(draws: Draws, view: Tensor) -> Tensor:
    """Global orientations (B, 3, 3) that show the side of the hand a view (B,) asks for, fingers up or anyhow."""
    side = torch.pi / 2 * (1 - 2 * draws.chance(0.5))
    middle = torch.stack([torch.zeros_like(side), torch.full_like(side, torch.pi), side, 2 * side], dim=1)
    spread = side.new_tensor([45.0, 45.0, 40.0, 180.0])[view] * (torch.pi / 180)
    around = middle.gather(1, view[:, None])[:, 0] + spread * draws.uniform(low=-1.0, high=1.0)
    lean = 0.5 * draws.normal().clamp(-2.5, 2.5)
    upright = draws.chance(0.65)
    roll = upright * 0.5 * draws.normal() + (1 - upright) * draws.uniform(low=-torch.pi, high=torch.pi)
    return turned_leaned_rolled(around, lean, roll) @ around.new_tensor(FINGERS_UP)


def place_hands(draws: Draws, person: Draws, size: int, gestures: bool) -> Placed:
    """Hands that fill 40 to 100 % of the image, from arm's length to the far cameras of HaMeR, some partly outside."""
    pose = _draw_poses(draws, gestures)
    betas = person.normal(10).clamp(-2, 2)
    hand = _hand_model(draws.device)(pose, betas)
    low, high = hand.vertices.amin(dim=1), hand.vertices.amax(dim=1)
    far = draws.chance(0.35)
    depth = torch.where(far > 0, draws.log_uniform(low=3.0, high=60.0), draws.log_uniform(low=0.24, high=1.2))
    extent = (high - low)[:, :2].amax(dim=1)
    fill = 0.40 + 0.60 * draws.uniform() ** 0.6
    focal = (fill * size * depth / extent)[:, None].expand(-1, 2)
    # The crop of a hand beside the middle of a photograph is looked at aslant.
    slant = 0.22 * draws.normal(2).clamp(-2, 2) * draws.chance(0.6, 1) * (1 - far)[:, None]
    principal = size / 2 - slant * focal
    room = (1 - fill) / 2 + 0.28 * draws.chance(0.2)
    target = size * (0.5 + room[:, None] * draws.uniform(2, low=-1.0, high=1.0))
    centre = torch.cat([(target - principal) / focal, torch.ones_like(fill)[:, None]], dim=1) * depth[:, None]
    translation = centre - (low + high) / 2
    camera = PinholeCamera(focal.contiguous(), principal)
    shift = translation[:, None]
    return Placed(pose, betas, translation, hand.vertices + shift, hand.joints + shift, camera)


@lru_cache(maxsize=4)
@computes_constants
def _hand_model(device: torch.device) -> HandModel:
    return HandModel().to(device)

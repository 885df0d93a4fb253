"""Linear blend skinning of a hand: a wrist and five chains of three joints."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign.hand.rotations import rotation_matrices


def bones(rest_joints: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (B, 16, 3, 3), places (B, 16, 3) and shifts (B, 16, 3) of joints, from joints (B, 16, 3) at rest.

    A rest point p of one bone goes to rotation @ p + shift.

    The five fingers' joints follow each other in `texalign.hand.PARENTS`, so all fingers go joint by joint together.
    """
    fingers, turns = rest_joints[:, 1:].unflatten(1, (5, 3)), rotations[:, 1:].unflatten(1, (5, 3))
    turn, place, parent = rotations[:, :1].expand(-1, 5, -1, -1), rest_joints[:, :1], rest_joints[:, :1]
    turned, placed = [], []
    for joint in range(3):
        place = place + (turn @ (fingers[:, :, joint] - parent)[..., None]).squeeze(-1)
        turn, parent = turn @ turns[:, :, joint], fingers[:, :, joint]
        turned.append(turn)
        placed.append(place)
    all_turns = torch.cat([rotations[:, :1], torch.stack(turned, 2).flatten(1, 2)], 1)
    places = torch.cat([rest_joints[:, :1], torch.stack(placed, 2).flatten(1, 2)], 1)
    return all_turns, places, places - (all_turns @ rest_joints[..., None]).squeeze(-1)


def blended(weights: Tensor, rest: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Linear blend skinning of points (B, N, 3) at rest by weights (N, 16)."""
    blended_turn = torch.einsum("vj,bjrc->bvrc", weights, turn)
    return (blended_turn @ rest[..., None]).squeeze(-1) + weights @ shift


def joint_rotations(pose: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotation matrices (B, 16, 3, 3) of a pose that is (B, 16, 3) axis-angle or such matrices already."""
    return pose.to(dtype) if pose.dim() == 4 else rotation_matrices(pose.to(dtype))

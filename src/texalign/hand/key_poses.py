"""The key poses that hands are sampled around, in few numbers, and the angles they stand for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Degrees. Thumb: flexion, abduction and twist of its base, flexion of the other two. Index, middle, ring and little
# finger: flexion of the first and second joint, abduction. A finger's last joint follows its second at two thirds.
KEY_POSES = {
    "open": ((0, 0, 0, 4, 4), (4, 5, 0), (5, 6, 0), (6, 6, 0), (6, 6, 0)),
    "relaxed": ((12, 8, -12, 14, 14), (20, 26, 0), (25, 30, 1), (28, 32, -2), (30, 32, -3)),
    "pointing": ((16, 21, -28, 47, 61), (5, 8, 0), (73, 86, 3), (85, 95, -8), (80, 90, -9)),
    "fist": ((8, 25, -27, 52, 60), (75, 91, -6), (80, 92, 2), (83, 95, -11), (79, 89, -14)),
    "pinch": ((23, 16, -23, 25, 33), (49, 50, -1), (26, 30, 3), (20, 24, -2), (17, 20, -4)),
    "spread": ((-12, 4, 5, 0, -4), (0, 3, 10), (0, 4, 2), (0, 4, -8), (0, 4, -16)),
}
# Where each finger's angles are among the columns.
FINGER_OF_COLUMN = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)


def perturbed(rows: Tensor, normal: Callable[..., Tensor]) -> Tensor:
    """Rows (B, 17) of ``KEY_POSES`` with noise: some of it common to all fingers, some shared by neighbours."""
    own = normal(4, 3)
    noise = (0.6 * normal(1, 3) + 0.4 * (own + own.roll(1, 1))) * rows.new_tensor([6.0, 7.0, 1.6])
    room = 1 - rows[:, 6::3].clamp(0, 100)[..., None] / 130  # a curled finger has less room
    thumb_noise = 3.5 * normal(5) * room.amin(1)
    return rows + torch.cat([thumb_noise, (noise * room).flatten(1)], 1)


def anatomical_angles(rows: Tensor) -> Tensor:
    """Angles (B, 15, 3) in degrees: flexion, abduction, twist of every joint, from rows (B, 17) of ``KEY_POSES``."""
    angles = rows.new_zeros(len(rows), 15, 3)
    for column, base in zip((5, 8, 11, 14), (0, 3, 9, 6)):  # index, middle, ring, little
        angles[:, base, :2] = rows[:, [column, column + 2]]
        angles[:, base + 1, 0] = rows[:, column + 1]
        angles[:, base + 2, 0] = rows[:, column + 1] * 2 / 3
    angles[:, 12] = rows[:, :3]
    angles[:, 13:, 0] = rows[:, 3:5]
    return angles

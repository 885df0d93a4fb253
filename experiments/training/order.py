"""The order of training samples: the same for every arm."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def seeded(*numbers: int) -> torch.Generator:
    """A generator of its own for every tuple of small numbers: nothing needs to be remembered to resume."""
    state = 0
    for number in numbers:
        state = state * 1_000_003 + number + 1
    return torch.Generator().manual_seed(state % (2**63))


def epoch_batches(count: int, batch_size: int, neighbours: int, shifted: bool, seed: int, epoch: int) -> list[Tensor]:
    """Rows of the epoch's batches, each (batch_size,) int64.

    Samples come in blocks of `neighbours` that follow each other; the blocks are shuffled. What does not fill a batch
    is left out, other samples in every epoch.

    Args:
        count: N.
        batch_size: a multiple of neighbours.
        neighbours: 1 for an ordinary shuffle.
        shifted: the blocks may begin at any sample, as in a video; else at multiples of neighbours.
        seed: of the run.
        epoch: number.
    """
    generator = seeded(seed, 1, epoch)
    first = int(torch.randint(neighbours, (1,), generator=generator)) if shifted else 0
    starts = torch.arange(first, count - neighbours + 1, neighbours)
    starts = starts[torch.randperm(len(starts), generator=generator)]
    rows = (starts[:, None] + torch.arange(neighbours)).flatten()
    whole = len(rows) // batch_size * batch_size
    return list(rows[:whole].split(batch_size)) if whole else []


def warm_cosine(share: float, first: float) -> float:
    """The part of a rate after a share of the steps: from `first` to 1 over that share, and to 0 by a cosine."""
    return min(1.0, first + 1 / first * share) * 0.5 * (1 + math.cos(math.pi * share))

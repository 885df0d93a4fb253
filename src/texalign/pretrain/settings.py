from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from texalign._internal import expect

# Images of one hand that a step shows side by side: each prior texture must also explain the other image.
VIEWS = 2


@dataclass(frozen=True)
class PretrainSettings:
    """All hyperparameters of a run. Two runs with equal settings on one machine give the same weights.

    Attributes:
        steps: optimiser steps in all.
        batch_size: images a step, two of every hand: an even number.
        image_size: pixels.
        token_count: observations the prior sees of each image.
        target_count: observations it must reproduce.
        rate: peak learning rate; warms up over a fiftieth of the steps, then decays by a cosine to a hundredth.
        seed: of weights and images.
        photograph_share: how much of a step's images are photographs, in [0, 1]; rounded to whole pairs.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> settings = PretrainSettings(steps=2000, image_size=96, seed=1)
    """

    steps: int = 4000
    batch_size: int = 12
    image_size: int = 128
    token_count: int = 384
    target_count: int = 1024
    rate: float = 6e-4
    seed: int = 0
    photograph_share: float = 0.0

    def __post_init__(self) -> None:
        who = "PretrainSettings"
        for name, least in {"steps": 1, "image_size": 16, "token_count": 1, "target_count": 1}.items():
            value = getattr(self, name)
            expect(isinstance(value, int) and value >= least, who, f"a whole {name} >= {least}", value)
        size, share = self.batch_size, self.photograph_share
        even = isinstance(size, int) and size > 0 and size % VIEWS == 0
        expect(even, who, f"batch_size to be a multiple of {VIEWS}, the images of a hand", size)
        expect(0 < self.rate < math.inf, who, "rate > 0", self.rate)
        expect(isinstance(self.seed, int) and 0 <= self.seed < 2**63, who, "seed in [0, 2**63)", self.seed)
        expect(0 <= share <= 1, who, "photograph_share in [0, 1]", share)
        some = share == 0 or self.photographed_pairs > 0
        expect(some, who, f"a photograph_share that makes at least one pair of {size} images", share)

    @property
    def photographed_pairs(self) -> int:
        """How many of a step's pairs are photographs."""
        return math.floor(self.photograph_share * self.batch_size / VIEWS + 0.5)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Random numbers of one step, independent of the steps before: a resumed run equals an uninterrupted one."""
    return torch.Generator(device).manual_seed((1_000_003 * seed + step) % 2**63)

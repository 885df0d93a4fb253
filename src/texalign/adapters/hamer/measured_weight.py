from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from texalign.loss import balanced_weight

# Batches whose balanced weights are taken the median of: single ones differ by a factor of two.
MEASURED_BATCHES = 20


class MeasuredWeight:
    """The median of `balanced_weight` over the first batches, the same on every process; fixed from then on.

    Args:
        ratio: of the texture's gradient to the model's own, at the predicted pose, shape and camera.

    Attributes:
        values: what was measured so far, a number a batch.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.values: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether the weight is fixed."""
        return len(self.values) >= MEASURED_BATCHES

    def measure(self, texture: Tensor, own: Tensor, output: Mapping[str, Any]) -> float | None:
        """The weight after one more batch; None as long as no batch had a hand to measure on. Waits for the device."""
        at = [value for value in _predicted(output) if value.requires_grad]
        measured = 0.0
        if at and texture.requires_grad and own.requires_grad:
            measured = float(balanced_weight(texture, own, at, self.ratio))
        logarithm = torch.tensor([math.log(measured), 1.0] if measured > 0 else [0.0, 0.0], device=texture.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(logarithm)
        total, count = logarithm.tolist()
        if count:
            self.values.append(math.exp(total / count))
        return median(self.values) if self.values else None


def _predicted(output: Mapping[str, Any]) -> list[Tensor]:
    names = [name for name in ("pred_mano_params", "pred_smpl_params") if name in output]
    return [*(value for name in names for value in output[name].values()), output["pred_cam"]]

"""The mean over the samples of many batches, and of many processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from texalign._internal import expect


class MeanOverSamples:
    """Adds up metrics batch by batch: `update`, `compute` and `reset`, as torchmetrics has them, without that package.

    NaN is left out, element by element; see `texalign.metrics` for what is NaN and what is not. Sums are kept in
    float64 on the CPU. ``torchmetrics.MeanMetric(nan_strategy="ignore")``, which Lightning's ``self.log`` knows, takes
    the same values.

    In a distributed run, `compute` and `counts` are over all processes, and every process must call them. A sampler
    that repeats samples, so that each process has as many, makes those count twice.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, values: Tensor | Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            values: (B, ...), such as (B,) of `pck` or (B, J) of `correct_joints`, or a dictionary of such, as
                `freihand_scores` gives. B may be 0.

        Raises:
            ValueError: not what was added before: a dictionary after a tensor, or other sizes than B.
        """
        named = values if isinstance(values, Mapping) else {"": values}
        known_form = not self._sums or ("" in self._sums) == ("" in named)
        expect(known_form, "MeanOverSamples", "always a tensor or always a dictionary", type(values).__name__)
        added = {}
        for name, batch in named.items():
            expect(batch.dim() > 0, "MeanOverSamples", "a value for each sample (B, ...)", tuple(batch.shape))
            # To the CPU first: not every device has float64.
            batch = batch.detach().cpu().double()
            known = ~batch.isnan()
            sums = torch.where(known, batch, 0.0).sum(dim=0), known.sum(dim=0)
            added[name] = _added(self._sums[name], sums) if name in self._sums else sums
        self._sums.update(added)

    def compute(self) -> Any:
        """The means, without the first dimension: a tensor or a dictionary of tensors as was given, on the CPU.

        NaN where nothing was added but NaN; one NaN where nothing was added at all.
        """
        means = {
            name: (total / count).to(torch.get_default_dtype()) for name, (total, count) in self._over_all().items()
        }
        return means.get("", torch.tensor(torch.nan)) if means.keys() <= {""} else means

    def counts(self) -> Any:
        """How many values each mean is over: int64, in the same form."""
        counts = {name: count for name, (_, count) in self._over_all().items()}
        return counts.get("", torch.tensor(0)) if counts.keys() <= {""} else counts

    def _over_all(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts of all processes, of which some may have added nothing."""
        if not (dist.is_available() and dist.is_initialized()):
            return self._sums
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._sums)
        merged: dict[str, tuple[Tensor, Tensor]] = {}
        for part in parts:
            for name, sums in part.items():
                merged[name] = _added(merged[name], sums) if name in merged else sums
        return merged


def _added(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two sums and counts as one."""
    sizes = [tuple(part[0].shape) for part in (first, second)]
    expect(sizes[0] == sizes[1], "MeanOverSamples", f"values {('B', *sizes[0])} as before", ("B", *sizes[1]))
    return first[0] + second[0], first[1] + second[1]

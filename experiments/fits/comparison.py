"""Paired comparisons with bootstrap intervals over images, or over groups of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Figures whose change is told in their own unit; of the others, the relative one.
ABSOLUTE = ("IoU", "boundary F")
DRAWS = 4000


def drawn(count: int, groups: Tensor | None = None) -> Tensor:
    """(4000, count): how often each image is in each bootstrap sample; images of one group (count,) come together."""
    member = torch.arange(count) if groups is None else groups.unique(return_inverse=True)[1]
    number = int(member.max()) + 1
    index = torch.randint(0, number, (DRAWS, number), generator=torch.Generator().manual_seed(0))
    times = torch.zeros(DRAWS, number).scatter_add(1, index, torch.ones(DRAWS, number))
    return times[:, member]


def interval(values: Tensor, groups: Tensor | None = None) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of values (N,)."""
    times = drawn(len(values), groups)
    means = times @ values / times.sum(dim=1)
    return values.mean().item(), means.quantile(0.025).item(), means.quantile(0.975).item()


def relative_change(values: Tensor, base: Tensor, groups: Tensor | None = None) -> tuple[float, float, float]:
    """Σ values / Σ base − 1 of paired values (N,), and its 95 % bootstrap interval."""
    times = drawn(len(values), groups)
    ratios = times @ values / (times @ base) - 1
    return (values.sum() / base.sum() - 1).item(), ratios.quantile(0.025).item(), ratios.quantile(0.975).item()


def change(name: str, values: Tensor, base: Tensor, groups: Tensor | None = None) -> str:
    """In words: of a figure by its name, paired values (N,) against those of the base."""
    if name in ABSOLUTE:
        return "{:+.3f} ({:+.3f} … {:+.3f})".format(*interval(values - base, groups))
    return "{:+.1%} ({:+.1%} … {:+.1%})".format(*relative_change(values, base, groups))


def comparison(
    results: dict[str, dict[str, list[float]]], base: str, groups: Tensor | None = None
) -> list[dict[str, Any]]:
    """The table of several variants: means over images, and the change against `base`, paired, with its interval."""
    rows = []
    for name, errors in results.items():
        row: dict[str, Any] = {"variant": name}
        for key, values in errors.items():
            mine, others = torch.tensor(values), torch.tensor(results[base][key])
            row[key] = mine.mean().item()
            row[f"{key} change"] = change(key, mine, others, groups)
        rows.append(row)
    return rows

"""Paired comparisons with bootstrap intervals over images."""

from __future__ import annotations

from typing import Any

import torch


def interval(values: torch.Tensor, draws: int = 4000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of values (N,) over images."""
    index = torch.randint(0, len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    means = values[index].mean(dim=1)
    return values.mean().item(), means.quantile(0.025).item(), means.quantile(0.975).item()


def relative_change(values: torch.Tensor, base: torch.Tensor, draws: int = 4000) -> tuple[float, float, float]:
    """Σ values / Σ base − 1 of paired values (N,), and its 95 % bootstrap interval over images."""
    index = torch.randint(0, len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    ratios = values[index].sum(dim=1) / base[index].sum(dim=1) - 1
    return (values.sum() / base.sum() - 1).item(), ratios.quantile(0.025).item(), ratios.quantile(0.975).item()


def comparison(results: dict[str, dict[str, list[float]]], base: str) -> list[dict[str, Any]]:
    """The table of several variants: means over images, and the change against `base`, paired, with its interval."""
    rows = []
    for name, errors in results.items():
        row: dict[str, Any] = {"variant": name}
        for key, values in errors.items():
            mine, others = torch.tensor(values), torch.tensor(results[base][key])
            row[key] = mine.mean().item()
            if key == "IoU":
                change, low, high = interval(mine - others)
                row[f"{key} change"] = f"{change:+.3f} ({low:+.3f} … {high:+.3f})"
            else:
                change, low, high = relative_change(mine, others)
                row[f"{key} change"] = f"{change:+.1%} ({low:+.1%} … {high:+.1%})"
        rows.append(row)
    return rows

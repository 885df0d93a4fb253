"""Tables of several arms: means, and paired differences from the plain baseline with their intervals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Figures whose difference is told in their own unit; of the others, the relative one.
ABSOLUTE = ("IoU", "boundary F", "PCK", "PSNR", "SSIM")
Figures = dict[str, dict[str, list[float]]]


def mean_of(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over seeds and images: (..., S, N) → (...)."""
    return (values * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1)).clamp(min=1e-9)


def paired_difference(
    mine: tuple[Tensor, Tensor],
    base: tuple[Tensor, Tensor],
    relative: bool,
    block: int | Tensor = 1,
    draws: int = 2000,
) -> tuple[float, float, float]:
    """The difference of two arms, and its 95 % interval from a bootstrap over seeds and images, both drawn together.

    Args:
        mine: values and weights (S, N) by seed and image.
        base: the same of the baseline: same seeds, same images.
        relative: a share of the baseline instead of a difference.
        block: images that follow each other are drawn in blocks of so many: frames of a video are no independent draws.
            Or (N,) int64: images of one number, as of one person, are drawn together.
        draws: of the bootstrap.
    """
    seeds, images = mine[0].shape
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(images) // block if isinstance(block, int) else block.unique(return_inverse=True)[1]
    blocks = int(member.max()) + 1
    which_seeds = torch.randint(0, seeds, (draws, seeds), generator=generator)
    which_blocks = torch.randint(0, blocks, (draws, blocks), generator=generator)

    def difference(pick: Tensor | None) -> Tensor:
        def mean(values: Tensor, weights: Tensor) -> Tensor:
            return mean_of(values, weights) if pick is None else mean_of(values, weights * pick)

        first, second = mean(*mine), mean(*base)
        return first / second - 1 if relative else first - second

    # How often each seed and each image was drawn is all that a weighted mean needs.
    seed_counts = torch.zeros(draws, seeds).scatter_add_(1, which_seeds, torch.ones(draws, seeds))
    block_counts = torch.zeros(draws, blocks).scatter_add_(1, which_blocks, torch.ones(draws, blocks))
    counts = block_counts[:, member]
    middle = difference(None).item()
    drawn = torch.cat([difference(s[:, :, None] * c[:, None]) for s, c in zip(seed_counts.split(50), counts.split(50))])
    return middle, drawn.quantile(0.025).item(), drawn.quantile(0.975).item()


def stacked(runs: list[Figures], name: str) -> tuple[Tensor, Tensor]:
    """Values and weights (S, N) of one figure."""
    return tuple(torch.tensor([run[name][part] for run in runs]) for part in ("values", "weights"))  # type: ignore[return-value]


def compared(results: dict[str, list[dict[str, Any]]], base: str, block: int) -> dict[str, dict[str, list[float]]]:
    """By arm and figure: the mean, and but for `base` the change against it with its interval: 1 or 4 numbers.

    Args:
        results: by arm, for each seed what a run's file holds; arms are compared on the seeds that both have.
        base: the arm that the others are compared with.
        block: see `paired_difference`.
    """
    of_base = {run["run"]["seed"]: run for run in results[base]}
    found: dict[str, dict[str, list[float]]] = {}
    for arm, runs in results.items():
        both = [run for run in runs if run["run"]["seed"] in of_base]
        mine = [run["errors"] for run in both]
        others = [of_base[run["run"]["seed"]]["errors"] for run in both]
        found[arm] = {}
        for name in mine[0]:
            values = stacked(mine, name)
            numbers = [mean_of(*values).item()]
            if arm != base:
                numbers += paired_difference(values, stacked(others, name), not name.startswith(ABSOLUTE), block)
            found[arm][name] = numbers
    return found


def arm_table(
    results: dict[str, list[dict[str, Any]]], base: str, changes: dict[str, dict[str, list[float]]]
) -> list[dict[str, Any]]:
    """A row for each arm: in words what `compared` has found."""
    rows = []
    of_base = {run["run"]["seed"] for run in results[base]}
    for arm, figures in changes.items():
        both = [run for run in results[arm] if run["run"]["seed"] in of_base]
        row: dict[str, Any] = {"arm": arm, "seeds": len(both), "CPU s": sum(r["seconds"] for r in both) / len(both)}
        for name, (mean, *change) in figures.items():
            row[name] = mean
            text = [f"{number:+.3f}" if name.startswith(ABSOLUTE) else f"{number:+.1%}" for number in change]
            row[f"{name}: change"] = f"{text[0]} ({text[1]} … {text[2]})" if text else ""
        rows.append(row)
    return rows


def narrow(rows: list[dict[str, Any]], figures: int = 3) -> list[list[dict[str, Any]]]:
    """The same as several tables of a few figures each, for a screen: every figure has two columns."""
    leading, columns = (
        ("arm", "seeds", "CPU s"),
        [name for name in rows[0] if not name.startswith(("arm", "seeds", "CPU"))],
    )
    parts = [columns[first : first + 2 * figures] for first in range(0, len(columns), 2 * figures)]
    return [[{name: row[name] for name in (*leading, *part)} for row in rows] for part in parts]

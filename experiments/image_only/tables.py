"""Tables of image-only networks: means, and paired differences with intervals over seeds and people."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image_only.examples import KINDS
from image_only.train import ARMS, FEW, FEW_ARMS, FREE, FREE_ALONE, FREE_ARMS, START
from training.arms import WEAK
from training.tables import ABSOLUTE, paired_difference

# Which photographs a table is of, and which figures.
OF_PEOPLE = ("IoU", "boundary F", "2D to the detector, px")
OF_FRAMES = ("2D joints, px", "PA-MPJPE, mm", "MPJPE, mm", "IoU", "boundary F")
OF_GENERATED = ("2D joints, px", "PA-MPJPE, mm", "PA-MPVPE, mm", "MPJPE, mm", "IoU", "boundary F")
SETS = {
    "people": (("sld", "hgr"), OF_PEOPLE),
    "sld": (("sld",), OF_PEOPLE),
    "hgr": (("hgr",), OF_PEOPLE),
    "video": (("video",), OF_FRAMES),
    "generated images": (("generated",), OF_GENERATED),
}
# By title: the arms, and first the one that the others are compared with.
TITLES = {
    "all labelled": (WEAK, START, *(arm for arm in ARMS if arm != WEAK)),
    "a tenth labelled": (FEW, START, *FEW_ARMS[1:], WEAK),
    "no labels": (START, *FREE_ARMS),
    "no labels, what the loss adds": (FREE_ALONE, FREE),
}
# By title of a table: the photographs, the arm that others are compared with, and the arms.
TABLES = {f"{which}, {title}": (which, arms[0], arms) for title, arms in TITLES.items() for which in SETS}
Results = dict[str, list[dict[str, Any]]]


def stacked(runs: list[dict[str, Any]], name: str, rows: Tensor) -> Tensor:
    """(S, M) of one figure, of some photographs."""
    return torch.tensor([run["errors"][name] for run in runs])[:, rows]


def arm_rows(results: Results, base: str, kind: Tensor, person: Tensor, which: str) -> list[dict[str, Any]]:
    """A row for each arm.

    Args:
        results: by arm, what was kept of each seed; an untrained network's one run stands for all seeds.
        base: the arm that the others are compared with.
        kind: (N,) of the photographs, which of `KINDS`.
        person: (N,) who is drawn together.
        which: one of `SETS`; there may be no such photographs.
    """
    kinds, figures = SETS[which]
    rows = torch.stack([kind == KINDS.index(name) for name in kinds]).any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return []
    table = []
    for arm, runs in results.items():
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs)}
        for name in figures:
            mine = stacked(runs, name, rows)
            row[name] = mine.mean().item()
            row[f"{name}: change"] = (
                "" if arm == base else change(mine, stacked(results[base], name, rows), name, person[rows])
            )
        table.append(row)
    return table


def change(mine: Tensor, base: Tensor, name: str, person: Tensor) -> str:
    """In words: values (S, N) against those of the base, of the first seeds if one of them has more."""
    several = [len(values) for values in (mine, base) if len(values) > 1]
    seeds = min(several, default=1)
    mine, base = (values.expand(seeds, -1) if len(values) == 1 else values[:seeds] for values in (mine, base))
    absolute = name.startswith(ABSOLUTE)
    ones = torch.ones_like(mine)
    found = paired_difference((mine, ones), (base, ones), not absolute, person)
    text = [f"{number:+.3f}" if absolute else f"{number:+.1%}" for number in found]
    return f"{text[0]} ({text[1]} … {text[2]})"


def tuning_row(arm: str, runs: list[dict[str, Any]], kind: Tensor) -> dict[str, Any]:
    """Means of one arm, set by set."""
    row: dict[str, Any] = {"arm": arm, "seeds": len(runs), "CPU s": sum(run["seconds"] for run in runs) / len(runs)}
    for which in ("sld", "hgr", "video"):
        rows = (kind == KINDS.index(which)).nonzero()[:, 0]
        for name in SETS[which][1]:
            row[f"{which}: {name}"] = stacked(runs, name, rows).mean().item()
    return row

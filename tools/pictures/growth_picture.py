"""The picture of docs/benchmarks.md, from benchmarks/results/loss.json. Needs matplotlib and pillow.

python tools/pictures/growth_picture.py                   # docs/images/growth.png
python tools/pictures/growth_picture.py --output FOLDER
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picture_files import figure, write_figures

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "loss.json"
# What grows along an axis, its label, and what is the same for all points.
AXES = {
    "size": ("pixels of the image's side", {"tokens": 512}),
    "count": ("images of 256²", {"tokens": 512, "size": 256}),
    "tokens": ("tokens a sample, 8 images of 256²", {"size": 256, "count": 8}),
}
# Of the batches of a size, the one drawn over the size.
LARGEST = 8
PARTS = {"CPU ms": ("all", "#2166ac"), "encode ms": ("encoder", "#1a9850"), "evidence ms": ("evidence", "#b2182b")}


def batch(row: dict[str, Any]) -> int:
    """How many images."""
    return row["count"]


def growth() -> Any:
    """Milliseconds an image over size, batch and observations, both axes logarithmic."""
    rows = [row for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if row["size"] != 1080]
    drawn, axes = figure(1, len(AXES), 9.6, 2.7)
    for cell, (name, (label, same)) in zip(axes[0], AXES.items()):
        chosen = [row for row in rows if all(row[key] == value for key, value in same.items())]
        if name == "size":
            largest = {row["size"]: row for row in sorted(chosen, key=batch) if row["count"] <= LARGEST}
            chosen = list(largest.values())
        chosen.sort(key=lambda row: row[name])
        for part, (title, colour) in PARTS.items():
            times = [row[part] / row["count"] for row in chosen]
            cell.loglog([row[name] for row in chosen], times, color=colour, marker="o", markersize=4, label=title)
        cell.set_xticks([row[name] for row in chosen], [str(row[name]) for row in chosen])
        cell.minorticks_off()
        cell.set_ylim(1, 1000)
        cell.set_xlabel(label)
        cell.grid(color="0.9")
    axes[0, 0].set_ylabel("CPU ms an image")
    axes[0, 0].legend(fontsize=8)
    return drawn


if __name__ == "__main__":
    write_figures(__doc__, {"growth": growth})

"""The pictures of docs/evidence.md, from the tables in experiments/results. Needs matplotlib and pillow.

python tools/pictures/evidence_pictures.py                   # docs/images/evidence_*.png
python tools/pictures/evidence_pictures.py --output FOLDER
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from picture_files import figure, write_figures

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "experiments" / "results", ROOT / "docs" / "evidence.md"
# Figures shown of each table, and whether they are errors: of these less is better, and changes are relative.
FIGURES = {
    "2D joints, px": ("2D joints, %", True),
    "PA-MPJPE, mm": ("PA-MPJPE, %", True),
    "IoU": ("mask IoU", False),
    "boundary F": ("boundary F", False),
}
BASELINE = "weak labels"
BETTER, WORSE, OPEN = "#2166ac", "#b2182b", "0.45"


def changes(content: dict[str, Any]) -> Any:
    """Each arm's paired difference from the weak labels with its 95 % interval, a panel for every figure."""
    arms = [arm for arm in content["changes"] if arm != BASELINE]
    drawn, axes = figure(1, len(FIGURES), 11.2, 0.9 + 0.34 * len(arms))
    for cell, (name, (title, is_error)) in zip(axes[0], FIGURES.items()):
        unit = 100 if is_error else 1
        cell.axvline(0, color="0.6", linewidth=1)
        for row, arm in enumerate(arms):
            _, middle, low, high = (unit * number for number in content["changes"][arm][name])
            better, worse = (high < 0, low > 0) if is_error else (low > 0, high < 0)
            colour = BETTER if better else WORSE if worse else OPEN
            cell.plot([low, high], [row, row], color=colour, linewidth=2)
            cell.plot([middle], [row], color=colour, marker="o", markersize=5)
        cell.locator_params(axis="x", nbins=5)
        cell.set_ylim(len(arms) - 0.5, -0.5)
        cell.set_yticks(range(len(arms)), arms if cell is axes[0, 0] else [""] * len(arms), fontsize=8)
        cell.tick_params(labelsize=8)
        cell.set_title(title, fontsize=9, pad=4)
    return drawn


def found() -> dict[str, Any]:
    """A function for each picture that the page shows, of the tables there are."""
    pictures: dict[str, Any] = {}
    for file in sorted(RESULTS.glob("training_*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if "changes" in content:
            pictures[file.stem.replace("training_", "evidence_")] = partial(changes, content)
    page = PAGE.read_text(encoding="utf-8")
    return {name: draw for name, draw in pictures.items() if f"images/{name}.png" in page}


if __name__ == "__main__":
    write_figures(__doc__, found())

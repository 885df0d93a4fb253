"""How the documentation's figures look and are written. Needs matplotlib and pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": "0.4",
    "axes.linewidth": 0.6,
    "figure.dpi": 110,
}


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, an array (rows, columns)."""
    with matplotlib.rc_context(STYLE):
        return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="compressed")


def bare(axes: Any, title: str = "") -> None:
    """Axes without ticks, under a title."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9, pad=4)


def save(drawn: Any, path: Path) -> None:
    """Write a PNG of 256 colours, dithered, and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(drawn)
    with Image.open(buffer) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

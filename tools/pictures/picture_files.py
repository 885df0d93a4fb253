"""How the documentation's figures look and are written. Needs matplotlib and pillow."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import torch
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


def write_figures(description: str | None, drawings: Mapping[str, Callable[[], Any]]) -> None:
    """The command of a script: draw each figure and write it to docs/images, or to the folder that ``--output`` names.

    Args:
        description: of the command, for its help.
        drawings: by name of the file, without its suffix.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    for name, draw in drawings.items():
        save(draw(), folder / f"{name}.png")


def save(drawn: Any, path: Path) -> None:
    """Write a PNG of 256 colours, dithered, and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(drawn)
    with Image.open(buffer) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

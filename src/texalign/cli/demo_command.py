"""``python -m texalign demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from texalign.cli.arguments import MISUSED, positive, seed
from texalign.cli.demo import run
from texalign.cli.demo_fits import ALONE, START, TOGETHER
from texalign.cli.demo_hands import FARTHEST, KEYPOINT_NOISE, VISIBLE


def add_demo(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "demo",
        help="align hands with images, without and with the texture loss, and draw it",
        description="Pull misplaced hands over their images twice from the same start, by noisy keypoints alone and "
        "with the texture loss as well; print how far both are off, and draw a contact sheet and an animation. On "
        'synthetic hands, or on a folder of photographs. Needs pillow and tqdm: pip install "texalign[demo]"',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("texalign-demo"), metavar="FOLDER", help="where to")
    parser.add_argument("--fast", action="store_true", help="fewer, smaller hands and fewer steps: a few seconds")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the hands and all noise")
    parser.add_argument(
        "--images",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="photographs with keypoints, as docs/photographs.md describes them, in place of synthetic hands",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="how many hands (default: 24 synthetic ones, or 8 photographs evenly spread over the folder)",
    )
    parser.set_defaults(command=run_demo)


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo and print its table."""
    # Tensors are small: where there is other work, more threads only wait for each other, at many times the cost.
    torch.set_num_threads(1)
    images = getattr(options, "images", None)
    try:
        summary = run(options.output, options.fast, options.seed, images, getattr(options, "count", None))
    except ValueError as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    count, size = len(summary.hands), summary.hands.image.shape[-1]
    if images is None:
        noise = f"keypoints with {KEYPOINT_NOISE * size:g} px of noise"
        told = f"{count} unseen synthetic hands of known shape, {size} px, {noise}"
    else:
        told = f"{count} photographs of {images}, {size} px; the start is a fit to their keypoints"
        told += f"; {summary.left_out} left out with too few of them" if summary.left_out else ""
    print(f"{told}; {summary.steps} steps each.")
    taken = "" if images is not None else f"Taken: at least {VISIBLE:.0%} in sight, at most {FARTHEST} m away. "
    print(f"{taken}Means over all hands; change against {ALONE}:")
    width = max(len(row.name) for row in summary.rows)
    print(" " * (width + 4), f"{START:>9}  {ALONE:>16}  {TOGETHER:>20}    change")
    for row in summary.rows:
        start, alone, together = row.values
        change = f"{100 * (together / alone - 1):+.0f} %" if row.unit else f"{together - alone:+.3f}"
        decimals = 2 if row.unit else 3
        values = (f"{value:.{decimals}f}" for value in (start, alone, together))
        print(f"{row.name:<{width}} {row.unit:<4}" + "{:>9}  {:>16}  {:>20}".format(*values) + f"  {change:>8}")
    print(f"{' and '.join(file.name for file in summary.files)}, in {summary.seconds:.0f} s")
    print(f"folder: {summary.files[0].parent}")
    return 0

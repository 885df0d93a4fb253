"""``python -m texalign demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from texalign.cli.arguments import MISUSED, positive, seed
from texalign.cli.demo import PEOPLE, run
from texalign.cli.demo_fits import ALONE
from texalign.cli.demo_hands import KEYPOINT_NOISE
from texalign.cli.demo_table import table_lines


def add_demo(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "demo",
        help="align hands with images, without and with the texture loss, and draw it",
        description="Pull misplaced hands over their images twice from the same start, by noisy keypoints alone and "
        "with the texture loss as well; print how far both are off, and draw sheets and an animation. On generated "
        'hands and a dozen real ones, or on your photographs. Needs pillow and tqdm: pip install "texalign[demo]"',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("texalign-demo"), metavar="FOLDER", help="where to")
    parser.add_argument("--fast", action="store_true", help="a few seconds, to see that it runs: no table")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the hands and all noise")
    parser.add_argument(
        "--images",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="photographs with keypoints, as docs/photographs.md describes them, in place of both",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="how many hands (default: 6 generated ones, 12 photographs, evenly spread over their folder)",
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
    for part in summary.parts:
        count, size = len(part.hands), part.hands.image.shape[-1]
        if part.source is None:
            noise = f"keypoints with {KEYPOINT_NOISE * size:g} px of noise"
            told = f"{count} generated hands of known shape, {size} px, {noise}"
        elif part.source is PEOPLE:
            told = f"{count} photographs of people that no training has seen, {size} px, a detector's keypoints"
        else:
            told = f"{count} photographs of {part.source}, {size} px; the start is a fit to their keypoints"
            told += f"; {summary.left_out} left out with too few of them" if summary.left_out else ""
        print(f"{told}; {summary.steps} steps, loss × {part.weight:.2g}")
        if not options.fast:
            print("\n".join([*table_lines(part.rows), ""]))
    if options.fast:
        print("it runs; these are too few steps to judge by: python -m texalign demo takes more, and measures")
    else:
        print(f"means over all hands; change against {ALONE}; × is the weight that balanced_weight measured")
    print(f"{', '.join(file.name for file in summary.files)}, in {summary.seconds:.0f} s")
    print(f"folder: {summary.files[0].parent}")
    return 0

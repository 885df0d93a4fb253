"""``python -m texalign align``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

from texalign.cli.align import FAST, FULL, Plan, Row, run
from texalign.cli.arguments import FAILED, MISUSED, positive

_SMALLEST = 64


def add_align(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "align",
        help="lay a textured hand over the hands in your photographs",
        description="Find the hands in photographs, fit the bundled hand to their keypoints and then to their pixels, "
        "and write for each a sheet, a textured mesh (OBJ, GLB) and all numbers (JSON). Needs pillow, tqdm and, "
        'without --keypoints, MediaPipe: pip install "texalign[photos]"; docs/your-photographs.md says more.',
    )
    parser.add_argument("photographs", type=Path, nargs="+", metavar="PHOTO", help="an image file of any size")
    parser.add_argument(
        "--output", type=Path, default=Path("texalign-hands"), metavar="FOLDER", help="where to (texalign-hands)"
    )
    parser.add_argument(
        "--keypoints",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="JSON with 21 keypoints of one hand, or a list of hands (docs/photographs.md), in place of the detector; "
        "once for each photograph",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a network's hands, .npz of vertices (or, with --mano, global_orient, hand_pose, betas), cam_t, focal, "
        "is_right, in place of keypoints; one a photograph",
    )
    parser.add_argument("--side", choices=("left", "right"), help="of all hands, where the detector is wrong")
    parser.add_argument("--same-hand", action="store_true", help="one person in one light: hands share a texture")
    parser.add_argument("--fast", action="store_true", help=f"{FAST.image_size} px and {FAST.steps} steps")
    parser.add_argument(
        "--image-size", type=positive, metavar="N", help=f"pixels of the fit, {_SMALLEST} or more ({FULL.image_size})"
    )
    parser.add_argument(
        "--mask",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the skin's mask, to measure the outline by; once for each photograph",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="MediaPipe's hand_landmarker.task")
    parser.add_argument(
        "--mano",
        type=Path,
        metavar="FILE",
        help="MANO_RIGHT.pkl: tell its pose, too, or pose those of --predictions (needs smplx)",
    )
    parser.set_defaults(command=run_align)


def run_align(options: argparse.Namespace) -> int:
    """Align, and print a table."""
    # Tensors are small: where there is other work, more threads only wait for each other, at many times the cost.
    torch.set_num_threads(1)
    plan = FAST if options.fast else FULL
    plan = Plan(options.image_size or plan.image_size, plan.steps)
    if plan.image_size < _SMALLEST:
        print(f"texalign: expected --image-size {_SMALLEST} or more, got {plan.image_size}", file=sys.stderr)
        return MISUSED
    try:
        rows = run(
            options.photographs,
            options.output,
            plan,
            options.keypoints,
            options.mask,
            options.predictions,
            options.side,
            options.same_hand,
            options.model,
            options.mano,
        )
    except ValueError as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    if not rows:
        return FAILED
    print("\n".join(_table(rows)))
    print(f"folder: {options.output.resolve()}")
    done = {row.name.rpartition("-")[0] for row in rows}
    return 0 if len(done) == len(options.photographs) else FAILED


def _table(rows: list[Row]) -> list[str]:
    """One line a hand, and what the columns mean."""
    masked = any(math.isfinite(row.iou[1]) for row in rows)
    width = max(len(row.name) for row in rows)
    head = f"{'hand':<{width}}  side   agreement      "
    head += "mask IoU         " if masked else ""
    lines = [head + "to keypoints, px       s"]
    for row in rows:
        line = f"{row.name:<{width}}  {row.side:<5}  {_pair(row.agreement, 2):<13}  "
        line += f"{_pair(row.iou, 3):<15}  " if masked else ""
        lines.append(line + f"{_pair(row.distance, 1):<16}  {row.seconds:6.1f}")
    lines += ["before → after. agreement: mean evidence for the hand under its outline, up to 6; near 0 it is no hand."]
    lines += ["It may fall where a better outline covers more of the hand: look at the sheets."]
    lines += ["The distance to the keypoints rises where they are noisy, or mean other points than this hand's joints."]
    return lines + [f"focal length: {focal}" for focal in dict.fromkeys(row.focal for row in rows)]


def _pair(values: tuple[float, float], digits: int) -> str:
    return " → ".join(f"{value:.{digits}f}" for value in values)

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from texalign import __version__
from texalign.viz import MissingExtraError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, `python -m texalign`.

    Args:
        arguments: without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 1 if something does not work here, 2 for a user's mistake, told in one line on standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (MissingExtraError, OSError) as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt:
        print("texalign: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser; each subcommand stores the function that does it as `command`."""
    parser = argparse.ArgumentParser(
        prog="python -m texalign",
        description="Texture as a training signal for 3D hand reconstruction.",
    )
    parser.add_argument("--version", action="version", version=f"texalign {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="draw the bundled hand into a folder of pictures",
        description="Draw the bundled hand: a contact sheet of poses, sides and textures, its UV atlas, and a texture "
        'unwrapped from an image. Needs pillow and tqdm: pip install "texalign[demo]"',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output", type=Path, default=Path("texalign-demo"), metavar="FOLDER", help="where to")
    demo.add_argument("--fast", action="store_true", help="fewer, smaller pictures, in a few seconds")
    demo.add_argument("--seed", type=_seed, default=0, help="of the poses")
    demo.set_defaults(command=_demo)

    doctor = commands.add_parser(
        "doctor",
        help="say what runs on this machine, what does not, and what would fix it",
        description="Print versions, devices and whether each rasterizer really runs on each device. The exit code is "
        "0 if texalign runs on the CPU.",
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"expected 0 to 2**63 - 1, got {text}")
    return seed


def _demo(options: argparse.Namespace) -> int:
    from texalign.demo import run

    summary = run(options.output, fast=options.fast, seed=options.seed)
    drawn = f"{len(summary.files)} pictures in {summary.seconds:.1f} s"
    print(f"{drawn}, drawn by the {summary.backend} backend on {summary.device}:")
    for file in summary.files:
        print(f"  {file.name}")
    print(f"unwrapped texture: mean error {summary.texture_error:.4f} (of 1) on the texels seen")
    print(f"folder: {summary.files[0].parent}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from texalign.doctor import diagnose, print_report

    diagnosis = diagnose()
    print_report(diagnosis)
    return 0 if diagnosis.healthy else FAILED

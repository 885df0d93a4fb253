from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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

    pretrain = commands.add_parser(
        "pretrain",
        help="train a texture prior on synthetic images",
        description="Train a texture prior on synthetic images, or go on with the training that the folder holds: the "
        "same command again resumes it. The folder gets the weights for UVTextureEncoder.from_pretrained.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    pretrain.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to")
    pretrain.add_argument("--steps", type=_positive, default=4000, metavar="N", help="optimiser steps in all")
    pretrain.add_argument("--batch-size", type=_positive, default=12, metavar="N", help="synthetic images a step")
    pretrain.add_argument("--image-size", type=_positive, default=128, metavar="N", help="pixels, 16 or more")
    pretrain.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and images")
    pretrain.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    pretrain.set_defaults(command=_pretrain)

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


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


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


def _pretrain(options: argparse.Namespace) -> int:
    import torch

    from texalign.pretrain import PretrainSettings, pretrain

    folder = options.output.resolve()
    settings = PretrainSettings(
        steps=options.steps, batch_size=options.batch_size, image_size=options.image_size, seed=options.seed
    )
    if options.device == "cuda" and not torch.cuda.is_available():
        print("texalign: expected a CUDA device, got none; python -m texalign doctor says why", file=sys.stderr)
        return MISUSED
    every = 250
    print(f"checkpoint: {folder / 'checkpoint.pt'}, every {every} steps; the same command again resumes from it")
    try:
        with _training_progress(options.steps) as progress:
            encoder = pretrain(folder, settings, options.device, checkpoint_every=every, progress=progress)
    except ValueError as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    for name, value in encoder.provenance["metrics"].items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")
    print(f'weights: UVTextureEncoder.from_pretrained("{folder}")')
    return 0


@contextlib.contextmanager
def _training_progress(steps: int, every: int = 25) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What reports a step: tqdm's bar if it is installed, else a line every so many steps, on standard error."""
    new_bar: Any = None
    with contextlib.suppress(ImportError):
        from tqdm import tqdm as new_bar
    began = time.monotonic()
    first: int | None = None
    bar: Any = None

    def report(step: int, numbers: dict[str, float]) -> None:
        nonlocal first, bar
        # A resumed run begins in the middle; time left is told by its own steps.
        first = step - 1 if first is None else first
        if new_bar is not None:
            bar = bar if bar is not None else new_bar(total=steps, initial=first, desc="texalign pretrain", unit="step")
            bar.set_postfix(numbers, refresh=False)
            bar.update()
        elif step % every == 0 or step == steps:
            left = (time.monotonic() - began) / (step - first) * (steps - step)
            told = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
            print(f"step {step}/{steps}, {told}, {left / 60:.1f} min left", file=sys.stderr, flush=True)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def _doctor(options: argparse.Namespace) -> int:
    from texalign.doctor import diagnose, print_report

    diagnosis = diagnose()
    print_report(diagnosis)
    return 0 if diagnosis.healthy else FAILED

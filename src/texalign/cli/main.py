from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from texalign import __version__
from texalign._internal import MissingExtraError

if TYPE_CHECKING:
    from texalign.photographs import FittedPhotographs
    from texalign.prior import UVTextureEncoder

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
        help="align hands with images, without and with the texture loss, and draw it",
        description="Pull misplaced hands over their images twice from the same start, by noisy keypoints alone and "
        "with the texture loss as well; print how far both are off, and draw a contact sheet and an animation. On "
        'synthetic hands, or on a folder of photographs. Needs pillow and tqdm: pip install "texalign[demo]"',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output", type=Path, default=Path("texalign-demo"), metavar="FOLDER", help="where to")
    demo.add_argument("--fast", action="store_true", help="fewer, smaller hands and fewer steps: a few seconds")
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the hands and all noise")
    demo.add_argument(
        "--images",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="photographs with keypoints, as docs/photographs.md describes them, in place of synthetic hands",
    )
    demo.add_argument(
        "--count",
        type=_positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="how many hands (default: 24 synthetic ones, or 8 photographs evenly spread over the folder)",
    )
    demo.set_defaults(command=_demo)

    pretrain = commands.add_parser(
        "pretrain",
        help="train a texture prior on synthetic images, and on photographs if you have some",
        description="Train a texture prior on synthetic images, alone or mixed with a folder of photographs "
        "(docs/photographs.md), or go on with the training that the folder holds: the same command again resumes it. "
        "The folder gets the weights for UVTextureEncoder.from_pretrained.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    pretrain.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to")
    pretrain.add_argument("--steps", type=_positive, default=4000, metavar="N", help="optimiser steps in all")
    pretrain.add_argument("--batch-size", type=_positive, default=12, metavar="N", help="images a step, even")
    pretrain.add_argument("--image-size", type=_positive, default=128, metavar="N", help="pixels, 16 or more")
    pretrain.add_argument("--rate", type=float, default=6e-4, metavar="R", help="peak learning rate")
    pretrain.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and images")
    pretrain.add_argument(
        "--start",
        default=argparse.SUPPRESS,
        metavar="bundled|FOLDER",
        help="begin with the bundled weights, or those in a folder (default: random ones)",
    )
    pretrain.add_argument(
        "--photographs", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="mix in photographs from a folder"
    )
    pretrain.add_argument(
        "--photograph-share",
        type=float,
        default=argparse.SUPPRESS,
        metavar="S",
        help="how much of every step's images are photographs (default: 0.5)",
    )
    pretrain.add_argument(
        "--frames",
        type=_frames,
        default=argparse.SUPPRESS,
        metavar="FIRST-LAST",
        help="take photographs with these numbers only (default: all)",
    )
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


def _frames(text: str) -> range:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, as 0-99, got {text}")
    return range(int(first), int(last) + 1)


def _demo(options: argparse.Namespace) -> int:
    import torch

    from texalign.cli.demo import ALONE, FARTHEST, KEYPOINT_NOISE, START, TOGETHER, VISIBLE, run

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


def _pretrain(options: argparse.Namespace) -> int:
    import torch

    from texalign.pretrain import PretrainSettings, pretrain

    folder = options.output.resolve()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("texalign: expected a CUDA device, got none; python -m texalign doctor says why", file=sys.stderr)
        return MISUSED
    every = 250
    try:
        settings = PretrainSettings(
            steps=options.steps,
            batch_size=options.batch_size,
            image_size=options.image_size,
            rate=options.rate,
            seed=options.seed,
            photograph_share=getattr(options, "photograph_share", 0.5) if "photographs" in options else 0.0,
        )
        start = _start(options)
        photographs = _fitted_photographs(options, folder)
        print(f"checkpoint: {folder / 'checkpoint.pt'}, every {every} steps; the same command again resumes from it")
        with _training_progress(options.steps) as progress:
            encoder = pretrain(folder, settings, start, options.device, every, progress, photographs)
    except ValueError as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    for name, value in encoder.provenance["metrics"].items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")
    print(f'weights: UVTextureEncoder.from_pretrained("{folder}")')
    return 0


def _start(options: argparse.Namespace) -> UVTextureEncoder | None:
    if "start" not in options:
        return None
    from texalign.prior import UVTextureEncoder
    from texalign.surface import HandSurface

    return UVTextureEncoder.from_pretrained(None if options.start == "bundled" else options.start, HandSurface.mano())


def _fitted_photographs(options: argparse.Namespace, folder: Path) -> FittedPhotographs | None:
    """The photographs with their meshes; fits are made once and kept beside the checkpoint."""
    if "photographs" not in options:
        alone = [name for name in ("photograph_share", "frames") if name in options]
        if alone:
            raise ValueError(f"pretrain: expected --photographs DIR with --{alone[0].replace('_', '-')}, got none")
        return None
    from texalign.photographs import fit_photographs, photograph_ids, read_photographs

    ids = photograph_ids(options.photographs)
    if "frames" in options:
        ids = tuple(number for number in ids if number in options.frames)
    photographs = read_photographs(options.photographs, ids, options.image_size)

    def progress(done: int, total: int) -> None:
        print(f"hand fitted to {done} of {total} photographs", file=sys.stderr, flush=True)

    fitted = fit_photographs(photographs, folder / "fits.npz", progress)
    print(f"photographs: {len(fitted)}, and {fitted.left_out} left out, whose keypoints are too few or fit no hand")
    return fitted


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
    from texalign.cli.doctor import diagnose, print_report

    diagnosis = diagnose()
    print_report(diagnosis)
    return 0 if diagnosis.healthy else FAILED

"""``python -m texalign pretrain``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from texalign.cli.arguments import INTERRUPTED, MISUSED, number_range, positive, seed
from texalign.cli.pretrain_pictures import curves, held_out_sheet
from texalign.photographs import FittedPhotographs, fit_photographs, photograph_ids, read_photographs
from texalign.pretrain import PretrainSettings, pretrain
from texalign.prior import UVTextureEncoder
from texalign.surface import HandSurface
from texalign.viz import save_png


def add_pretrain(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "pretrain",
        help="train a texture prior on synthetic images, and on photographs if you have some",
        description="Train a texture prior on synthetic images, alone or mixed with a folder of photographs "
        "(docs/photographs.md), or go on with the training that the folder holds: the same command again resumes it. "
        "The folder gets the weights for UVTextureEncoder.from_pretrained.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to")
    parser.add_argument("--steps", type=positive, default=4000, metavar="N", help="optimiser steps in all")
    parser.add_argument("--batch-size", type=positive, default=12, metavar="N", help="images a step, even")
    parser.add_argument("--image-size", type=positive, default=128, metavar="N", help="pixels, 16 or more")
    parser.add_argument("--rate", type=float, default=6e-4, metavar="R", help="peak learning rate")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights and images")
    parser.add_argument(
        "--start",
        default=argparse.SUPPRESS,
        metavar="bundled|FOLDER",
        help="begin with the bundled weights, or those in a folder (default: random ones)",
    )
    parser.add_argument(
        "--photographs", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="mix in photographs from a folder"
    )
    parser.add_argument(
        "--photograph-share",
        type=float,
        default=argparse.SUPPRESS,
        metavar="S",
        help="how much of every step's images are photographs (default: 0.5)",
    )
    parser.add_argument(
        "--frames",
        type=number_range,
        default=argparse.SUPPRESS,
        metavar="FIRST-LAST",
        help="take photographs with these numbers only (default: all)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.set_defaults(command=run_pretrain)


def run_pretrain(options: argparse.Namespace) -> int:
    """Train a prior; print its metrics and where its weights are."""
    folder = options.output.resolve()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("texalign: expected a CUDA device, got none; python -m texalign doctor says why", file=sys.stderr)
        return MISUSED
    every = 250
    blank = 0
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
        with _training_progress(options.steps) as progress, _interruptible() as interrupted:

            def report(step: int, numbers: dict[str, float]) -> None:
                nonlocal blank
                progress(step, numbers)
                blank += math.isnan(numbers["l1"])
                if interrupted():
                    raise KeyboardInterrupt(f"after step {step}")

            watch = _drawing(folder, settings)
            encoder = pretrain(folder, settings, start, options.device, every, report, photographs, watch=watch)
    except ValueError as error:
        print(f"texalign: {error}", file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        print(f"texalign: stopped {stop}, which {folder / 'checkpoint.pt'} holds", file=sys.stderr)
        print("to go on, give the same command again", file=sys.stderr)
        return INTERRUPTED
    if blank:
        print(f"texalign: in {blank} steps nothing of a hand was observed: are masks empty?", file=sys.stderr)
    _print_metrics(encoder.provenance["metrics"])
    print(f'weights: UVTextureEncoder.from_pretrained("{folder}")')
    return 0


def _print_metrics(metrics: dict[str, float | None]) -> None:
    """The final errors beside those of the bundled prior, which was trained for 11,600 steps of 12 images."""
    bundled = UVTextureEncoder.from_pretrained().provenance["metrics"]
    width = max(len(name) for name in metrics)
    print(f"{'errors on held-out images':<{width}} {'this prior':>18} {'bundled prior':>16}")
    for name, value in metrics.items():
        told = "nothing to measure" if value is None else f"{value:.4f}"
        print(f"{name.replace('_', ' '):<{width}} {told:>18} {bundled[name]:>16.4f}")
    print("l1 is a difference of colours in [0, 1]; over mean colour: below 1 is better than one colour for all texels")


def _drawing(folder: Path, settings: PretrainSettings) -> Callable[[int, UVTextureEncoder], None] | None:
    """What draws a sheet of held-out hands and the errors so far into the folder; None without pillow."""
    if importlib.util.find_spec("PIL") is None:
        return None
    bundled = UVTextureEncoder.from_pretrained().provenance["metrics"]

    def draw(step: int, encoder: UVTextureEncoder) -> None:
        save_png(folder / f"held_out_{step:06d}.png", held_out_sheet(encoder, settings.image_size))
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        points = [(line["step"], line["held_out"]) for line in lines if "held_out" in line]
        if step == settings.steps:
            points.append((step, encoder.provenance["metrics"]))
        if points:
            save_png(folder / "held_out_errors.png", curves(points, bundled))

    return draw


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed, so that a step can end first; a second one interrupts at once."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _start(options: argparse.Namespace) -> UVTextureEncoder | None:
    if "start" not in options:
        return None
    bundled = options.start == "bundled"
    start = UVTextureEncoder.from_pretrained(None if bundled else options.start, HandSurface.mano())
    known = start.provenance
    name = "the bundled prior" if bundled else options.start
    print(f"start: {name}, trained on {known.get('trained_on', 'unknown images')}, {known.get('date', 'undated')}")
    return start


def _fitted_photographs(options: argparse.Namespace, folder: Path) -> FittedPhotographs | None:
    """The photographs with their meshes; fits are made once and kept beside the checkpoint."""
    if "photographs" not in options:
        alone = [name for name in ("photograph_share", "frames") if name in options]
        if alone:
            raise ValueError(f"pretrain: expected --photographs DIR with --{alone[0].replace('_', '-')}, got none")
        return None
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

"""CPU time and memory of this checkout against another commit's, as ratios from one run.

    python benchmarks/against.py 1055f4c [--only loss_256 fit demo] [--repeats 5] [--output FILE.json]

The commit is checked out beside this one, in a temporary folder. Each workload runs in both by turns, every time in a
process of its own with one thread; the ratio is the median over the turns, so that a neighbour who slows the machine
down slows both. The workloads are in this file and know the names of both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import texalign as ta
from recording import environment, table, write_json
from renderer import peak_memory

TOP = Path(__file__).parents[1]
COUNT, FIT_SIZE, FIT_STEPS = 8, 128, 80


def bundled_loss(size: int, **options: Any) -> ta.DenseTextureAlignmentLoss:
    """With the bundled prior."""
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), size, backend="torch")
    return ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), **options)


def loss(size: int) -> Callable[[], None]:
    """Forward and backward for 8 generated images with 512 observations each."""
    batch = ta.synthetic.generate(COUNT, size, torch.Generator().manual_seed(0))
    loss_fn = bundled_loss(size)

    def step() -> None:
        vertices = batch.vertices.clone().requires_grad_()
        loss_fn(vertices, batch.camera, batch.image, is_right=batch.is_right).backward()

    return step


def fit() -> Callable[[], None]:
    """80 steps of 8 hands, disturbed, by noisy keypoints and the loss."""
    try:
        fitting: Any = importlib.import_module("texalign.fitting")
    except ModuleNotFoundError:
        fitting = ta.hand
    generator = torch.Generator().manual_seed(0)
    batch = ta.synthetic.generate(COUNT, FIT_SIZE, generator, left_share=0)
    model = fitting.KnownShape(batch.betas)
    start = fitting.disturbed(fitting.parameters_of_pose(model, batch.pose, batch.translation), generator)
    keypoints = batch.camera.project(batch.joints)
    keypoints = keypoints + 2 * torch.randn(keypoints.shape, generator=generator)
    loss_fn = bundled_loss(FIT_SIZE, reduction="none")

    def compared(hand: Any) -> torch.Tensor:
        return 2 * loss_fn(hand.vertices, batch.camera, batch.image)

    objective = fitting.keypoint_objective(model, batch.camera, keypoints, 8.0, compared)
    return lambda: fitting.refine(model, start, objective, FIT_STEPS, 0.01)


def demo() -> Callable[[], None]:
    """`python -m texalign demo`, all of it."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "texalign", "demo", "--output", folder]
            subprocess.run(command, capture_output=True, check=True)

    return run


WORKLOADS: dict[str, tuple[Callable[[], Callable[[], None]], int]] = {
    "loss_128": (partial(loss, 128), 9),
    "loss_256": (partial(loss, 256), 5),
    "loss_512": (partial(loss, 512), 3),
    "fit": (fit, 1),
    "demo": (demo, 1),
}


def measure(name: str) -> dict[str, float]:
    """CPU milliseconds, the median of several runs, and growth of the peak resident set in MiB, in this process."""
    torch.set_num_threads(1)
    prepare, repeats = WORKLOADS[name]
    work = prepare()
    if repeats > 1:
        work()
    before = peak_memory(reset=True)
    times = []
    for _ in range(repeats):
        start = cpu_time()
        work()
        times.append(1000 * (cpu_time() - start))
    return {"ms": median(times), "MiB": peak_memory() - before}


def cpu_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with that commit's files."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(TOP), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), revision], capture_output=True, check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True, check=True)


def measured_in(tree: Path, name: str) -> dict[str, float]:
    """`measure` with that checkout's library, in a process of its own."""
    settings = {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "HEAD", "--one", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
    return json.loads(done.stdout)


def compare(tree: Path, name: str, repeats: int) -> dict[str, Any]:
    """Both checkouts by turns."""
    turns = []
    for number in range(repeats):
        order = (tree, TOP) if number % 2 == 0 else (TOP, tree)
        found = {place: measured_in(place, name) for place in order}
        turns.append((found[tree], found[TOP]))
        print(".", end="", flush=True, file=sys.stderr)
    ratios = sorted(now["ms"] / then["ms"] for then, now in turns)
    then, now = ({key: median(turn[side][key] for turn in turns) for key in ("ms", "MiB")} for side in (0, 1))
    return {
        "workload": name,
        "then ms": then["ms"],
        "now ms": now["ms"],
        "ratio": median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
        "then MiB": then["MiB"],
        "now MiB": now["MiB"],
    }


def main() -> None:
    """Print the table, and write it down if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=[name for name in WORKLOADS if name != "demo"])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each workload")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=WORKLOADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    with checked_out(arguments.revision) as tree:
        rows = [compare(tree, name, arguments.repeats) for name in arguments.only]
    print(file=sys.stderr)
    print(table(rows))
    if arguments.output:
        write_json(arguments.output, {"environment": environment(), "against": arguments.revision, "rows": rows})


if __name__ == "__main__":
    main()

"""The renderer and the loss on a GPU: against bare nvdiffrast, inside HaMeR's step, as sizes grow, and where time goes.

    python benchmarks/gpu.py [--sections renderer loss stages growth hamer] [--output FILE.json] [--plot FILE.png]
    python benchmarks/gpu.py --device cpu --small      # a dry run of the script: its figures say nothing about a GPU

Times are CUDA events around each call, after warm-up: medians and quartiles over all calls on several sets of hands.
Open hands cover a third of the image, each with its own 256² texture; the encoder runs in bfloat16. Memory is what the
allocator held at most beside what it held before. HaMeR's step is measured by `experiments/hamer/step_cost.py`, paired,
with the checkout that HAMER_ROOT names (ViT-H, random weights), or with the stand-in where there is none. Rows that
need nvdiffrast are left out where it does not run, and the reason is printed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import texalign as ta
from gpu_scenes import Scene, bare_nvdiffrast, rendering, stages, whole_loss
from gpu_timing import bandwidth, launch_cost, over_input_sets, peak_mib, waits, work
from recording import environment, table, write_json
from texalign.rasterize import backend_names, unavailable_reason

STEP_COST = Path(__file__).resolve().parents[1] / "experiments" / "hamer" / "step_cost.py"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    renderer_batches: tuple[int, ...] = (8, 32, 128)
    image_size: int = 256
    batch: int = 32
    tokens: int = 1024
    input_sets: int = 3
    repeats: int = 30
    hamer_batches: tuple[int, ...] = (32, 64)
    hamer_rounds: int = 10
    growing_batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    growing_sizes: tuple[int, ...] = (64, 128, 192, 256, 384, 512)
    growing_tokens: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192)
    block_mib: int = 1024


SMALL = Plan((1,), 32, 2, 64, 2, 2, (1,), 1, (1, 2), (32, 48), (32, 64), 4)


class Benchmark:
    """What the sections share."""

    def __init__(self, device: torch.device, plan: Plan) -> None:
        self.device, self.plan = device, plan
        self.surface = ta.HandSurface.mano().to(device)
        self.encoder = ta.UVTextureEncoder.from_pretrained().to(device)
        reasons = {backend: unavailable_reason(backend, device) for backend in backend_names()}
        self.left_out = {backend: reason for backend, reason in reasons.items() if reason is not None}
        self.backends = [backend for backend in backend_names() if backend not in self.left_out]

    def loss(self, backend: str, size: int, tokens: int) -> ta.DenseTextureAlignmentLoss:
        """The loss with the bundled prior."""
        drawing = ta.TexturedHandRenderer(self.surface, size, backend=backend)
        return ta.DenseTextureAlignmentLoss(drawing, self.encoder, token_count=tokens).to(self.device)

    def scenes(self, count: int, size: int) -> list[Scene]:
        """Several sets of hands."""
        return [Scene(count, size, seed, self.device) for seed in range(self.plan.input_sets)]

    def renderer(self) -> list[dict[str, Any]]:
        """Drawing, forward, and forward and backward: each backend, and the bare calls to nvdiffrast."""
        rows, size = [], self.plan.image_size
        for count in self.plan.renderer_batches:
            scenes = self.scenes(count, size)
            for backward in (False, True):
                methods = {}
                for backend in self.backends:
                    drawing = ta.TexturedHandRenderer(self.surface, size, backend=backend)
                    methods[f"texalign, {backend}"] = [rendering(drawing, each, backward) for each in scenes]
                if "nvdiffrast" in self.backends:
                    methods["bare nvdiffrast"] = [bare_nvdiffrast(self.surface, each, backward) for each in scenes]
                found = {name: self._timed(functions) for name, functions in methods.items()}
                for name, times in found.items():
                    ratios = {
                        f"× {base}": f"{times['median'] / found[base]['median']:.2f}" if base in found else "-"
                        for base in ("bare nvdiffrast", "texalign, nvdiffrast")
                    }
                    what = "forward + backward" if backward else "forward"
                    rows.append({"images": count, "what": what, "method": name, **times, **ratios})
        return rows

    def loss_rows(self) -> list[dict[str, Any]]:
        """The whole loss, forward and backward, with each backend."""
        scenes = self.scenes(self.plan.batch, self.plan.image_size)
        rows = []
        for backend in self.backends:
            loss_fn = self.loss(backend, self.plan.image_size, self.plan.tokens)
            functions = [whole_loss(loss_fn, each) for each in scenes]
            seen, held_up = work(functions[0], self.device), waits(functions[0], self.device)
            rows.append(
                {
                    "backend": backend,
                    **self._timed(functions),
                    "launches": seen.launches,
                    "busy ms": seen.busy,
                    "waits": "-" if held_up is None else sum(held_up.values()),
                    "longest": seen.longest,
                    "waits at": held_up,
                }
            )
        return rows

    def stage_rows(self) -> list[dict[str, Any]]:
        """Each part of the loss beside its floor: bytes it cannot avoid at the speed of a copy, or its launches.

        The floor is the larger of the two; the gap is what the part takes beyond it, by a factor.
        """
        a_launch, speed = launch_cost(self.device), bandwidth(self.device, self.plan.block_mib)
        rows = []
        for backend in self.backends:
            loss_fn = self.loss(backend, self.plan.image_size, self.plan.tokens)
            scene = Scene(self.plan.batch, self.plan.image_size, 0, self.device)
            for name, (function, least) in stages(loss_fn, scene).items():
                seen, times = work(function, self.device), self._timed([function])
                moving, launching = least / speed, seen.launches * a_launch
                rows.append(
                    {
                        "backend": backend,
                        "stage": name,
                        "ms": times["median"],
                        "busy ms": seen.busy,
                        "launches": seen.launches,
                        "least MB": least / 1e6,
                        "bytes ms": moving,
                        "launches ms": launching,
                        "gap": f"{times['median'] / max(moving, launching):.1f} ×",
                    }
                )
        return rows

    def growth(self) -> list[dict[str, Any]]:
        """Time and memory of the loss while one size grows. Slope: 1 is linear, from the line before to this one."""
        plan = self.plan
        jobs = {
            "images": [(n, plan.image_size, plan.tokens, n) for n in plan.growing_batches],
            "image size": [(plan.batch, n, plan.tokens, n * n) for n in plan.growing_sizes],
            "tokens": [(plan.batch, plan.image_size, n, n) for n in plan.growing_tokens],
        }
        rows: list[dict[str, Any]] = []
        for backend in self.backends:
            for what, sizes in jobs.items():
                before: tuple[float, float, float] | None = None
                for count, size, tokens, amount in sizes:
                    number = {"images": count, "image size": size, "tokens": tokens}[what]
                    function = whole_loss(self.loss(backend, size, tokens), Scene(count, size, 0, self.device))
                    try:
                        spent, memory = self._timed([function])["median"], peak_mib(function, self.device)
                    except torch.OutOfMemoryError:
                        print(f"left out, {backend}, {what} {number} and more: out of memory")
                        break
                    now = (amount, spent, memory)
                    slopes = ["-", "-"] if before is None else [slope(before, now, which) for which in (1, 2)]
                    row = {"backend": backend, "growing": what, "to": number, "ms": spent, "peak MiB": memory}
                    rows.append({**row, "slope of ms": slopes[0], "slope of MiB": slopes[1]})
                    before = now
        return rows

    def hamer(self) -> list[dict[str, Any]]:
        """A training step of HaMeR with the loss and without, each batch size in a process of its own."""
        network = "full" if os.environ.get("HAMER_ROOT") and self.device.type == "cuda" else "stand-in"
        precision = "bf16-mixed" if self.device.type == "cuda" else "32"
        rows = []
        for count in self.plan.hamer_batches:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "cost.json"
                options = {
                    "--network": network, "--batch": count, "--rounds": self.plan.hamer_rounds,
                    "--precision": precision, "--output": output,
                }  # fmt: skip
                command = [sys.executable, str(STEP_COST), *(str(part) for pair in options.items() for part in pair)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{STEP_COST.name} failed:\n{done.stderr}")
                cost = json.loads(output.read_text())
            (name, without), (_, added) = cost["milliseconds"].items()
            least, most = cost["peak_MiB"].values()
            named = "HaMeR" if network == "full" else "stand-in"
            row = {"network": f"{named}, {cost['parameters'] / 1e6:.1f} M", "images": count, "precision": precision}
            row |= {"renderer": cost["renderer"], f"{name}, ms": median(without), "with the texture, ms": median(added)}
            change = {"time": median(added) / median(without) - 1, "memory": most / max(least, 1e-9) - 1}
            rows.append({**row, **{f"more {what}": f"{value:+.1%}" for what, value in change.items()}})
        return rows

    def _timed(self, functions: list[Any]) -> dict[str, float]:
        return over_input_sets(functions, self.device, self.plan.repeats)


def slope(before: tuple[float, ...], now: tuple[float, ...], which: int) -> str:
    """The growth of log(cost) over that of log(amount), between two lines."""
    if min(before[which], now[which]) <= 0:
        return "-"
    return f"{math.log(now[which] / before[which]) / math.log(now[0] / before[0]):.2f}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds and MiB over each size, both axes logarithmic."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    kinds = list(dict.fromkeys(row["growing"] for row in rows))
    figure, axes = pyplot.subplots(2, len(kinds), figsize=(4 * len(kinds), 6), sharex="col", squeeze=False)
    for column, kind in enumerate(kinds):
        for line, unit in enumerate(("ms", "peak MiB")):
            for backend in dict.fromkeys(row["backend"] for row in rows):
                mine = [row for row in rows if (row["growing"], row["backend"]) == (kind, backend)]
                axes[line][column].loglog([row["to"] for row in mine], [row[unit] for row in mine], "o-", label=backend)
            axes[line][column].set_ylabel(unit)
            axes[line][column].legend()
        axes[1][column].set_xlabel(kind)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"written to {path}")


def machine(device: torch.device) -> dict[str, Any]:
    """Where and with what it ran."""
    try:
        nvdiffrast: str | None = importlib.metadata.version("nvdiffrast")
    except importlib.metadata.PackageNotFoundError:
        nvdiffrast = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    versions = {"cuda": torch.version.cuda, "nvdiffrast": nvdiffrast}
    return {**environment(), "device": name, "device bytes": memory, **versions}


def main() -> None:
    """Measure, print the tables and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ("renderer", "loss", "stages", "growth", "hamer")
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that the script runs")
    parser.add_argument("--output", type=Path, help="default: results/gpu.json; none where --small or on a CPU")
    parser.add_argument("--plot", type=Path, help="of the growth; needs matplotlib")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    real = device.type == "cuda" and not arguments.small
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --small is a dry run")
    if device.type == "cpu":
        torch.set_num_threads(1)
        print("a dry run on a CPU, by the wall clock: these figures say nothing about a GPU")
    benchmark = Benchmark(device, SMALL if arguments.small else Plan())
    for backend, reason in benchmark.left_out.items():
        print(f"left out, {backend}: {reason}")
    results: dict[str, Any] = {"environment": machine(device), "left out": benchmark.left_out}
    makers = {
        "renderer": benchmark.renderer, "loss": benchmark.loss_rows, "stages": benchmark.stage_rows,
        "growth": benchmark.growth, "hamer": benchmark.hamer,
    }  # fmt: skip
    for section in arguments.sections:
        rows = results[section] = makers[section]()
        shown = [{key: value for key, value in row.items() if key not in ("longest", "waits at")} for row in rows]
        print(f"\n{section}\n{table(shown)}")
        for row in rows if section == "loss" else ():
            print(f"\nwhere the time goes, {row['backend']}\n" + table(row["longest"]))
            print(f"waits for the device at: {'only a GPU can tell' if row['waits at'] is None else row['waits at']}")
    if arguments.plot and "growth" in results:
        plot(results["growth"], arguments.plot)
    output = arguments.output or (Path(__file__).parent / "results" / "gpu.json" if real else None)
    if output:
        write_json(output, results)


if __name__ == "__main__":
    main()

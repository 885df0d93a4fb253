"""CPU time and memory of the alignment loss, forward and backward, with the bundled prior; and where the time goes.

    python benchmarks/loss.py [--output FILE.json]

One thread, generated images; every line in its own process. First the stages of one step, each beside its floor: the
larger of what its operators read and write at the speed of a plain copy, and of what they multiply and add at that of a
large product of matrices; then the growth over size, batch and observations.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

import texalign as ta
from recording import environment, table, write_json
from renderer import peak_memory
from texalign.render import Scene

# Stage → the module, or class, in which the loss looks the function up, and its name.
EVIDENCE, LOSS = "texalign.loss.evidence", "texalign.loss.dense_texture_alignment_loss"
STAGES: dict[str, tuple[str | type, str]] = {
    "inputs": (ta.loss.LossInputs, "readable"),
    "rasterize": (ta.TexturedHandRenderer, "scene"),
    "observe": (Scene, "observe"),
    "encode": (ta.UVTextureEncoder, "forward"),
    "draw": (Scene, "draw"),
    "forearm": (LOSS, "beyond_wrist"),
    "extend colours": (EVIDENCE, "extend_colours"),
    "fit colours": (EVIDENCE, "fit_colour"),
    "median residual": (EVIDENCE, "laplace_scale"),
    "dilate coverage": (EVIDENCE, "dilate"),
    "background": (EVIDENCE, "background_cost"),
    "likelihood of the hand": (EVIDENCE, "hand_cost"),
    "evidence in all": (LOSS, "region_competition"),
}
OTHERS = ("all of forward", "all of backward")
# torch counts those of a GPU only.
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Traffic(TorchDispatchMode):
    """Adds up the bytes of what operators read and write, views left out, and their products' operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator's own result."""
        result = func(*args, **(kwargs or {}))
        views = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        if not views:
            seen = [each for each in (*args, *(kwargs or {}).values(), result) if isinstance(each, torch.Tensor)]
            # What is expanded is read once for all.
            self.bytes += sum(each.untyped_storage().nbytes() if 0 in each.stride() else each.nbytes for each in seen)
        if func._overloadpacket is ATTENTION:
            self.operations += sdpa_flop_count(*(each.shape for each in args[:3]))
        elif func._overloadpacket in flop_registry:
            self.operations += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def watched(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Every stage's function wrapped."""
    with ExitStack() as stack:
        for stage, (place, name) in STAGES.items():
            owner = importlib.import_module(place) if isinstance(place, str) else place
            stack.enter_context(mock.patch.object(owner, name, wrap(stage, getattr(owner, name))))
        yield


def median_milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * median(times)


def bandwidth() -> float:
    """Bytes a millisecond that a copy between two buffers of 2 MiB reads and writes."""
    source, target = torch.ones(2, 2**19).unbind()
    return 2 * source.nbytes / median_milliseconds(lambda: target.copy_(source), 200)


def arithmetic() -> float:
    """Operations a millisecond of a product of two matrices of 1,024²."""
    matrix = torch.ones(1024, 1024)
    return 2 * 1024**3 / median_milliseconds(lambda: matrix @ matrix, 20)


def measure(count: int, size: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Per stage: CPU milliseconds and MiB moved; and the step's whole time and memory."""
    torch.set_num_threads(1)
    height, width = (1080, 1920) if size == 1080 else (size, size)
    batch = ta.synthetic.generate(count, min(size, 256), torch.Generator().manual_seed(0), left_share=0)
    scale = height / batch.image.shape[2]
    image = torch.nn.functional.interpolate(batch.image, scale_factor=scale, mode="bilinear")
    image = torch.nn.functional.pad(image, (0, width - height, 0, 0), mode="replicate")
    camera = ta.PinholeCamera(batch.camera.focal * scale, batch.camera.principal * scale)
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), (height, width), backend="torch")
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), token_count=tokens)
    times: dict[str, list[float]] = defaultdict(list)
    moved: dict[str, float] = defaultdict(float)
    operations: dict[str, float] = defaultdict(float)

    def clocked(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            times[stage].append(1000 * (time.process_time() - start))
            return result

        return run

    def weighed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with Traffic() as traffic:
                result = function(*args, **kwargs)
            moved[stage] += traffic.bytes
            operations[stage] += traffic.operations
            return result

        return run

    def step(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
        vertices = batch.vertices.clone().requires_grad_()
        value = wrap(OTHERS[0], loss_fn)(vertices, camera, image)
        wrap(OTHERS[1], value.backward)()

    step(weighed)  # the first one prepares atlases
    before = peak_memory(reset=True)
    step(clocked)
    peak = peak_memory() - before
    moved.clear()
    operations.clear()
    # Nested modes count for the inner one only: the evidence's sum lacks its stages'.
    with watched(weighed):
        step(weighed)
    times.clear()
    for _ in range(repeats):
        step(clocked)
    whole = [sum(each) for each in zip(*(times[name] for name in OTHERS))]
    with watched(clocked):
        for _ in range(repeats):
            step(clocked)
    stages = {}
    for stage, found in times.items():
        runs = repeats * (2 if stage in OTHERS else 1)
        calls = len(found) // runs  # one for each few samples
        stages[stage] = median(sum(found[run * calls : (run + 1) * calls]) for run in range(runs))
    return {
        "milliseconds": median(whole),
        "peak_MiB": peak,
        "pixels": count * height * width,
        "stages": {stage: stages[stage] for stage in (*STAGES, *OTHERS)},
        "moved": dict(moved),
        "operations": dict(operations),
        "bandwidth": bandwidth(),
        "arithmetic": arithmetic(),
    }


def stage_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a stage: time, traffic, operations, and the least time that these take."""
    rows = []
    for stage, milliseconds in found["stages"].items():
        counted = stage != "evidence in all" and stage not in OTHERS
        moved, operations = found["moved"].get(stage, 0), found["operations"].get(stage, 0)
        floor = max(moved / found["bandwidth"], operations / found["arithmetic"])
        rows.append(
            {
                "stage": stage,
                "CPU ms": round(milliseconds, 1),
                "MiB moved": round(moved / 2**20) if counted else "",
                "million operations": round(operations / 1e6) if counted else "",
                "floor, ms": round(floor, 1) if counted else "",
                "times that": round(milliseconds / floor, 1) if counted and floor else "",
            }
        )
    return rows


def growth_row(job: dict[str, int], found: dict[str, Any]) -> dict[str, Any]:
    """One row a configuration."""
    evidence = found["stages"]["evidence in all"]
    return {
        **job,
        "CPU ms": found["milliseconds"],
        "ms an image": found["milliseconds"] / job["count"],
        "encode ms": found["stages"]["encode"],
        "evidence ms": evidence,
        "evidence ns a pixel": 1e6 * evidence / found["pixels"],
        "others ns a pixel": 1e6 * (found["milliseconds"] - evidence - found["stages"]["encode"]) / found["pixels"],
        "peak MiB": found["peak_MiB"],
    }


def main() -> None:
    """Print the tables and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loss.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    shapes = [(8, 128, 512), (8, 256, 512), (8, 512, 512), (2, 1024, 512), (1, 1080, 512)]
    shapes += [(1, 256, 512), (2, 256, 512), (4, 256, 512), (16, 256, 512), (32, 256, 512), (32, 128, 512)]
    shapes += [(8, 256, 128), (8, 256, 2048)]
    rows, stages = [], []
    for count, size, tokens in shapes:
        job = {"count": count, "size": size, "tokens": tokens}
        command = [sys.executable, __file__, "--one", json.dumps({**job, "repeats": 5 if count * size < 4096 else 3})]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        rows.append(growth_row(job, found))
        print(".", end="", flush=True, file=sys.stderr)
        if (count, size, tokens) == (8, 256, 512):
            stages = stage_rows(found)
    print(file=sys.stderr)
    print(f"{table(stages)}\n\n{table(rows)}")
    write_json(arguments.output, {"environment": {**environment(), "threads": 1}, "stages": stages, "rows": rows})


if __name__ == "__main__":
    main()

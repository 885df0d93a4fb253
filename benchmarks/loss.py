"""CPU time and memory of the alignment loss, forward and backward, with the bundled prior; and where the time goes.

    python benchmarks/loss.py [--output FILE.json]

512 tokens, one thread, a hand on a third of the image; every line in its own process, as in `renderer.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

import texalign as ta
from recording import environment, table, write_json
from renderer import peak_memory, scene


def measure(count: int, size: int, repeats: int) -> dict[str, float]:
    """CPU milliseconds of the whole step and of its parts, and MiB."""
    torch.set_num_threads(1)
    vertices, camera, _ = scene(count, size)
    surface = ta.HandSurface.mano()
    renderer = ta.TexturedHandRenderer(surface, size, backend="torch")
    encoder = ta.UVTextureEncoder.from_pretrained()
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, encoder)
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    vertices.requires_grad_()
    before = peak_memory(reset=True)
    loss_fn(vertices, camera, image).backward()
    peak = peak_memory() - before

    def clocked(function: object) -> float:
        times = []
        for _ in range(repeats):
            start = time.process_time()
            function()  # type: ignore[operator]
            times.append(1000 * (time.process_time() - start))
        return median(times)

    with torch.no_grad():
        observations = renderer.observe(vertices, camera, image, count=512)
        texture = encoder(observations)
    return {
        "milliseconds": clocked(lambda: loss_fn(vertices, camera, image).backward()),
        "forward": clocked(lambda: loss_fn(vertices, camera, image)),
        "observe": clocked(lambda: renderer.observe(vertices.detach(), camera, image, count=512)),
        "encode": clocked(lambda: encoder(observations.detach())),
        "draw": clocked(lambda: renderer(vertices, camera, texture)),
        "peak_MiB": peak,
    }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loss.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    rows = []
    for count, size in ((8, 128), (32, 128), (8, 256), (32, 256)):
        job = {"count": count, "size": size}
        command = [sys.executable, __file__, "--one", json.dumps({**job, "repeats": 5})]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({**job, **json.loads(done.stdout)})
    print(table(rows))
    write_json(arguments.output, {"environment": {**environment(), "threads": 1}, "rows": rows})


if __name__ == "__main__":
    main()

"""Time and memory of the torch renderer on one CPU thread, beside the plain method it replaces.

    python benchmarks/renderer.py [--output FILE.json] [--quick]

Every line runs in its own process: CPU time is `time.process_time` of the median of several runs, memory is the growth
of the peak resident set over what the process held just before. A hand covers a third of the image; every sample has
its own 256² texture. "plain" expands bounding boxes and lets autograd do the rest, without antialiasing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import texalign as ta
from recording import environment, table, write_json
from texalign.hand import HandModel, sample_pose

COVERAGE = 1 / 3
TEXTURE_SIZE = 256


def scene(count: int, size: int) -> tuple[Tensor, ta.PinholeCamera, Tensor]:
    """Open hands half a metre away, zoomed until a third of the pixels are covered."""
    generator = torch.Generator().manual_seed(0)
    vertices = HandModel()(sample_pose(count, generator, kind="spread")).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    texture = torch.rand(count, 3, TEXTURE_SIZE, TEXTURE_SIZE, generator=generator)
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), size, backend="torch")
    low, high = 0.5, 8.0
    for _ in range(12):
        zoom = (low + high) / 2
        camera = ta.PinholeCamera(torch.full((count, 2), zoom * size), torch.full((count, 2), size / 2))
        with torch.no_grad():
            covered = renderer(vertices[:8], ta.PinholeCamera(camera.focal[:8], camera.principal[:8]), texture[:1])
        low, high = (zoom, high) if (covered.face_index >= 0).float().mean() < COVERAGE else (low, zoom)
    return vertices, camera, texture


def render_plainly(surface: ta.HandSurface, points: Tensor, texture: Tensor, size: int) -> Tensor:
    """Every pixel of every face's bounding box, the nearest by one scatter of (depth bits, face), then autograd."""
    batch, face_count = len(points), len(surface.faces)
    corner = points.detach()[:, surface.faces].reshape(-1, 3, 3)
    screen = corner[..., :2] / corner[..., 2:]
    low = (screen.amin(dim=1) - 0.5).ceil().clamp(0, size).long()
    high = (screen.amax(dim=1) - 0.5).floor().clamp(-1, size - 1).long() + 1
    extent = (high - low).clamp(min=0)
    counts = extent[:, 0] * extent[:, 1]
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    step = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    x, y = low[row, 0] + step % extent[row, 0], low[row, 1] + step // extent[row, 0]

    def weights(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
        relative = corners[..., :2] - (torch.stack([x, y], dim=-1) + 0.5)[:, None] * corners[..., 2:]
        start, end = relative.roll(-1, dims=1), relative.roll(-2, dims=1)
        edges = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
        return edges / edges.sum(dim=1, keepdim=True)

    inside = weights(corner[row], x, y)
    depth = (inside * corner[row][..., 2]).sum(dim=1)
    hit = (inside >= 0).all(dim=1)
    row, x, y, depth = row[hit], x[hit], y[hit], depth[hit]
    pixel = (row // face_count * size + y) * size + x
    key = depth.view(torch.int32).long() << 32 | row % face_count
    empty = torch.iinfo(torch.int64).max
    nearest = torch.full((batch * size * size,), empty).scatter_reduce(0, pixel, key, "amin")
    covered = (nearest != empty).nonzero()[:, 0]
    face, sample = nearest[covered] & 0xFFFFFFFF, covered // (size * size)
    barycentric = weights(points[sample[:, None], surface.faces[face]], covered % size, covered // size % size)
    uv = (surface.uv[surface.uv_faces[face]] * barycentric[..., None]).sum(dim=1)
    grid = torch.full((batch * size * size, 2), -2.0).index_copy(0, covered, 2 * uv - 1)
    return torch.nn.functional.grid_sample(texture, grid.reshape(batch, size, size, 2), align_corners=False)


def measure(method: str, count: int, size: int, backward: bool, repeats: int) -> dict[str, float]:
    """CPU milliseconds and MiB of one configuration, in this process."""
    torch.set_num_threads(1)
    vertices, camera, texture = scene(count, size)
    surface = ta.HandSurface.mano()
    renderer = ta.TexturedHandRenderer(surface, size, backend="torch")
    probe = torch.rand(count, 3, size, size)
    vertices.requires_grad_(backward)
    texture.requires_grad_(backward)

    def run() -> Tensor:
        vertices.grad = texture.grad = None
        if method == "plain":
            image = render_plainly(surface, camera.homogeneous(vertices), texture, size)
            loss = (image * probe).sum()
        else:
            out = renderer(vertices, camera, texture)
            image, loss = out.image, (out.image * probe).sum() + out.coverage.sum()
        if backward:
            loss.backward()
        return image.detach()

    before = peak_memory(reset=True)
    covered = (run().sum(dim=1) > 0).float().mean().item()
    peak = peak_memory() - before
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return {
        "milliseconds": median(times),
        "per_image": median(times) / count,
        "peak_MiB": peak,
        "covered": covered,
    }


def peak_memory(reset: bool = False) -> float:
    """MiB, the largest resident set so far, or since it was reset to what is resident now (Linux)."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # else memory kept from before would hide what the run needs
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "renderer.json")
    parser.add_argument("--quick", action="store_true", help="one batch size, few repeats")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    rows: list[dict[str, Any]] = []
    for method in ("texalign", "plain"):
        for size in (128, 256):
            for count in (8,) if arguments.quick else (1, 8, 32):
                for backward in (False, True):
                    job = {"method": method, "count": count, "size": size, "backward": backward}
                    repeats = 3 if arguments.quick else 9
                    command = [sys.executable, __file__, "--one", json.dumps({**job, "repeats": repeats})]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    rows.append({**job, **json.loads(done.stdout)})
                    print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    print(table(rows))
    write_json(arguments.output, {"environment": {**environment(), "threads": 1}, "rows": rows})


if __name__ == "__main__":
    main()

"""Time and memory of the torch renderer on one CPU thread, beside the plain method without antialiasing.

    python benchmarks/renderer.py [--output FILE.json] [--quick]

Every line runs in its own process, in which the two methods take turns: CPU time is the median of `time.process_time`,
the ratio the median of the turns' ratios, memory the growth of the peak resident set over what the process held just
before. A hand covers a third of the image; every sample has its own 256² texture. "plain" expands row spans, keeps the
nearest face by one scatter, reads everything by `index_select` and leaves the rest to autograd: no antialiasing, no
coverage or depth, no clipping at the near plane, and colours that bleed across the borders of charts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
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


def nearest_plainly(points: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The covered pixels and their faces: each face's row spans, the nearest by one scatter of (depth bits, face)."""
    corner = points.index_select(1, faces.reshape(-1)).reshape(-1, 3, 3)
    inverse = 1 / corner[..., 2]
    x, y = corner[..., 0] * inverse, corner[..., 1] * inverse
    order = y.argsort(dim=1)
    (x0, x1, x2), (y0, y1, y2), (z0, z1, z2) = (values.gather(1, order).unbind(1) for values in (x, y, inverse))
    top, bottom = ((each - 0.5).ceil().clamp(0, size) for each in (y0, y2))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    slope_x = ((z1 - z0) * (y2 - y0) - (z2 - z0) * (y1 - y0)) / area
    slope_y = ((z2 - z0) * (x1 - x0) - (z1 - z0) * (x2 - x0)) / area
    columns = [slope_x, slope_y, z0 - slope_x * x0 - slope_y * y0, y1, top]
    for (xa, ya), (xb, yb) in (((x0, y0), (x2, y2)), ((x0, y0), (x1, y1)), ((x1, y1), (x2, y2))):
        slope = (xb - xa) / (yb - ya)
        columns += [slope, xa - slope * ya]

    def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
        total = int(counts.sum())
        which = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=total)
        return which, torch.arange(total) - (counts.cumsum(0) - counts).index_select(0, which)

    face, step = expand(torch.where(area.abs() > 1e-12, bottom - top, 0).long())
    of_row = torch.stack(columns).index_select(1, face)
    slope_x, slope_y, base, middle, top, long, long_0, upper, upper_0, lower, lower_0 = of_row
    row = step + top
    centre = row + 0.5
    one, other = (
        long * centre + long_0,
        torch.where(centre < middle, upper * centre + upper_0, lower * centre + lower_0),
    )
    left, right = (
        (each - 0.5).ceil().clamp(0, size) for each in (torch.minimum(one, other), torch.maximum(one, other))
    )
    value = base + slope_y * centre + slope_x * (left + 0.5)
    image = face // len(faces)
    first, face = (image * size + row.long()) * size + left.long(), face - image * len(faces)
    span, step = expand((right - left).long())
    pixel = step + first.index_select(0, span)
    depth = 1 / torch.addcmul(value.index_select(0, span), slope_x.index_select(0, span), step.float())
    key = depth.view(torch.int32).long() << 32 | face.index_select(0, span)
    empty = torch.iinfo(torch.int64).max
    nearest = torch.full((len(points) * size * size,), empty).scatter_reduce_(0, pixel, key, "amin")
    covered = (nearest != empty).nonzero()[:, 0]
    return covered, nearest.index_select(0, covered) & 0xFFFFFFFF


def render_plainly(surface: ta.HandSurface, points: Tensor, texture: Tensor, size: int) -> Tensor:
    """Colours (B, 3, H, W) by autograd on lists of the covered pixels."""
    (batch, _, height, width), faces = texture.shape, surface.faces
    with torch.no_grad():
        pixel, face = nearest_plainly(points.detach(), faces, size)
        row = pixel // size
        image = row // size
        x, y = (pixel - row * size) + 0.5, (row - image * size) + 0.5
    corner = points.index_select(1, faces.reshape(-1)).reshape(-1, 9).index_select(0, image * len(faces) + face)
    ax, ay, az, bx, by, bz, cx, cy, cz = corner.unbind(1)
    ax, ay, bx, by, cx, cy = ax - x * az, ay - y * az, bx - x * bz, by - y * bz, cx - x * cz, cy - y * cz
    a, b, c = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    inverse = 1 / (a + b + c)
    au, av, bu, bv, cu, cv = surface.uv[surface.uv_faces].reshape(-1, 6).index_select(0, face).unbind(1)
    u, v = (a * au + b * bu + c * cu) * inverse, (a * av + b * bv + c * cv) * inverse
    u, v = (u * width - 0.5).clamp(0, width - 1.001), (v * height - 0.5).clamp(0, height - 1.001)
    with torch.no_grad():
        column, row = u.floor(), v.floor()
        first = image * (height * width) + row.long() * width + column.long()
        taps = torch.cat([first, first + 1, first + width, first + width + 1])
    texels = texture.transpose(0, 1).reshape(3, -1).index_select(1, taps).reshape(3, 4, -1)
    one, two, three, four = texels.unbind(1)
    upper, lower = torch.lerp(one, two, u - column), torch.lerp(three, four, u - column)
    colours = torch.zeros(3, batch * size * size).index_copy(1, pixel, torch.lerp(upper, lower, v - row))
    return colours.reshape(3, batch, size, size).transpose(0, 1)


def measure(count: int, size: int, backward: bool, repeats: int) -> dict[str, float]:
    """CPU milliseconds and MiB of both methods, in this process."""
    torch.set_num_threads(1)
    vertices, camera, texture = scene(count, size)
    surface = ta.HandSurface.mano()
    renderer = ta.TexturedHandRenderer(surface, size, backend="torch")
    probe = torch.rand(count, 3, size, size)
    vertices.requires_grad_(backward)
    texture.requires_grad_(backward)

    def ours() -> tuple[Tensor, Tensor]:
        out = renderer(vertices, camera, texture)
        return out.image, (out.image * probe).sum() + out.coverage.sum()

    def plain() -> tuple[Tensor, Tensor]:
        image = render_plainly(surface, camera.homogeneous(vertices), texture, size)
        return image, (image * probe).sum()

    def run(method: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        vertices.grad = texture.grad = None
        image, total = method()
        if backward:
            total.backward()
        return image.detach()

    methods, peaks, images = (ours, plain), [], []
    for method in methods:
        before = peak_memory(reset=True)
        images.append(run(method))
        peaks.append(peak_memory() - before)
    covered = (images[1].sum(dim=1) > 0).float().mean().item()
    # But for outlines and the charts' borders both show the same.
    assert ((images[0] - images[1]).abs() > 1e-3).float().mean() < 0.5 * covered
    times: list[tuple[float, ...]] = []
    for _ in range(repeats):
        turn = []
        for method in methods:
            start = time.process_time()
            run(method)
            turn.append(1000 * (time.process_time() - start))
        times.append(tuple(turn))
    ours_ms, plain_ms = (median(column) for column in zip(*times))
    return {
        "milliseconds": ours_ms,
        "plain_milliseconds": plain_ms,
        "ratio": median(mine / other for mine, other in times),
        "per_image": ours_ms / count,
        "peak_MiB": peaks[0],
        "plain_peak_MiB": peaks[1],
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
    for size in (128, 256):
        for count in (8,) if arguments.quick else (1, 8, 32):
            for backward in (False, True):
                job = {"count": count, "size": size, "backward": backward}
                repeats = 5 if arguments.quick else 15
                command = [sys.executable, __file__, "--one", json.dumps({**job, "repeats": repeats})]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({**job, **json.loads(done.stdout)})
                print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    print(table(rows))
    write_json(arguments.output, {"environment": {**environment(), "threads": 1}, "rows": rows})


if __name__ == "__main__":
    main()

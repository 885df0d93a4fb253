"""How faithful are coverage and its gradient at a hand's outline? Walking over the mesh or a pixel's own face only.

    python benchmarks/silhouettes.py [--hands 48] [--output FILE.json]

Truth is the hand rendered at eight times the size and averaged. A smooth random image w weighs the coverage; by the
divergence theorem, moving the hand changes Σ coverage · w by f/z Σ coverage · ∇w, and the gradient that reaches the
vertices must say the same. Antialiasing that looks for the silhouette in the pixel's own face only is what nvdiffrast's
`antialias` does; here it is this library's with a walk of one step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import texalign as ta
from recording import environment, table, write_json
from texalign.hand import HandModel, sample_pose
from texalign.rasterize import silhouettes

DISTANCE = 10.0  # metres: f/z is the same all over the hand
FINER = 8


def windows(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth weights (B, 1, S, S) that vanish at the frame."""
    bump = torch.hann_window(size, periodic=False)
    ramp = torch.linspace(-1, 1, size)
    a, b = torch.randn(2, count, 1, 1, 1, generator=generator)
    return bump[:, None] * bump * (a * ramp + b * ramp[:, None] + 0.5)


def measure(vertices: Tensor, size: int, steps: int) -> dict[str, float]:
    """Pairs of pixels found to lie across a silhouette, and errors of coverage and gradient, over all hands."""
    count = len(vertices)
    surface = ta.HandSurface.mano()
    camera = ta.PinholeCamera(torch.full((count, 2), 4.0 * DISTANCE * size), torch.full((count, 2), size / 2))
    texture = torch.ones(1, 3, 8, 8)
    weight = windows(count, size, torch.Generator().manual_seed(0))
    silhouettes.MAX_STEPS = steps
    shift = torch.zeros(count, 1, 2, requires_grad=True)
    moved = torch.cat([vertices[..., :2] + shift, vertices[..., 2:]], dim=-1)
    renderer = ta.TexturedHandRenderer(surface, size, backend="torch")
    out = renderer(moved, camera, texture)
    with torch.no_grad():
        scene = renderer.scene(vertices, camera)
        pairs = silhouettes.silhouette_pairs(
            scene.points, surface.faces, surface.twins, scene.found.face_index, scene.found.nearness
        )
    (gradient,) = torch.autograd.grad((out.coverage * weight).sum(), shift)
    finer = ta.TexturedHandRenderer(surface, size * FINER, backend="torch")
    with torch.no_grad():
        zoomed = camera.cropped(torch.zeros(2), torch.tensor(float(FINER)))
        covered = [
            finer(v[None], ta.PinholeCamera(f[None], p[None]), texture).face_index >= 0
            for v, f, p in zip(vertices, zoomed.focal, zoomed.principal)
        ]
    truth = torch.nn.functional.avg_pool2d(torch.stack(covered).float(), FINER)
    slope_y, slope_x = torch.gradient(weight, dim=(2, 3))
    exact = torch.stack([(truth * s).sum(dim=(1, 2, 3)) for s in (slope_x, slope_y)], dim=1) * 4.0 * size
    outline = (truth > 0) & (truth < 1)
    error = (gradient[:, 0] - exact).norm(dim=1) / exact.norm(dim=1)
    return {
        "silhouette_pairs": len(pairs.own),
        "coverage_error": (out.coverage - truth)[outline].abs().mean().item(),
        "not_antialiased": ((out.face_index >= 0)[:, None].float() - truth)[outline].abs().mean().item(),
        "gradient_error_median": error.median().item(),
        "gradient_error_95": error.quantile(0.95).item(),
        "gradient_cosine_median": torch.nn.functional.cosine_similarity(gradient[:, 0], exact).median().item(),
    }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hands", type=int, default=48)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "silhouettes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pose = sample_pose(arguments.hands, torch.Generator().manual_seed(0))
    vertices = HandModel()(pose).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, DISTANCE])
    rows = []
    walk = silhouettes.MAX_STEPS
    for size in (64, 128, 256):
        for method, steps in (("own face only", 1), ("walking", walk)):
            rows.append({"image_size": size, "method": method, **measure(vertices, size, steps)})
    print(table(rows))
    write_json(arguments.output, {"environment": environment(), "hands": arguments.hands, "rows": rows})


if __name__ == "__main__":
    main()

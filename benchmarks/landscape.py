"""Is the loss lower at the truth than beside it, and does its gradient point home? On unseen synthetic images.

    python benchmarks/landscape.py [--images 64] [--output FILE.json]

The true mesh is moved by whole pixels along x or y, or by a share of its depth, both ways; the table counts images.
Three losses: this library's with the bundled prior, the same with the mean colour in the prior's place, and the plain
reading of the idea (mean absolute difference over covered pixels, gradient through the interior only).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from alignment import MeanColour
from recording import environment, table, write_json
from texalign import synthetic

SIZE, CHUNK = 128, 16


class PlainDifference(nn.Module):
    """Mean absolute difference between rendering and image over the covered pixels."""

    def __init__(self, renderer: ta.TexturedHandRenderer, encoder: nn.Module) -> None:
        super().__init__()
        self.renderer, self.encoder = renderer, encoder

    def forward(self, vertices: Tensor, camera: ta.PinholeCamera, image: Tensor, generator: torch.Generator) -> Tensor:
        """(B,)."""
        with torch.no_grad():
            observations = self.renderer.observe(vertices, camera, image, count=512, generator=generator)
            texture = self.encoder(observations)
        rendering = self.renderer(vertices, camera, texture)
        covered = (rendering.face_index >= 0)[:, None].float()
        difference = (rendering.image - image).abs().mean(dim=1, keepdim=True)
        return (difference * covered).sum(dim=(1, 2, 3)) / covered.sum(dim=(1, 2, 3)).clamp(min=1)


def offsets(camera: ta.PinholeCamera, vertices: Tensor) -> dict[str, list[Tensor]]:
    """For each name the two moves (B, 1, 3) in metres."""
    depth = vertices[..., 2].mean(dim=1)
    pixel = depth[:, None] / camera.focal
    zero = torch.zeros_like(depth)
    moves = {f"{n} px in x": torch.stack([n * pixel[:, 0], zero, zero], dim=1) for n in (1, 2, 4, 8)}
    moves |= {f"{n} px in y": torch.stack([zero, n * pixel[:, 1], zero], dim=1) for n in (1, 2, 4, 8)}
    moves |= {f"{n} % in depth": torch.stack([zero, zero, n / 100 * depth], dim=1) for n in (2, 4, 8)}
    return {name: [move[:, None], -move[:, None]] for name, move in moves.items()}


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "landscape.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE, backend="torch")
    encoder = ta.UVTextureEncoder.from_pretrained()
    losses: dict[str, nn.Module] = {
        "prior": ta.DenseTextureAlignmentLoss(renderer, encoder, reduction="none"),
        "mean colour": ta.DenseTextureAlignmentLoss(renderer, MeanColour(), reduction="none"),
        "plain difference": PlainDifference(renderer, encoder),
    }
    lower: dict[tuple[str, str], list[Tensor]] = {}
    home: dict[tuple[str, str], list[Tensor]] = {}
    generator = torch.Generator().manual_seed(20_000)
    for _ in range(arguments.images // CHUNK):
        batch = synthetic.generate(CHUNK, SIZE, generator, left_share=0)
        for name, loss_fn in losses.items():
            with torch.no_grad():
                truth = loss_fn(batch.vertices, batch.camera, batch.image, generator=seeded())
            for move, both in offsets(batch.camera, batch.vertices).items():
                for step in both:
                    shift = step.clone().requires_grad_()
                    value = loss_fn(batch.vertices + shift, batch.camera, batch.image, generator=seeded())
                    (gradient,) = torch.autograd.grad(value.sum(), shift)
                    lower.setdefault((move, name), []).append(truth < value.detach())
                    home.setdefault((move, name), []).append((gradient * step).sum(dim=(1, 2)) > 0)
    rows: list[dict[str, Any]] = []
    for move in dict.fromkeys(key[0] for key in lower):
        row: dict[str, Any] = {"moved by": move}
        for name in losses:
            row[f"{name}: lower at truth"] = torch.cat(lower[move, name]).float().mean().item()
            row[f"{name}: points home"] = torch.cat(home[move, name]).float().mean().item()
        rows.append(row)
    print(table(rows))
    write_json(arguments.output, {"environment": environment(), "images": arguments.images, "rows": rows})


def seeded() -> torch.Generator:
    """The same draw of observations every time."""
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()

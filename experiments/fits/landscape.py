"""Is a loss lower at the truth than beside it, and does its gradient point home?

The true mesh is moved by pixels along x or y, by a share of its depth, or one of its finger joints is turned, both
ways; a row counts images. Part of `python experiments/fits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fits.plain_scenes import Scenes
from texalign.hand import HandModel, rotation_matrices
from texalign.synthetic import SyntheticBatch

Batch = Scenes | SyntheticBatch
# From how strong a move to vertices (B, 778, 3); a strength is a tensor (B,), 0 for none.
Move = Callable[[Tensor], Tensor]


def moves(batch: Batch, model: HandModel) -> dict[str, list[tuple[Move, float]]]:
    """For each row of the table: functions that move the meshes, and by how much."""
    depth = batch.vertices[..., 2].mean(dim=1)
    pixel = depth[:, None] / batch.camera.focal

    def along(direction: Tensor) -> Move:
        return lambda strength: batch.vertices + (strength[:, None] * direction)[:, None]

    def turned(joint: int) -> Move:
        def turn(strength: Tensor) -> Tensor:
            rotations = rotation_matrices(batch.pose)
            local = rotation_matrices(torch.deg2rad(strength)[:, None] * model.joint_axes[joint, 0])
            one = torch.zeros(16, dtype=torch.bool).index_fill(0, torch.tensor(joint + 1), True)[None, :, None, None]
            rotations = torch.where(one, rotations @ local[:, None], rotations)
            return model(rotations, batch.betas).vertices + batch.translation[:, None]

        return turn

    def both_ways(move: Move, size: float) -> list[tuple[Move, float]]:
        return [(move, float(size)), (move, -float(size))]

    zero = torch.zeros_like(depth)
    across, down = torch.stack([pixel[:, 0], zero, zero], 1), torch.stack([zero, pixel[:, 1], zero], 1)
    away = torch.stack([zero, zero, depth / 100], dim=1)
    rows: dict[str, list[tuple[Move, float]]] = {}
    for name, direction, sizes in (("px in x", across, (1, 2, 4, 8)), ("px in y", down, (1, 2, 4, 8))):
        rows |= {f"{size} {name}": both_ways(along(direction), size) for size in sizes}
    rows |= {f"{size} % in depth": both_ways(along(away), size) for size in (2, 4, 8)}
    for degrees in (5.0, 10.0, 20.0):
        # Every joint once, half of them bent and half stretched.
        rows[f"a joint by {degrees:.0f}°"] = [(turned(j), degrees if j % 2 else -degrees) for j in range(15)]
    return rows


def landscape(loss_fn: nn.Module, batch: Batch, model: HandModel) -> dict[str, dict[str, list[float]]]:
    """By row, for every image the share of moves at which the loss is lower at the truth, and points home.

    A joint that turns something out of sight moves no pixel: where the loss does not change at all, it does not count.
    """
    with torch.no_grad():
        truth = loss_fn(batch.vertices, batch.camera, batch.image, generator=seeded())
    result = {}
    for name, several in moves(batch, model).items():
        lower, home, counted = (torch.zeros(len(truth)) for _ in range(3))
        for move, size in several:
            strength = torch.full((len(truth),), size, requires_grad=True)
            value = loss_fn(move(strength), batch.camera, batch.image, generator=seeded())
            (gradient,) = torch.autograd.grad(value.sum(), strength)
            counts = (value.detach() != truth) & (gradient != 0)
            lower += (truth < value.detach()) & counts
            home += (gradient * size > 0) & counts
            counted += counts
        some = counted > 0
        result[name] = {"lower": (lower / counted)[some].tolist(), "home": (home / counted)[some].tolist()}
    return result


def landscape_rows(results: dict[str, list[dict[str, dict[str, list[float]]]]]) -> list[dict[str, Any]]:
    """The table: results by name of loss, a list of chunks each."""
    first = next(iter(results.values()))[0]
    rows = []
    for move in first:
        row: dict[str, Any] = {"moved by": move}
        for name, chunks in results.items():
            for key, heading in (("lower", "lower at truth"), ("home", "points home")):
                values = torch.tensor([value for chunk in chunks for value in chunk[move][key]])
                row[f"{name}: {heading}"] = values.mean().item()
        rows.append(row)
    return rows


def seeded() -> torch.Generator:
    """The same draw of observations every time."""
    return torch.Generator().manual_seed(0)

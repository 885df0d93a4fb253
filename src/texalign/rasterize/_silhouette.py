"""Torch backend: which pairs of neighbouring pixels a silhouette edge separates, and where it crosses between them."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_depth(depth: Tensor) -> Tensor:
    return torch.where(depth.abs() > 1e-12, depth, torch.full_like(depth, 1e-12))


def crossing(start: Tensor, end: Tensor) -> Tensor:
    """Where the line through two points (M, 2) crosses the first axis."""
    rise = end[:, 1] - start[:, 1]
    rise = torch.where(rise.abs() > 1e-3, rise, torch.copysign(torch.full_like(rise, 1e-3), rise))
    return (start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]) / rise


def _silhouette_edges(points: Tensor, faces: Tensor, opposite: Tensor) -> Tensor:
    """(B·F, 3) bool: edge i (between corners i+1 and i+2) is a boundary, or both its faces lie on its same side."""
    screen = points[..., :2] / safe_depth(points[..., 2:])
    corner = screen[:, faces]
    across = screen[:, torch.where(opposite >= 0, opposite, faces)]
    start, end = corner.roll(-1, dims=2), corner.roll(-2, dims=2)

    def side(point: Tensor) -> Tensor:
        a, b = start - point, end - point
        return a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1] >= 0

    in_front = (points[..., 2] > 1e-6)[:, faces].all(dim=-1, keepdim=True)
    return ((side(corner) == side(across)) & in_front).reshape(-1, 3)


def silhouette_pairs(
    points: Tensor, faces: Tensor, opposite: Tensor, face_index: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """The pairs of neighbouring pixels that a silhouette edge separates.

    `depth` (B·H·W,) is the inverse depth, 0 on the background, so that the background is never the nearer one.

    Returns, for M pairs: the pixel that changes, the other one, +1 if (other − target) is the colour difference from
    the pair's first to its second pixel else −1, the edge's two rows in points (B·V), the nearer pixel's centre
    (M, 2), whether the pair is vertical, and +1 if the nearer pixel is the pair's first else −1.
    """
    height, width = face_index.shape[1:]
    silhouette = _silhouette_edges(points, faces, opposite)
    flat = face_index.reshape(-1)
    horizontal = (face_index[:, :, 1:] != face_index[:, :, :-1]).nonzero()
    vertical = (face_index[:, 1:] != face_index[:, :-1]).nonzero()
    both = torch.cat([horizontal, vertical])
    is_vertical = torch.arange(len(both), device=both.device) >= len(horizontal)
    first = (both[:, 0] * height + both[:, 1]) * width + both[:, 2]
    second = first + torch.where(is_vertical, width, 1)
    second_nearer = depth.index_select(0, second) > depth.index_select(0, first)
    own = torch.where(second_nearer, second, first)
    corner_row = both[:, 0] * faces.shape[0] + flat.index_select(0, own)
    kept = silhouette.any(dim=1).index_select(0, corner_row).nonzero()[:, 0]
    first, second, own, corner_row, is_vertical, second_nearer = (
        t.index_select(0, kept) for t in (first, second, own, corner_row, is_vertical, second_nearer)
    )
    row = own.div(width, rounding_mode="floor")
    centre = torch.stack([own - row * width, row % height], dim=-1).to(points.dtype) + 0.5
    sample = corner_row.div(faces.shape[0], rounding_mode="floor")
    face = corner_row - sample * faces.shape[0]
    sign = torch.where(second_nearer, -1.0, 1.0).to(points.dtype)

    vertex_rows = faces.index_select(0, face) + (sample * points.shape[1])[:, None]
    corner = points.reshape(-1, 3).index_select(0, vertex_rows.reshape(-1)).reshape(-1, 3, 3)
    screen = corner[..., :2] / safe_depth(corner[..., 2:]) - centre[:, None]
    screen = torch.where(is_vertical[:, None, None], screen.flip(-1), screen)
    start, end = screen.roll(-1, dims=1), screen.roll(-2, dims=1)
    delta = end - start
    crosses = (start[..., 1] >= 0) != (end[..., 1] >= 0)
    rise = torch.where(crosses & (delta[..., 1] != 0), delta[..., 1], 1)
    distance = (start[..., 0] * delta[..., 1] - start[..., 1] * delta[..., 0]) / rise * sign[:, None]
    # The face is left through the farthest crossing; it counts if that edge is a silhouette and steep for this axis.
    distance, edge = torch.where(crosses, distance, -torch.inf).max(dim=1)
    steep = delta[..., 1].abs() >= delta[..., 0].abs()
    good = (silhouette.index_select(0, corner_row) & steep).gather(1, edge[:, None])[:, 0]
    tolerance = 1 / 16
    good &= (distance > -tolerance) & (distance < 1 + tolerance)
    kept = good.nonzero()[:, 0]
    first, second, centre, sign, is_vertical, edge, distance, vertex_rows = (
        t.index_select(0, kept) for t in (first, second, centre, sign, is_vertical, edge, distance, vertex_rows)
    )
    into_first = sign * (0.5 - distance) > 0
    edge_rows = [vertex_rows.gather(1, ((edge + k) % 3)[:, None])[:, 0] for k in (1, 2)]
    target = torch.where(into_first, first, second)
    other = torch.where(into_first, second, first)
    flow = torch.where(into_first, 1.0, -1.0).to(points.dtype)
    return target, other, flow, (edge_rows[0], edge_rows[1]), centre, is_vertical, sign

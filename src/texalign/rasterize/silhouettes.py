"""Which pairs of neighbouring pixels a silhouette separates, found by walking over the mesh from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Faces walked between two pixel centres before giving up. A hand of 1,538 faces across 64 pixels needs up to about ten.
MAX_STEPS = 12
# Pairs that have arrived are removed after every second step: it takes a wait for the device, and after the first step
# nearly all of them are still under way.
STEPS_BETWEEN_REMOVALS = 2
# Crossings this far (in pixels) beyond the segment between two centres are rounding, not another silhouette.
TOLERANCE = 1 / 16


class SilhouettePairs(NamedTuple):
    """M pairs of 4-neighbours with a silhouette between them, seen from the nearer pixel of each.

    Attributes:
        own: (M,) int64, flat index of the pixel that shows the nearer surface.
        other: (M,) int64, its neighbour, which shows what lies behind the silhouette.
        start_row, end_row: (M,) int64, rows in points (B·V) of the silhouette edge's two ends.
        centre: (M, 2), the nearer pixel's centre, pixels.
        direction: (M, 2), the unit step from the nearer pixel to the other.
        distance: (M,), how far along that step the edge is crossed, in [-1/16, 17/16].
    """

    own: Tensor
    other: Tensor
    start_row: Tensor
    end_row: Tensor
    centre: Tensor
    direction: Tensor
    distance: Tensor


def safe_depth(depth: Tensor) -> Tensor:
    """Depth with zeros replaced, for dividing by."""
    return torch.where(depth.abs() > 1e-12, depth, torch.full_like(depth, 1e-12))


def along(direction: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Components of an offset (M, 2) along an axis-parallel unit direction and across it."""
    return (offset * direction).sum(dim=-1), offset[..., 0] * direction[..., 1] - offset[..., 1] * direction[..., 0]


def crossing(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Where the line through two points, each given as (along, across), meets the axis across = 0."""
    rise = end[1] - start[1]
    rise = torch.where(rise.abs() > 1e-3, rise, torch.copysign(torch.full_like(rise, 1e-3), rise))
    return (start[0] * end[1] - start[1] * end[0]) / rise


def silhouette_edges(points: Tensor, faces: Tensor, twins: Tensor) -> Tensor:
    """(B, F, 3) bool: edge i (opposite corner i) is a boundary, or its two faces lie on its same side on the screen."""
    screen = points[..., :2] / safe_depth(points[..., 2:])
    corner = screen[:, faces]
    across = screen[:, torch.where(twins >= 0, faces.reshape(-1)[twins.clamp(min=0)], faces)]
    start, end = corner.roll(-1, dims=2), corner.roll(-2, dims=2)

    def side(point: Tensor) -> Tensor:
        a, b = start - point, end - point
        return a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1] >= 0

    in_front = (points[..., 2] > 1e-6)[:, faces].all(dim=-1, keepdim=True)
    return (side(corner) == side(across)) & in_front


def silhouette_pairs(
    points: Tensor, faces: Tensor, twins: Tensor, face_index: Tensor, nearness: Tensor
) -> SilhouettePairs:
    """Find every silhouette that crosses the segment between two neighbouring pixels' centres.

    From the nearer pixel's face the walk leaves through the edge that the segment crosses, into the next face, and so
    on, until that edge is a silhouette or lies beyond the other pixel. Looking at the first face only, as is usual,
    misses two fifths of a hand's outline at 256 pixels and three quarters at 64: near the outline faces are seen
    edge-on and are thinner than a pixel (`benchmarks/silhouettes.py`).

    Args:
        points: (B, V, 3) homogeneous pixels.
        faces: (F, 3) int64.
        twins: (F, 3) int64, `HandSurface.twins`.
        face_index: (B, H, W) int64.
        nearness: (B, H, W) float, larger = nearer, 0 on the background.
    """
    own, other = _differing_pairs(face_index, nearness.reshape(-1))
    height, width = face_index.shape[1:]
    sample, centre, direction = _steps(own, other, height, width, points.dtype)
    screen = (points[..., :2] / safe_depth(points[..., 2:])).reshape(-1, 2)
    silhouette = silhouette_edges(points, faces, twins).reshape(-1)
    flat_faces, flat_twins = faces.reshape(-1), twins.reshape(-1)

    def place(vertex: Tensor) -> tuple[Tensor, Tensor]:
        return along(direction, screen.index_select(0, sample * points.shape[1] + vertex) - centre)

    face = face_index.reshape(-1).index_select(0, own)
    edge, distance = _first_exit([place(flat_faces.index_select(0, 3 * face + k)) for k in range(3)], face)
    found_edge = torch.full_like(edge, -1)
    found_distance = torch.zeros_like(distance)
    walking = torch.arange(len(edge), device=edge.device)
    for step in range(1, MAX_STEPS + 1):
        reached = silhouette.index_select(0, sample * flat_faces.numel() + edge)
        good = reached & (distance > -TOLERANCE) & (distance < 1 + TOLERANCE)
        found_edge.index_copy_(0, walking, torch.where(good, edge, -1))
        found_distance.index_copy_(0, walking, torch.where(good, distance, 0))
        twin = flat_twins.index_select(0, edge)
        onward = ~reached & (distance.abs() < 1) & (twin >= 0)
        if step == MAX_STEPS:
            break
        if step % STEPS_BETWEEN_REMOVALS:
            # Those that have arrived stay where they are, and are found there again.
            next_edge, next_distance = _next_exit(twin.clamp(min=0), flat_faces, place)
            edge, distance = torch.where(onward, next_edge, edge), torch.where(onward, next_distance, distance)
            continue
        still = onward.nonzero()[:, 0]
        if not len(still):
            break
        walking, twin, sample, centre, direction = (
            t.index_select(0, still) for t in (walking, twin, sample, centre, direction)
        )
        edge, distance = _next_exit(twin, flat_faces, place)

    found = (found_edge >= 0).nonzero()[:, 0]
    own, other, edge, distance = (t.index_select(0, found) for t in (own, other, found_edge, found_distance))
    sample, centre, direction = _steps(own, other, height, width, points.dtype)
    face, corner = edge.div(3, rounding_mode="floor"), edge % 3
    start_row, end_row = (
        sample * points.shape[1] + flat_faces.index_select(0, 3 * face + (corner + k) % 3) for k in (1, 2)
    )
    # An edge that runs more along the step than across it is left to the pairs of the other axis: no piece of outline
    # counts twice.
    extent = along(direction, screen.index_select(0, end_row) - screen.index_select(0, start_row))
    kept = (extent[1].abs() >= extent[0].abs()).nonzero()[:, 0]
    pairs = (own, other, start_row, end_row, centre, direction, distance)
    return SilhouettePairs(*(t.index_select(0, kept) for t in pairs))


def _steps(own: Tensor, other: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For pairs of flat pixel indices: the sample, the first pixel's centre (M, 2) and the unit step to the second."""
    row = own.div(width, rounding_mode="floor")
    centre = torch.stack([own - row * width, row % height], dim=-1).to(dtype) + 0.5
    step = other - own
    vertical = step.abs() == width
    sign = step.sign().to(dtype)
    direction = torch.stack([torch.where(vertical, 0, sign), torch.where(vertical, sign, 0)], dim=-1)
    return row.div(height, rounding_mode="floor"), centre, direction


def _differing_pairs(face_index: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor]:
    """4-neighbours that show different faces: the nearer pixel and the other."""
    differs = face_index.new_zeros(2, *face_index.shape, dtype=torch.bool)
    torch.ne(face_index[:, :, 1:], face_index[:, :, :-1], out=differs[0, :, :, :-1])
    torch.ne(face_index[:, 1:], face_index[:, :-1], out=differs[1, :, :-1])
    # Both kinds of neighbour in one list: its length is the one thing that the host has to wait for.
    below, first = differs.reshape(2, -1).nonzero().unbind(1)
    second = first + torch.where(below.bool(), face_index.shape[2], 1)
    second_nearer = nearness.index_select(0, second) > nearness.index_select(0, first)
    return torch.where(second_nearer, second, first), torch.where(second_nearer, first, second)


def _first_exit(corner: list[tuple[Tensor, Tensor]], face: Tensor) -> tuple[Tensor, Tensor]:
    """The edge of the nearer pixel's own face through which the step leaves it, as 3·face + edge, and how far away."""
    distances = []
    for k in range(3):
        start, end = corner[(k + 1) % 3], corner[(k + 2) % 3]
        crosses = (start[1] >= 0) != (end[1] >= 0)
        distances.append(torch.where(crosses, crossing(start, end), -torch.inf))
    distance, edge = torch.stack(distances, dim=1).max(dim=1)
    return 3 * face + edge, distance


def _next_exit(
    twin: Tensor, flat_faces: Tensor, place: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Having entered a face through edge `twin`, the edge through which the step leaves it, and how far away."""
    face = twin.div(3, rounding_mode="floor")
    entry = twin - 3 * face
    corner = [place(flat_faces.index_select(0, 3 * face + (entry + k) % 3)) for k in range(3)]
    apex, first, second = corner
    # The step leaves between the apex and that end of the entry edge which lies on the axis's other side.
    past_second = (apex[1] >= 0) == (first[1] >= 0)
    end = (torch.where(past_second, second[0], first[0]), torch.where(past_second, second[1], first[1]))
    edge = 3 * face + (entry + torch.where(past_second, 1, 2)) % 3
    return edge, crossing(apex, end)

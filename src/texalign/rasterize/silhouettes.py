"""Which pairs of neighbouring pixels a silhouette separates, found by walking over the mesh from one to the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Faces walked between two pixel centres before giving up. A hand of 1,538 faces across 64 pixels needs up to about ten.
MAX_STEPS = 12
# Pairs that have arrived are removed after every second step only, for it takes a wait for the device.
STEPS_BETWEEN_REMOVALS = 2
# Crossings this far (in pixels) beyond the segment between two centres are rounding, not another silhouette.
TOLERANCE = 1 / 16


class Steps(NamedTuple):
    """M steps from a pixel's centre to a neighbour's, along an axis of the image.

    Attributes:
        along, across: (M,) int64, where in `project(points)` the sample's coordinates of that axis and the other begin.
        centre_along, centre_across: (M,) the first pixel's centre.
        sign: (M,) 1 or -1, the step.
    """

    along: Tensor
    across: Tensor
    centre_along: Tensor
    centre_across: Tensor
    sign: Tensor

    def place(self, screen: Tensor, vertex: Tensor) -> tuple[Tensor, Tensor]:
        """A vertex of each (M,) relative to the centre: pixels along the step, and across it."""
        along = screen.index_select(0, self.along + vertex) - self.centre_along
        return along * self.sign, screen.index_select(0, self.across + vertex) - self.centre_across

    def listed(self, rows: Tensor) -> Steps:
        """Some of the steps."""
        return Steps(*(values.index_select(0, rows) for values in self))


class SilhouettePairs(NamedTuple):
    """M pairs of 4-neighbours with a silhouette between them, seen from the nearer pixel of each.

    Attributes:
        own: (M,) int64, flat index of the pixel that shows the nearer surface.
        other: (M,) int64, its neighbour, which shows what lies behind the silhouette.
        start, end: (M,) int64, the two vertices of the silhouette edge.
        steps: from the centre of `own` to that of `other`.
    """

    own: Tensor
    other: Tensor
    start: Tensor
    end: Tensor
    steps: Steps


def project(points: Tensor) -> Tensor:
    """Homogeneous pixels (B, V, 3) → (2·B·V,) pixels, all x and then all y; depths of 0 are replaced."""
    x, y, depth = points.reshape(-1, 3).unbind(1)
    depth = torch.where(depth.abs() > 1e-12, depth, torch.full_like(depth, 1e-12))
    return torch.cat([x / depth, y / depth])


def crossing(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Where the line through two points, each given as (along, across), meets the axis across = 0."""
    rise = end[1] - start[1]
    rise = torch.where(rise >= 0, rise.clamp(min=1e-3), rise.clamp(max=-1e-3))
    return (start[0] * end[1] - start[1] * end[0]) / rise


def silhouette_edges(points: Tensor, screen: Tensor, faces: Tensor, twins: Tensor) -> Tensor:
    """(B, F, 3) bool: edge i (opposite corner i) is a boundary, or its two faces lie on its same side on the screen."""
    batch, vertex_count = points.shape[:2]
    x, y = screen.reshape(2, batch, vertex_count)
    (x0, y0), (x1, y1), (x2, y2) = ((x.index_select(1, corner), y.index_select(1, corner)) for corner in faces.t())
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    # Neighbours wind alike: across an edge that is no silhouette they are turned the same way.
    opposite = (area <= 0).index_select(1, twins.clamp(min=0).div(3, rounding_mode="floor").reshape(-1))
    same_side = (area >= 0)[..., None] == opposite.reshape(batch, *faces.shape)
    in_front = (
        (points[..., 2] > 1e-6).index_select(1, faces.reshape(-1)).reshape(batch, *faces.shape).all(dim=2, keepdim=True)
    )
    return ((twins < 0) | same_side) & in_front


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
    screen = project(points)
    silhouette = silhouette_edges(points, screen, faces, twins)
    first, second, sample, steps = _differing_pairs(screen, faces, twins, face_index, silhouette.reshape(-1))
    nearness = nearness.reshape(-1)
    first_nearer = nearness.index_select(0, first) >= nearness.index_select(0, second)
    own, other = torch.where(first_nearer, first, second), torch.where(first_nearer, second, first)
    steps = steps._replace(
        centre_along=torch.where(first_nearer, steps.centre_along, steps.centre_along + 1),
        sign=torch.where(first_nearer, steps.sign, -steps.sign),
    )
    vertices, edges = faces.reshape(-1), torch.arange(faces.numel(), device=faces.device)
    next_edge, last_edge = (edges - edges % 3 + (edges + k) % 3 for k in (1, 2))
    # Where a walk goes on from an edge: through its twin, or nowhere, -1 at a silhouette and -2 at another boundary.
    leads_to = torch.where(twins < 0, -2, twins)
    leads_to = torch.where(silhouette, -1, leads_to).reshape(-1)

    edge, start, end = _first_exit(3 * face_index.reshape(-1).index_select(0, own), vertices, steps, screen)
    found = torch.zeros_like(edge)  # one more than the edge, 0 where there is none
    walking, row, under_way = (
        torch.arange(len(edge), device=edge.device),
        sample * len(edges),
        torch.ones_like(first_nearer),
    )
    walked = steps
    for step in range(1, MAX_STEPS + 1):
        distance, twin = crossing(start, end), leads_to.index_select(0, row + edge)
        good = under_way & (twin == -1) & ((distance - 0.5).abs() < 0.5 + TOLERANCE)
        found.scatter_add_(0, walking, torch.where(good, edge + 1, 0))
        under_way = under_way & (twin >= 0) & (distance.abs() < 1)
        if step == MAX_STEPS:
            break
        if step % STEPS_BETWEEN_REMOVALS == 0:
            still = under_way.nonzero()[:, 0]
            if not len(still):
                break
            walked = walked.listed(still)
            walking, row, twin, under_way = (t.index_select(0, still) for t in (walking, row, twin, under_way))
            start, end = _select(still, start), _select(still, end)
        # The next face winds alike, so it has the edge the other way round. The step leaves between the apex and that
        # end of the edge which lies on the axis's other side.
        twin = twin.clamp(min=0)
        apex = walked.place(screen, vertices.index_select(0, twin))
        past_start = (apex[1] >= 0) == (end[1] >= 0)
        edge = torch.where(past_start, next_edge.index_select(0, twin), last_edge.index_select(0, twin))
        start, end = _either(past_start, start, apex), _either(past_start, apex, end)

    edge = (found - 1).clamp(min=0)
    ends = [vertices.index_select(0, corner.index_select(0, edge)) for corner in (next_edge, last_edge)]
    # An edge that runs more along the step than across it is left to the pairs of the other axis: no piece of outline
    # counts twice.
    start, end = (steps.place(screen, vertex) for vertex in ends)
    kept = ((found > 0) & ((end[1] - start[1]).abs() >= (end[0] - start[0]).abs())).nonzero()[:, 0]
    own, other, *ends = (t.index_select(0, kept) for t in (own, other, *ends))
    return SilhouettePairs(own, other, ends[0], ends[1], steps.listed(kept))


def _differing_pairs(
    screen: Tensor, faces: Tensor, twins: Tensor, face_index: Tensor, silhouette: Tensor
) -> tuple[Tensor, Tensor, Tensor, Steps]:
    """4-neighbours that show different faces, their sample, and the step from the first, left or above, to the second.

    Left out are those on one piece of surface, which are most: the step crosses an edge that both faces share and that
    is no silhouette.
    """
    differs = face_index.new_zeros(2, *face_index.shape, dtype=torch.bool)
    torch.ne(face_index[:, :, 1:], face_index[:, :, :-1], out=differs[0, :, :, :-1])
    torch.ne(face_index[:, 1:], face_index[:, :-1], out=differs[1, :, :-1])
    # Both kinds of neighbour in one list: its length is the one thing that the host has to wait for.
    index = differs.reshape(-1).nonzero()[:, 0]
    batch, height, width = face_index.shape
    vertical = index >= face_index.numel()
    first = torch.where(vertical, index - face_index.numel(), index)
    second = first + torch.where(vertical, width, 1)
    row = first.div(width, rounding_mode="floor")
    sample = row.div(height, rounding_mode="floor")
    column, row = first - row * width, row - sample * height
    half = len(screen) // 2
    begins = sample * (half // max(batch, 1))

    one, two = (face_index.reshape(-1).index_select(0, pixel) for pixel in (first, second))
    face = one.clamp(min=0)
    # No face's number and not the background's lies across a boundary.
    behind = torch.where(twins < 0, -2, twins.div(3, rounding_mode="floor"))
    shared = [neighbour.index_select(0, face) == two for neighbour in behind.t()]
    edge = 3 * face + torch.where(shared[1], 1, torch.where(shared[2], 2, 0))
    across, line = begins + torch.where(vertical, 0, half), torch.where(vertical, column, row) + 0.5
    sides = [
        screen.index_select(0, across + faces.roll(-k, dims=1).reshape(-1).index_select(0, edge)) >= line
        for k in (1, 2)
    ]
    smooth = (one >= 0) & (shared[0] | shared[1] | shared[2])
    smooth &= ~silhouette.index_select(0, sample * faces.numel() + edge)
    kept = (~(smooth & (sides[0] != sides[1]))).nonzero()[:, 0]

    first, second, sample, vertical, column, row, begins, across, line = (
        t.index_select(0, kept) for t in (first, second, sample, vertical, column, row, begins, across, line)
    )
    centre = torch.where(vertical, row, column).to(screen.dtype) + 0.5
    steps = Steps(
        begins + torch.where(vertical, half, 0), across, centre, line.to(screen.dtype), torch.ones_like(centre)
    )
    return first, second, sample, steps


def _first_exit(
    face: Tensor, vertices: Tensor, steps: Steps, screen: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The edge of the nearer pixel's own face (given as 3·face) through which the step leaves it, and the places of its
    two ends.
    """
    corner = [steps.place(screen, vertices.index_select(0, face + k)) for k in range(3)]
    above = [place[1] >= 0 for place in corner]
    farthest, edge, start, end = torch.full_like(steps.sign, -torch.inf), face, corner[1], corner[2]
    for k in range(3):
        distance = crossing(corner[k - 2], corner[k - 1])
        later = (above[k - 2] != above[k - 1]) & (distance > farthest)
        farthest, edge = torch.where(later, distance, farthest), torch.where(later, face + k, edge)
        start, end = _either(later, corner[k - 2], start), _either(later, corner[k - 1], end)
    return edge, start, end


def _select(rows: Tensor, place: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return place[0].index_select(0, rows), place[1].index_select(0, rows)


def _either(condition: Tensor, place: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.where(condition, place[0], other[0]), torch.where(condition, place[1], other[1])

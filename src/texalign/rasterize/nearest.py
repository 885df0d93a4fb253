"""Torch backend: which face is nearest under every pixel centre."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from texalign.rasterize.functions import edge_functions

# Candidate (pixel, face) pairs expanded at once: about 50 bytes each, so some 200 MB at the most.
MAX_CANDIDATES = 4_000_000


def nearest_faces(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> tuple[Tensor, Tensor]:
    """(B, H, W) int64 face index and (B·H·W,) inverse depth, 0 on the background."""
    batch, face_count = points.shape[0], faces.shape[0]
    inverse_depth = points.new_zeros(batch * height * width)
    nearest = torch.full((batch * height * width,), face_count, dtype=torch.int64, device=points.device)
    corners = points[:, faces].reshape(-1, 3, 3)
    if corners.numel() and nearest.numel():
        depth = corners[..., 2]
        # Products of two corners, taken relative to a pixel, must not overflow.
        usable = (corners.abs() < torch.finfo(corners.dtype).max ** 0.375).flatten(1).all(dim=1)
        in_front = usable & (depth > near).all(dim=1)
        crossing = usable & ~in_front & (depth > near).any(dim=1)
        for pixel, value, face in _candidates(corners, in_front, crossing, face_count, height, width, near):
            before = inverse_depth
            inverse_depth = before.scatter_reduce(0, pixel, value, "amax")
            # A pixel that got nearer forgets its face; then the lowest face index at the nearest depth wins.
            nearest = torch.where(inverse_depth > before, face_count, nearest)
            face = torch.where(value == inverse_depth.index_select(0, pixel), face, face_count)
            nearest = nearest.scatter_reduce(0, pixel, face, "amin")
    face_index = torch.where(nearest < face_count, nearest, -1)
    return face_index.reshape(batch, height, width), inverse_depth


def _candidates(
    corners: Tensor, in_front: Tensor, crossing: Tensor, face_count: int, height: int, width: int, near: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chunks of (pixel, inverse depth, face) triples covering every pixel centre inside every face."""
    row_counts, table = _face_rows(corners, in_front, height, width)
    # Both lengths in one wait for the device.
    row_total, crossing_total = torch.stack([row_counts.sum(), crossing.sum()]).tolist()
    yield from _span_candidates(row_counts, table, row_total, face_count, height, width)
    if crossing_total:
        rows = crossing.nonzero()[:, 0]
        for chunk in rows.split(max(1, MAX_CANDIDATES // (height * width))):
            yield _clipped_candidates(corners.index_select(0, chunk), chunk, face_count, height, width, near)


def _face_rows(corners: Tensor, in_front: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """On how many rows of pixel centres each face lies (0 unless it is wholly in front), and all that a row needs."""
    x, y = (corners[..., 0] / corners[..., 2], corners[..., 1] / corners[..., 2])
    order = y.argsort(dim=1, stable=True)
    x, y = x.gather(1, order), y.gather(1, order)
    top = (y[:, 0] - 0.5).ceil().clamp(0, height)
    bottom = (y[:, 2] - 0.5).ceil().clamp(0, height)
    visible = in_front & (x.amax(dim=1) > 0.5) & (x.amin(dim=1) < width)
    row_counts = torch.where(visible, bottom - top, 0).clamp(min=0).to(torch.int64)
    # Per face: the long edge (top to bottom corner) and the two short ones.
    slope_long = _slope(x[:, 0], y[:, 0], x[:, 2], y[:, 2])
    slope_upper = _slope(x[:, 0], y[:, 0], x[:, 1], y[:, 1])
    slope_lower = _slope(x[:, 1], y[:, 1], x[:, 2], y[:, 2])
    base, gradient_x, gradient_y = _inverse_depth_plane(x, y, 1.0 / corners[..., 2].gather(1, order))
    lowest, highest = 1.0 / corners[..., 2].amax(dim=1), 1.0 / corners[..., 2].amin(dim=1)
    upper = (x[:, 0], y[:, 0], x[:, 1], y[:, 1], slope_long, slope_upper, slope_lower)
    return row_counts, torch.stack([*upper, base, gradient_x, gradient_y, lowest, highest, top], dim=1)


def _span_candidates(
    row_counts: Tensor, table: Tensor, row_total: int, face_count: int, height: int, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Faces wholly in front: rows of pixel centres between the face's top and bottom, and on each row one span.

    An edge's crossing with a row is computed from its upper corner whichever face asks: shared edges agree to the bit.
    """
    corner_row = torch.repeat_interleave(
        torch.arange(len(row_counts), device=table.device), row_counts, output_size=row_total
    )
    first = row_counts.cumsum(0) - row_counts
    step = torch.arange(row_total, device=table.device) - first.index_select(0, corner_row)
    of_row = table.index_select(0, corner_row).unbind(1)
    x0, y0, x1, y1, s02, s01, s12, base, gradient_x, gradient_y, lowest, highest, top = of_row
    row = step.to(top.dtype) + top
    centre = row + 0.5
    long = x0 + (centre - y0) * s02
    short = torch.where(centre < y1, x0 + (centre - y0) * s01, x1 + (centre - y1) * s12)
    left = (torch.minimum(long, short) - 0.5).ceil().clamp(0, width)
    right = (torch.maximum(long, short) - 0.5).ceil().clamp(0, width)
    counts = (right - left).to(torch.int64)
    # Inverse depth is affine on the screen; clamping both ends to the face's range tames slivers.
    at_row = base + gradient_y * (centre - y0)
    value_left = (at_row + gradient_x * (left + 0.5 - x0)).clamp(lowest, highest)
    value_right = (at_row + gradient_x * (right - 0.5 - x0)).clamp(lowest, highest)
    gradient = (value_right - value_left) / (right - left - 1).clamp(min=1)

    sample = corner_row.div(face_count, rounding_mode="floor")
    face_id = corner_row - sample * face_count
    first_pixel = (sample * height + row.to(torch.int64)) * width + left.to(torch.int64)
    yield from _expand_spans(counts, first_pixel, value_left, gradient, face_id)


def _expand_spans(
    counts: Tensor, first_pixel: Tensor, value: Tensor, gradient: Tensor, face: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Spans, some of which may be empty, in chunks of whole spans, about `MAX_CANDIDATES` pixels each."""
    end = counts.cumsum(0)
    start = end - counts
    total = int(end[-1]) if len(end) else 0
    # The first span of each chunk, and how many candidates come before it.
    bounds = [(0, 0), (len(counts), total)]
    if total > MAX_CANDIDATES:
        limits = torch.arange(MAX_CANDIDATES, total, MAX_CANDIDATES, device=end.device)
        cuts = torch.searchsorted(end, limits)
        bounds[1:1] = zip(*torch.stack([cuts, start.index_select(0, cuts)]).tolist())
    for (low, before), (high, after) in pairwise(bounds):
        if before == after:
            continue
        count = counts[low:high]
        span = torch.repeat_interleave(torch.arange(high - low, device=count.device), count, output_size=after - before)
        within = torch.arange(before, after, device=count.device) - start[low:high].index_select(0, span)
        pixel = within + first_pixel[low:high].index_select(0, span)
        depth = torch.addcmul(
            value[low:high].index_select(0, span), gradient[low:high].index_select(0, span), within.to(value.dtype)
        )
        yield pixel, depth, face[low:high].index_select(0, span)


def _clipped_candidates(
    corners: Tensor, corner_rows: Tensor, face_count: int, height: int, width: int, near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Faces that cross the near plane, tested at every pixel with edge functions that hold behind the camera too."""
    count = height * width
    pixel = torch.arange(count, device=corners.device)
    row = pixel.div(width, rounding_mode="floor")
    x = (pixel - row * width).to(corners.dtype) + 0.5
    y = row.to(corners.dtype) + 0.5
    relative_x = corners[:, None, :, 0] - x[None, :, None] * corners[:, None, :, 2]
    relative_y = corners[:, None, :, 1] - y[None, :, None] * corners[:, None, :, 2]
    edges = edge_functions(relative_x, relative_y)
    total = edges.sum(dim=-1)
    weights = edges / torch.where(total.abs() > 0, total, 1)[..., None]
    depth = (weights * corners[:, None, :, 2]).sum(dim=-1)
    inside = (weights >= 0).all(dim=-1) & (total.abs() > 0) & (depth >= near)
    which, where = inside.nonzero().unbind(1)
    sample = corner_rows.div(face_count, rounding_mode="floor").index_select(0, which)
    face = corner_rows.index_select(0, which) - sample * face_count
    return sample * count + where, 1.0 / depth[which, where], face


def _slope(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    rise = y1 - y0
    return torch.where(rise > 0, (x1 - x0) / torch.where(rise > 0, rise, 1), 0)


def _inverse_depth_plane(x: Tensor, y: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1/z is affine in screen coordinates: its value at corner 0 and its gradient, 0 for zero-area faces."""
    x1, y1, z1 = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0], inverse_depth[:, 1] - inverse_depth[:, 0]
    x2, y2, z2 = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0], inverse_depth[:, 2] - inverse_depth[:, 0]
    area = x1 * y2 - x2 * y1
    solid = area.abs() > 1e-12
    area = torch.where(solid, area, 1)
    gradient_x = torch.where(solid, (z1 * y2 - z2 * y1) / area, 0)
    gradient_y = torch.where(solid, (z2 * x1 - z1 * x2) / area, 0)
    return inverse_depth[:, 0], gradient_x, gradient_y

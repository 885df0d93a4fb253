"""Torch backend: which face is nearest under every pixel centre."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from texalign.rasterize.functions import edge_functions

# Candidate (pixel, face) pairs expanded at once: about 50 bytes each, so some 200 MB at the most.
MAX_CANDIDATES = 4_000_000


def nearest_faces(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> tuple[Tensor, Tensor, Tensor]:
    """The N covered pixels, ascending flat indices into B·H·W; their faces, int64; and their inverse depth, float32.

    All of it is decided in float32.
    """
    batch, face_count = points.shape[0], faces.shape[0]
    # High half: inverse depth, which orders like its bits. Low half: the face's complement, so that the lowest wins.
    keys = torch.zeros(batch * height * width, dtype=torch.int64, device=points.device)
    rows = faces.t()[:, None] + points.shape[1] * torch.arange(batch, device=points.device)[:, None]
    corners = points.float().reshape(-1, 3).t().contiguous().index_select(1, rows.reshape(-1)).reshape(3, 3, -1)
    if corners.numel() and keys.numel():
        depth = corners[2]
        # Products of two corners, taken relative to a pixel, must not overflow.
        usable = (corners.abs() < torch.finfo(corners.dtype).max ** 0.375).all(dim=0).all(dim=0)
        in_front = usable & (depth > near).all(dim=0)
        crossing = usable & ~in_front & (depth > near).any(dim=0)
        for pixel, value, face in _candidates(corners, in_front, crossing, face_count, height, width, near):
            key = value.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(face)
            keys.scatter_reduce_(0, pixel, key, "amax")
    pixels = (keys > 0).nonzero()[:, 0]
    found = keys.index_select(0, pixels)
    face = found.to(torch.int32).bitwise_not_().to(torch.int64)
    return pixels, face, found.bitwise_right_shift_(32).to(torch.int32).view(torch.float32)


def _candidates(
    corners: Tensor, in_front: Tensor, crossing: Tensor, face_count: int, height: int, width: int, near: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chunks of (pixel, inverse depth, complement of the face in 32 bits) covering every pixel centre in every face."""
    row_counts, table = _face_rows(corners, in_front, height, width)
    # Both lengths in one wait for the device.
    row_total, crossing_total = torch.stack([row_counts.sum(), crossing.sum()]).tolist()
    yield from _span_candidates(row_counts, table, row_total, face_count, height, width)
    if crossing_total:
        rows = crossing.nonzero()[:, 0]
        for chunk in rows.split(max(1, MAX_CANDIDATES // (height * width))):
            yield _clipped_candidates(corners.index_select(2, chunk), chunk, face_count, height, width, near)


def _face_rows(corners: Tensor, in_front: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """On how many rows of pixel centres each face lies (0 unless it is wholly in front), and all that a row needs."""
    inverse = 1.0 / corners[2]
    # (y, x, 1/z) of the top, middle and bottom corner.
    first, second, third = torch.stack([corners[1] * inverse, corners[0] * inverse, inverse]).unbind(1)
    first, second = _by_height(first, second)
    second, third = _by_height(second, third)
    first, second = _by_height(first, second)
    (y0, x0, _), (y1, x1, _), (y2, x2, _) = first, second, third
    top = (y0 - 0.5).ceil().clamp(0, height)
    bottom = (y2 - 0.5).ceil().clamp(0, height)
    visible = in_front & (torch.maximum(torch.maximum(x0, x1), x2) > 0.5)
    visible &= torch.minimum(torch.minimum(x0, x1), x2) < width
    row_counts = torch.where(visible, bottom - top, 0).clamp(min=0).to(torch.int64)
    # Per face: the long edge (top to bottom corner) and the two short ones.
    slopes = (_slope(x0, y0, x2, y2), _slope(x0, y0, x1, y1), _slope(x1, y1, x2, y2))
    plane = _inverse_depth_plane(first, second, third)
    return row_counts, torch.stack([x0, y0, x1, y1, *slopes, *plane, inverse.amin(dim=0), inverse.amax(dim=0), top])


def _by_height(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The corners with the lower y first."""
    swap = second[0] < first[0]
    return torch.where(swap, second, first), torch.where(swap, first, second)


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
    of_row = table.index_select(1, corner_row)
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
    first_pixel = (sample * height + row.to(torch.int64)) * width + left.to(torch.int64)
    yield from _expand_spans(counts, first_pixel, value_left, gradient, _complement(corner_row - sample * face_count))


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
    corner_x, corner_y, corner_depth = corners[..., None]
    edges = edge_functions(corner_x - x * corner_depth, corner_y - y * corner_depth)
    total = edges.sum(dim=0)
    weights = edges / torch.where(total.abs() > 0, total, 1)
    depth = (weights * corner_depth).sum(dim=0)
    inside = (weights >= 0).all(dim=0) & (total.abs() > 0) & (depth >= near)
    which, where = inside.nonzero().unbind(1)
    sample = corner_rows.div(face_count, rounding_mode="floor").index_select(0, which)
    face = corner_rows.index_select(0, which) - sample * face_count
    return sample * count + where, 1.0 / depth[which, where], _complement(face)


def _complement(face: Tensor) -> Tensor:
    return face.bitwise_not().bitwise_and_(0xFFFFFFFF)


def _slope(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    rise = y1 - y0
    return torch.where(rise > 0, (x1 - x0) / torch.where(rise > 0, rise, 1), 0)


def _inverse_depth_plane(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1/z is affine in screen coordinates: its value at the first of three corners (y, x, 1/z) and its gradient by x
    and y, 0 for zero-area faces.
    """
    y1, x1, z1 = second - first
    y2, x2, z2 = third - first
    area = x1 * y2 - x2 * y1
    solid = area.abs() > 1e-12
    area = torch.where(solid, area, 1)
    gradient_x = torch.where(solid, (z1 * y2 - z2 * y1) / area, 0)
    gradient_y = torch.where(solid, (z2 * x1 - z1 * x2) / area, 0)
    return first[2], gradient_x, gradient_y

"""Torch backend: which face is nearest under every pixel centre."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from texalign.rasterize._functions import edge_functions

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
    rows = in_front.nonzero()[:, 0]
    yield from _span_candidates(corners.index_select(0, rows), rows, face_count, height, width)
    rows = crossing.nonzero()[:, 0]
    per_chunk = max(1, MAX_CANDIDATES // (height * width))
    for chunk in rows.split(per_chunk):
        if chunk.numel():
            yield _clipped_candidates(corners.index_select(0, chunk), chunk, face_count, height, width, near)


def _span_candidates(
    corners: Tensor, corner_rows: Tensor, face_count: int, height: int, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Faces wholly in front: rows of pixel centres between the face's top and bottom, and on each row one span.

    An edge's crossing with a row is computed from its upper corner whichever face asks: shared edges agree to the bit.
    """
    x, y = (corners[..., 0] / corners[..., 2], corners[..., 1] / corners[..., 2])
    order = y.argsort(dim=1, stable=True)
    x, y = x.gather(1, order), y.gather(1, order)
    top = (y[:, 0] - 0.5).ceil().clamp(0, height)
    bottom = (y[:, 2] - 0.5).ceil().clamp(0, height)
    visible = (x.amax(dim=1) > 0.5) & (x.amin(dim=1) < width)
    row_counts = torch.where(visible, bottom - top, 0).clamp(min=0).to(torch.int64)
    # Per face: the long edge (top to bottom corner) and the two short ones.
    slope_long = _slope(x[:, 0], y[:, 0], x[:, 2], y[:, 2])
    slope_upper = _slope(x[:, 0], y[:, 0], x[:, 1], y[:, 1])
    slope_lower = _slope(x[:, 1], y[:, 1], x[:, 2], y[:, 2])
    base, gradient_x, gradient_y = _inverse_depth_plane(x, y, 1.0 / corners[..., 2].gather(1, order))
    table = torch.stack(
        [x[:, 0], y[:, 0], x[:, 1], y[:, 1], slope_long, slope_upper, slope_lower, base, gradient_x, gradient_y, top],
        dim=1,
    )
    far, close = 1.0 / corners[..., 2].amax(dim=1), 1.0 / corners[..., 2].amin(dim=1)

    face = torch.repeat_interleave(torch.arange(len(corners), device=corners.device), row_counts)
    first = row_counts.cumsum(0) - row_counts
    step = torch.arange(len(face), device=face.device) - first.index_select(0, face)
    x0, y0, x1, y1, s02, s01, s12, base, gradient_x, gradient_y, top = table.index_select(0, face).unbind(1)
    row = step.to(top.dtype) + top
    centre = row + 0.5
    long = x0 + (centre - y0) * s02
    short = torch.where(centre < y1, x0 + (centre - y0) * s01, x1 + (centre - y1) * s12)
    left = (torch.minimum(long, short) - 0.5).ceil().clamp(0, width)
    right = (torch.maximum(long, short) - 0.5).ceil().clamp(0, width)
    counts = (right - left).to(torch.int64)
    # Inverse depth is affine on the screen; clamping both ends to the face's range tames slivers.
    lowest, highest = far.index_select(0, face), close.index_select(0, face)
    at_row = base + gradient_y * (centre - y0)
    value_left = (at_row + gradient_x * (left + 0.5 - x0)).clamp(lowest, highest)
    value_right = (at_row + gradient_x * (right - 0.5 - x0)).clamp(lowest, highest)
    gradient = (value_right - value_left) / (right - left - 1).clamp(min=1)

    corner_row = corner_rows.index_select(0, face)
    sample = corner_row.div(face_count, rounding_mode="floor")
    face_id = corner_row - sample * face_count
    first_pixel = (sample * height + row.to(torch.int64)) * width + left.to(torch.int64)
    kept = counts.nonzero()[:, 0]
    spans = [t.index_select(0, kept) for t in (counts, first_pixel, value_left, gradient, face_id)]
    yield from _expand_spans(*spans)


def _expand_spans(
    counts: Tensor, first_pixel: Tensor, value: Tensor, gradient: Tensor, face: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    end = counts.cumsum(0)
    total = int(end[-1]) if len(end) else 0
    bounds = [0, len(counts)]
    if total > MAX_CANDIDATES:
        limits = torch.arange(MAX_CANDIDATES, total, MAX_CANDIDATES, device=end.device)
        bounds = [0, *torch.searchsorted(end, limits).unique().tolist(), len(counts)]
    for low, high in pairwise(bounds):
        count = counts[low:high]
        start = end[low:high] - count
        if not len(count):
            continue
        begin = start[0]
        span = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        within = torch.arange(len(span), device=count.device) - (start - begin).index_select(0, span)
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

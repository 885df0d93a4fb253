"""A float64 brute-force rasterizer written for clarity: every face at every pixel, no shortcuts."""

from __future__ import annotations

import numpy as np


def weigh(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every face at every pixel centre: weights (P, F, 3), NaN without area, and inside (P, F) bool.

    Args:
        corners: (F, 3, 3) homogeneous, (w·x, w·y, w).
        x, y: (P,) centres, in the units of the corners' x and y.

    Returns:
        Perspective-correct weights, which sum to 1 and are all ≥ 0 inside. A centre on an edge is inside if that is a
        left or top edge, y being down.
    """
    corners = corners.astype(np.float64)
    # Of the edge opposite each corner. Swapping its ends negates it to the bit: of two faces one takes a centre on it.
    line = np.cross(np.roll(corners, -1, axis=1), np.roll(corners, -2, axis=1))
    with np.errstate(all="ignore"):
        edges = line[..., 0] * x[:, None, None] + line[..., 1] * y[:, None, None] + line[..., 2]
        area = edges.sum(axis=-1, keepdims=True)
        weights = np.where(np.abs(area) > 1e-12, edges / area, np.nan)
        inward = line[..., :2] * np.sign(area)[..., None]
        left_or_top = (inward[..., 0] > 0) | ((inward[..., 0] == 0) & (inward[..., 1] > 0))
        return weights, ((weights > 0) | ((weights == 0) & left_or_top)).all(axis=-1)


def rasterize(
    points: np.ndarray, faces: np.ndarray, height: int, width: int, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (V, 3), homogeneous pixels → face_index (H, W), barycentric (H, W, 3), and how safe each pixel is (H, W).

    `safety` is the smallest distance, in barycentrics or relative depth, from another answer: the distance from an edge
    of any face that is (or nearly is) in front, or the depth gap to the second face.
    """
    y, x = (index.reshape(-1) + 0.5 for index in np.indices((height, width)))
    weights, inside = weigh(points[faces], x, y)
    depth = (weights * points[faces][..., 2]).sum(axis=-1)
    inside &= depth >= near
    ordered = np.where(inside, depth, np.inf)
    face = ordered.argmin(axis=-1)  # the first of equals
    nearest, second = np.sort(np.pad(ordered, [(0, 0), (0, 1)], constant_values=np.inf), axis=-1)[:, :2].T
    covered = np.isfinite(nearest)
    barycentric = np.where(covered[:, None], weights[np.arange(len(face)), face], 0)
    # A face that just misses the pixel matters only if it would have been in front.
    margin = np.abs(np.fmin(weights.min(axis=-1), depth - near))
    in_front = inside & (ordered == nearest[:, None])
    matters = in_front | (~inside & (depth > 0) & (depth < nearest[:, None] + 1e-3))
    gap = np.full_like(nearest, np.inf)
    np.divide(second, nearest, out=gap, where=np.isfinite(second))
    safety = np.fmin(np.where(matters, margin, np.inf).min(axis=-1), gap - 1)
    shape = (height, width)
    return np.where(covered, face, -1).reshape(shape), barycentric.reshape(*shape, 3), safety.reshape(shape)

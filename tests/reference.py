"""A float64 brute-force rasterizer written for clarity: every face at every pixel, in plain numpy loops."""

from __future__ import annotations

import numpy as np


def rasterize(
    points: np.ndarray, faces: np.ndarray, height: int, width: int, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (V, 3), homogeneous pixels → face_index (H, W), barycentric (H, W, 3), and how safe each pixel is (H, W).

    `safety` is the smallest distance, in barycentrics or relative depth, from another answer: the distance from an edge
    of any face that is (or nearly is) in front, or the depth gap to the second face.
    """
    face_index = np.full((height, width), -1)
    barycentric = np.zeros((height, width, 3))
    safety = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            hits, margins = [], []
            for index, face in enumerate(faces):
                corner = points[face].astype(np.float64)
                relative = corner[:, :2] - np.array([x, y]) * corner[:, 2:]
                edges = np.array([np.linalg.det(relative[[(i + 1) % 3, (i + 2) % 3]]) for i in range(3)])
                if abs(edges.sum()) < 1e-12 or (corner[:, 2] < near).all():
                    continue
                weights = edges / edges.sum()
                depth = float(weights @ corner[:, 2])
                margin = float(min(weights.min(), depth - near))
                if margin > 0:
                    hits.append((depth, index, weights, margin))
                elif depth > 0:
                    margins.append((depth, -margin))
            hits.sort(key=lambda hit: hit[:2])
            nearest = hits[0][0] if hits else np.inf
            # A face that just misses the pixel matters only if it would have been in front.
            close = [margin for depth, margin in margins if depth < nearest + 1e-3]
            if hits:
                depth, face_index[row, column], barycentric[row, column], margin = hits[0]
                gap = [abs(hit[0] - depth) / depth for hit in hits[1:2]]
                safety[row, column] = min([margin, *close, *gap])
            elif close:
                safety[row, column] = min(close)
    return face_index, barycentric, safety

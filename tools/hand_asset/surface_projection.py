"""Closest points on a surface that also face the right way."""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from generic_hand import Floats, Integers, cross_normals, unit, vertex_normals

SAMPLE_COUNT = 400_000
# Two points with opposite normals count as this many metres apart, times two: more than a finger is thick.
NORMAL_SCALE = 0.012


class SurfacePoints(NamedTuple):
    """Points on a triangle mesh: positions (N, 3), unit normals (N, 3), face indices (N,) and barycentrics (N, 3)."""

    positions: Floats
    normals: Floats
    face: Integers
    barycentric: Floats


def sample_surface(vertices: Floats, faces: Integers, count: int, seed: int = 0) -> tuple[Integers, Floats]:
    """Area-uniform random samples: face indices (count,) and barycentric coordinates (count, 3).

    The square-root warp is from Osada et al., Shape Distributions, ACM TOG 2002, section 4.1.
    """
    generator = np.random.default_rng(seed)
    area = np.linalg.norm(cross_normals(vertices, faces), axis=1)
    face = np.searchsorted(np.cumsum(area / area.sum()), generator.random(count)).clip(max=len(faces) - 1)
    root, second = np.sqrt(generator.random(count)), generator.random(count)
    return face, np.stack([1.0 - root, root * (1.0 - second), root * second], axis=1)


def closest_barycentric(points: Floats, triangles: Floats) -> Floats:
    """Barycentric coordinates (N, 3) of the point of each triangle (N, 3, 3) closest to the point (N, 3) beside it.

    The closest point is the orthogonal projection where that falls inside, otherwise the best of the closest points
    of the three edges.
    """
    origin = triangles[:, 0]
    first, second = triangles[:, 1] - origin, triangles[:, 2] - origin
    offset = points - origin
    d11, d12, d22 = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
    p1, p2 = (offset * first).sum(1), (offset * second).sum(1)
    determinant = np.maximum(d11 * d22 - d12 * d12, 1e-30)
    u, v = (d22 * p1 - d12 * p2) / determinant, (d11 * p2 - d12 * p1) / determinant
    best = np.stack([1.0 - u - v, u, v], axis=1)
    outside = np.flatnonzero((best < 0).any(axis=1))
    best_distance = np.full(len(outside), np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = triangles[outside, end] - triangles[outside, start]
        along = ((points[outside] - triangles[outside, start]) * edge).sum(1) / np.maximum((edge * edge).sum(1), 1e-30)
        along = along.clip(0.0, 1.0)
        distance = ((triangles[outside, start] + along[:, None] * edge - points[outside]) ** 2).sum(1)
        closer = distance < best_distance
        best_distance[closer] = distance[closer]
        candidate = np.zeros((len(outside), 3))
        candidate[:, start], candidate[:, end] = 1.0 - along, along
        best[outside[closer]] = candidate[closer]
    return best


class SurfaceProjector:
    """Normal-compatible closest points on a mesh.

    Dense samples with interpolated normals are put in a KD-tree over (position, scale x normal). A query
    finds the sample closest in those six dimensions and then the exact closest point of that sample's triangle. This
    keeps neighbouring fingers, and the two sides of a finger, apart where the closest point by position alone does not.
    """

    def __init__(self, vertices: Floats, faces: Integers, normal_scale: float = NORMAL_SCALE) -> None:
        """Index a mesh of vertices (V, 3) and faces (F, 3); a scale of 0 finds closest points by position alone."""
        self.normal_scale = normal_scale
        self.triangles = vertices[faces]
        self.corner_normals = vertex_normals(vertices, faces)[faces]
        self.sample_face, barycentric = sample_surface(vertices, faces, SAMPLE_COUNT)
        self.tree = cKDTree(self._embed(*self._evaluate(self.sample_face, barycentric)))

    def _evaluate(self, face: Integers, barycentric: Floats) -> tuple[Floats, Floats]:
        share = barycentric[:, :, None]
        return (self.triangles[face] * share).sum(1), unit((self.corner_normals[face] * share).sum(1))

    def _embed(self, positions: Floats, normals: Floats) -> Floats:
        return np.concatenate([positions, self.normal_scale * normals], axis=1)

    def __call__(self, positions: Floats, normals: Floats) -> SurfacePoints:
        """Project positions (N, 3) with unit normals (N, 3)."""
        face = self.sample_face[self.tree.query(self._embed(positions, normals))[1]]
        barycentric = closest_barycentric(positions, self.triangles[face])
        return SurfacePoints(*self._evaluate(face, barycentric), face, barycentric)

"""Measures of the packaged hand: triangle shapes, folds, self-intersections, distances to the source hand, posing.

Needs scipy, trimesh and torch.
"""

from collections.abc import Mapping

import numpy as np
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from generic_hand import (
    DORSAL,
    FINGERS,
    Floats,
    GenericHand,
    Integers,
    clip_hand,
    cross_normals,
    finger_joints,
    joint_index,
    unit,
)
from mano_layout import TIP_VERTICES
from refinement import adjacent_faces, first_exit
from surface_projection import NORMAL_SCALE, SurfaceProjector, closest_barycentric, sample_surface

MILLIMETRES = 1e3
# The source hand goes on below the wrist plane; this much of it is kept so that the packaged hand's end finds it.
BELOW_WRIST = 0.004
# Exact distances are searched on a mesh split (without moving its surface) to edges of at most this many metres.
SPLIT_EDGE = 0.003
POINTS_PER_CHUNK = 20_000
CURL_DEGREES = 60.0
THUMB_BASE_CURL_DEGREES = 20.0
SPREAD_DEGREES = {"index": 15.0, "middle": 5.0, "ring": -5.0, "pinky": -15.0, "thumb": 15.0}


def corner_angles(vertices: Floats, faces: Integers) -> Floats:
    """Corner angles (F, 3) in degrees."""
    corner = vertices[faces]
    first, second = np.roll(corner, -1, axis=1) - corner, np.roll(corner, -2, axis=1) - corner
    sine = np.linalg.norm(np.cross(first, second), axis=2)
    return np.degrees(np.arctan2(sine, (first * second).sum(axis=2)))


def neighbour_cosines(vertices: Floats, faces: Integers) -> Floats:
    """Dot products of the unit normals of all faces that share an edge; negative where the surface folds."""
    normals = unit(cross_normals(vertices, faces))
    pairs = adjacent_faces(faces)
    return (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(axis=1)


def facing_cosines(
    vertices: Floats, faces: Integers, source: GenericHand, normal_scale: float = NORMAL_SCALE
) -> Floats:
    """Dot products (F,) of face normals and the source hand's normals at the closest points.

    By default these are the normal-compatible closest points. With a scale of 0 they are the closest by position alone,
    which cannot find a reversed face a partner on the other side of a thin finger.
    """
    normals = unit(cross_normals(vertices, faces))
    found = SurfaceProjector(source.vertices, source.faces, normal_scale)(vertices[faces].mean(axis=1), normals)
    return (found.normals * normals).sum(axis=1)


def _flat_lists(lists: np.ndarray) -> tuple[Integers, Integers]:
    """Concatenate an array of lists; also say which list each entry is from."""
    counts = np.array([len(entries) for entries in lists])
    return np.concatenate([np.asarray(entries, dtype=np.int64) for entries in lists]), np.repeat(
        np.arange(len(lists)), counts
    )


def exact_distances(points: Floats, vertices: Floats, faces: Integers) -> Floats:
    """Distance (N,) of points (N, 3) to the closest point of a mesh, exact to rounding.

    The distance to the nearest vertex bounds the answer, so that only triangles whose centre is within that bound plus
    their radius need to be looked at. Splitting the triangles first keeps those few.
    """
    vertices, faces = trimesh.remesh.subdivide_to_size(vertices, faces, SPLIT_EDGE)
    triangles = np.asarray(vertices)[np.asarray(faces)]
    centres = triangles.mean(axis=1)
    radius = np.linalg.norm(triangles - centres[:, None], axis=2).max()
    centre_tree, corner_tree = cKDTree(centres), cKDTree(triangles.reshape(-1, 3))
    result = np.empty(len(points))
    for start in range(0, len(points), POINTS_PER_CHUNK):
        chunk = points[start : start + POINTS_PER_CHUNK]
        reach = corner_tree.query(chunk)[0] + radius + 1e-9
        candidate, owner = _flat_lists(centre_tree.query_ball_point(chunk, reach))
        share = closest_barycentric(chunk[owner], triangles[candidate])
        gap = np.linalg.norm((triangles[candidate] * share[:, :, None]).sum(axis=1) - chunk[owner], axis=1)
        first = np.searchsorted(owner, np.arange(len(chunk)))
        result[start : start + len(chunk)] = np.minimum.reduceat(gap, first)
    return result


def surface_distances(
    vertices: Floats, faces: Integers, other_vertices: Floats, other_faces: Integers, count: int
) -> Floats:
    """Exact distances in millimetres of area-uniform samples of one surface to another."""
    face, barycentric = sample_surface(vertices, faces, count)
    samples = (vertices[faces[face]] * barycentric[:, :, None]).sum(axis=1)
    return MILLIMETRES * exact_distances(samples, other_vertices, other_faces)


def self_intersections(vertices: Floats, faces: Integers) -> int:
    """Number of (edge, face) pairs that intersect without sharing a vertex.

    Each edge is a ray cut at its end, tested as in Moeller and Trumbore, Fast ray-triangle intersection, 1997. Two
    triangles that cross always have such a pair.
    """
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    low_edge, high_edge = vertices[edges].min(axis=1), vertices[edges].max(axis=1)
    low_face, high_face = vertices[faces].min(axis=1), vertices[faces].max(axis=1)
    overlap = np.ones((len(edges), len(faces)), dtype=bool)
    for axis in range(3):
        overlap &= low_edge[:, axis, None] <= high_face[None, :, axis]
        overlap &= high_edge[:, axis, None] >= low_face[None, :, axis]
    edge, face = np.nonzero(overlap)
    apart = (edges[edge][:, :, None] != faces[face][:, None, :]).all(axis=(1, 2))
    edge, face = edge[apart], face[apart]

    corner = vertices[faces[face]]
    first, second = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    origin = vertices[edges[edge, 0]]
    along = vertices[edges[edge, 1]] - origin
    cross = np.cross(along, second)
    determinant = (first * cross).sum(axis=1)
    determinant[np.abs(determinant) < 1e-20] = np.inf
    offset = origin - corner[:, 0]
    other = np.cross(offset, first)
    u, v = (offset * cross).sum(axis=1) / determinant, (along * other).sum(axis=1) / determinant
    t = (second * other).sum(axis=1) / determinant
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1) & np.isfinite(determinant)
    return int(inside.sum())


def tip_distances(vertices: Floats, source: GenericHand) -> dict[int, float]:
    """Millimetres between each tip vertex and the place where its finger's distal bone axis leaves the source hand."""
    distances = {}
    for index, finger in enumerate(FINGERS):
        bone = unit(source.tips[index] - source.joints[joint_index(finger, 3)])
        leaves = first_exit(source, source.tips[index], bone)
        for vertex in TIP_VERTICES[finger]:
            distances[vertex] = MILLIMETRES * float(np.linalg.norm(vertices[vertex] - leaves))
    return distances


def curl(source: GenericHand, finger: str) -> dict[int, Floats]:
    """Rotation matrices that bend a finger's joints towards the palm, the thumb's across it, by joint index."""
    chain = np.vstack([source.joints[finger_joints(finger)], source.tips[FINGERS.index(finger)]])
    across = unit(source.joints[joint_index("pinky", 1)] - source.joints[joint_index("index", 1)])
    towards = unit(across - DORSAL) if finger == "thumb" else -DORSAL
    rotations = {}
    for number, joint in enumerate(finger_joints(finger)):
        axis = unit(np.cross(chain[number + 1] - chain[number], towards))
        degrees = THUMB_BASE_CURL_DEGREES if (finger, number) == ("thumb", 0) else CURL_DEGREES
        rotations[joint] = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    return rotations


def spread() -> dict[int, Floats]:
    """Rotation matrices that move the fingers apart sideways, by joint index."""
    return {
        joint_index(finger, 1): Rotation.from_rotvec(np.radians(degrees) * DORSAL).as_matrix()
        for finger, degrees in SPREAD_DEGREES.items()
    }


def poses(source: GenericHand) -> dict[str, dict[int, Floats]]:
    """Every finger curled alone, a fist, and spread fingers; each a dict of local rotations by joint index."""
    curls = {finger: curl(source, finger) for finger in FINGERS}
    fist = {joint: rotation for rotations in curls.values() for joint, rotation in rotations.items()}
    return {**curls, "fist": fist, "spread": spread()}


def linear_blend_skinning(
    vertices: Floats, weights: Floats, joints: Floats, parents: Integers, rotations: Mapping[int, Floats]
) -> Floats:
    """Pose a hand: vertices (V, 3), weights (V, J), joints (J, 3); joints without an entry stay at rest."""
    turn, shift = np.tile(np.eye(3), (len(joints), 1, 1)), np.zeros((len(joints), 3))
    for joint, parent in enumerate(parents):
        local = rotations.get(joint, np.eye(3))
        above, offset = (turn[parent], shift[parent]) if parent >= 0 else (np.eye(3), np.zeros(3))
        turn[joint] = above @ local
        shift[joint] = above @ (joints[joint] - local @ joints[joint]) + offset
    moved = np.einsum("jab,vb->vja", turn, vertices) + shift
    return (weights[:, :, None] * moved).sum(axis=1)


def measure_rest(hand: Mapping[str, np.ndarray], whole_source: GenericHand, samples: int = 60_000) -> dict[str, float]:
    """Numbers on the hand at rest, named as the report prints them; lengths in millimetres, angles in degrees."""
    vertices, faces = hand["vertices"].astype(np.float64), hand["faces"].astype(np.int64)
    source, ending = clip_hand(whole_source, BELOW_WRIST), clip_hand(whole_source)
    angles = corner_angles(vertices, faces)
    smallest = angles.min(axis=1)
    facing, neighbours = facing_cosines(vertices, faces, source), neighbour_cosines(vertices, faces)
    facing_by_position = facing_cosines(vertices, faces, source, normal_scale=0.0)
    at_vertices = MILLIMETRES * exact_distances(vertices, source.vertices, source.faces)
    there = surface_distances(vertices, faces, source.vertices, source.faces, samples)
    back = surface_distances(ending.vertices, ending.faces, vertices, faces, samples)
    return {
        "flipped faces": float((facing < 0).sum()),
        "flipped faces, by position": float((facing_by_position < 0).sum()),
        "smallest cosine to the source": float(facing.min()),
        "smallest cosine, by position": float(facing_by_position.min()),
        "folded edges": float((neighbours < 0).sum()),
        "smallest cosine across an edge": float(neighbours.min()),
        "self-intersections": float(self_intersections(vertices, faces)),
        "smallest angle": float(smallest.min()),
        "smallest angle, 1 %": float(np.percentile(smallest, 1)),
        "smallest angle, 5 %": float(np.percentile(smallest, 5)),
        "smallest angle, median": float(np.median(smallest)),
        "largest angle": float(angles.max()),
        "vertices to source, RMS": float(np.sqrt((at_vertices**2).mean())),
        "vertices to source, maximum": float(at_vertices.max()),
        "surface to source, RMS": float(np.sqrt((there**2).mean())),
        "surface to source, maximum": float(there.max()),
        "source to surface, RMS": float(np.sqrt((back**2).mean())),
        "source to surface, maximum": float(back.max()),
        **{f"tip vertex {vertex}": value for vertex, value in tip_distances(vertices, source).items()},
    }


def measure_pose(
    hand: Mapping[str, np.ndarray], whole_source: GenericHand, rotations: Mapping[int, Floats], samples: int = 20_000
) -> dict[str, float]:
    """Distances in millimetres, both ways, of the posed hand and the posed source; each has its own skin weights."""
    source, ending = clip_hand(whole_source, BELOW_WRIST), clip_hand(whole_source)
    faces = hand["faces"].astype(np.int64)
    joints, parents = hand["joints"].astype(np.float64), hand["parents"]
    vertices, long, short = (
        linear_blend_skinning(points.astype(np.float64), weights.astype(np.float64), joints, parents, rotations)
        for points, weights in (
            (hand["vertices"], hand["weights"]),
            (source.vertices, source.weights),
            (ending.vertices, ending.weights),
        )
    )
    there = surface_distances(vertices, faces, long, source.faces, samples)
    back = surface_distances(short, ending.faces, vertices, faces, samples)
    area = np.linalg.norm(cross_normals(vertices, faces), axis=1)
    rest_area = np.linalg.norm(cross_normals(hand["vertices"].astype(np.float64), faces), axis=1)
    return {
        "surface to source, RMS": float(np.sqrt((there**2).mean())),
        "surface to source, maximum": float(there.max()),
        "source to surface, RMS": float(np.sqrt((back**2).mean())),
        "source to surface, maximum": float(back.max()),
        "smallest area ratio": float((area / rest_area).min()),
        "self-intersections": float(self_intersections(vertices, faces)),
    }

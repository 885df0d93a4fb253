"""Plain index arithmetic on faces, in numpy: checks, adjacency, boundary loops and identities."""

from __future__ import annotations

import hashlib

import numpy as np

from texalign._internal import expect

# Twice the area in uv of a face that has none: rounding at 6 decimals moves an edge of 0.005 by 5e-9.
NO_AREA = 1e-8
PROJECTIONS = 8
PROJECTION_STEP = 1e-6
SAME_UV = 2e-5


def directed_edges(faces: np.ndarray) -> np.ndarray:
    """(F, 3) → (F, 3, 2): edge i of a face runs from corner i + 1 to corner i + 2, opposite corner i."""
    return np.stack([np.roll(faces, -1, axis=1), np.roll(faces, -2, axis=1)], axis=-1)


def check_topology(faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray, vertex_count: int) -> None:
    """Raise a ValueError that names the first offending element."""
    who = "HandSurface"
    expect(faces.ndim == 2 and faces.shape[1] == 3 and len(faces) > 0, who, "faces (F, 3)", faces.shape)
    expect(uv.ndim == 2 and uv.shape[1] == 2, who, "uv (U, 2)", uv.shape)
    expect(uv_faces.shape == faces.shape, who, f"uv_faces {faces.shape} like faces", uv_faces.shape)
    for name, indices, count in (("faces", faces, vertex_count), ("uv_faces", uv_faces, len(uv))):
        expect(indices.dtype.kind in "iu", who, f"{name} of an integer dtype", indices.dtype)
        bad = ((indices < 0) | (indices >= count)).any(axis=1)
        if bad.any():
            index = int(bad.argmax())
            expect(False, who, f"indices in {name} from 0 to {count - 1}", f"face {index} = {_text(indices[index])}")
    bad = ~((uv >= 0) & (uv <= 1)).all(axis=1)
    if bad.any():
        index = int(bad.argmax())
        expect(False, who, "uv in [0, 1]", f"uv {index} = {_text(uv[index])}")
    bad = (faces == np.roll(faces, 1, axis=1)).any(axis=1)
    if bad.any():
        index = int(bad.argmax())
        expect(False, who, "three different vertices a face", f"face {index} = {_text(faces[index])}")
    _check_edges(faces)


def _check_edges(faces: np.ndarray) -> None:
    edges = directed_edges(faces).reshape(-1, 2)
    _, inverse, counts = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    crowded = counts[inverse] > 2
    if crowded.any():
        edge = int(crowded.argmax())
        sharing = np.unique((inverse == inverse[edge]).nonzero()[0] // 3)
        expect(
            False,
            "HandSurface",
            "at most two faces at an edge (a manifold)",
            f"edge {_text(np.sort(edges[edge]))} in faces {_text(sharing)}",
        )
    _, inverse, counts = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    repeated = counts[inverse] > 1
    if repeated.any():
        edge = int(repeated.argmax())
        sharing = (inverse == inverse[edge]).nonzero()[0] // 3
        expect(
            False,
            "HandSurface",
            "neighbouring faces with one winding",
            f"faces {_text(sharing)} that both walk edge {_text(edges[edge])} in the same direction",
        )


def twin_edges(faces: np.ndarray) -> np.ndarray:
    """(F, 3): for each face's edge i its number 3·face + edge in the face across it, -1 at the boundary.

    Example:
        >>> twin_edges(np.array([[0, 1, 2], [3, 2, 1]]))
        array([[ 3, -1, -1],
               [ 0, -1, -1]])
    """
    edges = [(int(a), int(b)) for a, b in directed_edges(faces).reshape(-1, 2)]
    number = {edge: position for position, edge in enumerate(edges)}
    return np.array([number.get((b, a), -1) for a, b in edges], dtype=np.int64).reshape(faces.shape)


def boundary_loops(faces: np.ndarray) -> list[tuple[int, ...]]:
    """Closed loops of boundary vertices, walked as the faces walk them, each from its lowest vertex."""
    edges = {(int(a), int(b)) for a, b in directed_edges(faces).reshape(-1, 2)}
    following: dict[int, list[int]] = {}
    for a, b in sorted(edges):
        if (b, a) not in edges:
            following.setdefault(a, []).append(b)
    loops = []
    while following:
        start = min(following)
        loop, vertex = [start], following[start].pop(0)
        while vertex != start:
            loop.append(vertex)
            vertex = following[vertex].pop(0)
        following = {key: value for key, value in following.items() if value}
        loops.append(tuple(loop))
    return loops


def atlas_identity(faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray) -> str:
    """Which vertices' corners lie at which uv, whatever the order in which that is written; see `same_atlas`.

    16 hexadecimal digits of the faces' vertices, then 8 projections of all corners' uv onto fixed random signs, of 5
    digits each: equal faces have equal digits, and uv that differ by rounding have projections that do.

    The order and rotation of faces, the winding of all of them, the numbering of uv and faces without area in the atlas
    change nothing.
    """
    order = np.argsort(faces, axis=1)
    corners = uv.astype(np.float64)[np.take_along_axis(uv_faces, order, axis=1)]
    a, b, c = np.moveaxis(corners, 1, 0)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    kept = area > NO_AREA
    rows, corners = np.take_along_axis(faces, order, axis=1)[kept].astype("<i8"), corners[kept].reshape(-1, 6)
    sorting = np.lexsort((*corners.T, *rows.T[::-1]))
    rows, places = np.ascontiguousarray(rows[sorting]), corners[sorting].reshape(-1)
    bits = hashlib.shake_256(b"texalign atlas").digest(PROJECTIONS * len(places))
    signs = 1 - 2.0 * (np.frombuffer(bits, np.uint8).reshape(PROJECTIONS, -1) & 1)
    projected = np.rint(signs @ places / np.sqrt(max(len(places), 1)) / PROJECTION_STEP).astype(np.int64) % 16**5
    topology = hashlib.sha256(str(rows.shape).encode() + rows.tobytes()).hexdigest()[:16]
    return f"{topology}-" + "".join(f"{value:05x}" for value in projected.tolist())


def same_atlas(one: str, other: str) -> bool:
    """Whether two `HandSurface.atlas_id` are of one atlas, up to the rounding of its uv in files.

    A projection differs by about as much as uv do (root mean square): 3e-7 for the 6 decimals of an OBJ. Up to 2e-5, a
    fiftieth of a texel of 1,024, is the same atlas.

    Example:
        >>> from texalign.surface import HandSurface
        >>> same_atlas(HandSurface.mano().atlas_id, HandSurface.mano().mirrored().atlas_id)
        True
    """
    topology, projections = zip(*(str(text).partition("-")[::2] for text in (one, other)))
    if topology[0] != topology[1] or len(projections[0]) != len(projections[1]):
        return False
    first, second = ([int(text[i : i + 5], 16) for i in range(0, len(text), 5)] for text in projections)
    gaps = [abs(a - b) for a, b in zip(first, second)]
    return max((min(gap, 16**5 - gap) for gap in gaps), default=0) * PROJECTION_STEP <= SAME_UV


def relative_winding(faces: np.ndarray, others: np.ndarray) -> int:
    """1 if both hold the same faces in any order and rotation, -1 if all are wound the other way, 0 if neither.

    Example:
        >>> relative_winding(np.array([[0, 1, 2]]), np.array([[2, 1, 0]]))
        -1
    """
    if len(faces) != len(others):
        return 0
    mine = _from_lowest(faces)
    for sign in (1, -1):
        if np.array_equal(mine, _from_lowest(others[:, ::sign])):
            return sign
    return 0


def _from_lowest(faces: np.ndarray) -> np.ndarray:
    """The faces in one order, each from its lowest vertex."""
    turn = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(faces, turn, axis=1)
    return turned[np.lexsort(turned.T[::-1])]


def _text(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in np.asarray(values).tolist()) + ")"

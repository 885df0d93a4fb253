"""The source hand: the MIT-licensed WebXR generic hand, read, reduced to MANO's sixteen joints, and cut at the wrist.

Everything leaves this module in the frame of the packaged hand: metres, origin at the wrist joint, fingers towards
-x, palm facing -y, thumb towards +z.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SOURCE_PATH = Path(__file__).parent / "sources" / "generic_hand_right.glb"

FINGERS = ("index", "middle", "pinky", "ring", "thumb")
PARENTS = np.array([-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14])
PALM, BACK = 0, 1

# The file's axes are: fingers -y, palm -x, thumb -z. This proper rotation takes them to fingers -x, palm -y, thumb +z.
FILE_TO_HAND_AXES = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
TOWARDS_FOREARM = np.array([1.0, 0.0, 0.0])
DORSAL = np.array([0.0, 1.0, 0.0])

# The narrowest part of the forearm, just under the heel of the hand, begins 4 mm below the wrist joint.
WRIST_CUT_BELOW_JOINT = 0.004


@dataclass(frozen=True)
class Plane:
    """An oriented plane; `normal` is a unit vector."""

    point: Floats
    normal: Floats

    def signed_distance(self, positions: Floats) -> Floats:
        """Distance in metres of positions (..., 3), positive on the side the normal points to."""
        return (positions - self.point) @ self.normal


@dataclass(frozen=True)
class GenericHand:
    """A skinned triangle mesh made of two charts.

    Attributes:
        vertices: (V, 3) metres. Vertices on the silhouette seam exist twice, once for each chart.
        faces: (F, 3) outward, counter-clockwise.
        chart: (V,) `PALM` or `BACK`.
        weights: (V, 16) skin weights, rows sum to 1.
        joints: (16, 3) metres, MANO's order: wrist, then three for each of `FINGERS`.
        tips: (5, 3) metres, the tip joints in the order of `FINGERS`; they lie about 10 mm inside the flesh.
        wrist_plane: where the packaged hand ends; the normal points to the forearm.
    """

    vertices: Floats
    faces: Integers
    chart: Integers
    weights: Floats
    joints: Floats
    tips: Floats
    wrist_plane: Plane


def unit(vectors: Floats) -> Floats:
    """Normalise vectors (..., 3)."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def joint_index(finger: str, number: int) -> int:
    """Index of a finger's joint; number 1 is the proximal one, 3 the distal one."""
    return 3 * FINGERS.index(finger) + number


def finger_joints(finger: str) -> list[int]:
    """Indices of a finger's three joints."""
    return [joint_index(finger, number) for number in (1, 2, 3)]


def cross_normals(vertices: Floats, faces: Integers) -> Floats:
    """Face normals (F, 3) whose length is twice the face's area."""
    corner = vertices[faces]
    return np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])


def _read_glb(path: Path) -> tuple[dict, list[NDArray]]:
    """Read a binary glTF file: its JSON header and all of its accessors as (count, components) arrays.

    Layout from the glTF 2.0 specification, section "GLB File Format": a 12-byte header, a JSON chunk, a binary chunk,
    each chunk preceded by its length and type.
    """
    data = path.read_bytes()
    header_length = struct.unpack("<I", data[12:16])[0]
    header = json.loads(data[20 : 20 + header_length])
    binary = data[28 + header_length :]
    scalar = {5121: np.uint8, 5123: np.uint16, 5126: np.float32}
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
    arrays = []
    for accessor in header["accessors"]:
        count, columns = accessor["count"], width[accessor["type"]]
        offset = header["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
        flat = np.frombuffer(binary, scalar[accessor["componentType"]], count * columns, offset)
        arrays.append(flat.reshape(count, columns))
    return header, arrays


def _merged_joint(name: str) -> int:
    """Index of the MANO joint that takes over a WebXR joint.

    MANO has no metacarpals (the wrist moves the palm) and no tip joints (the distal joint moves the tip). The thumb's
    metacarpal is MANO's first thumb joint.
    """
    if name == "wrist":
        return 0
    finger, part = name.split("-")[0], name.split("-")[-1]
    if finger == "thumb":
        return joint_index(finger, {"metacarpal": 1, "proximal": 2, "distal": 3, "tip": 3}[part])
    if part == "metacarpal":
        return 0
    return joint_index(finger, {"proximal": 1, "intermediate": 2, "distal": 3, "tip": 3}[part])


def _connected_pieces(faces: Integers, vertex_count: int) -> Integers:
    """Label (V,) of the connected piece that each vertex belongs to."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1]


def read_generic_hand(path: Path = SOURCE_PATH) -> GenericHand:
    """Read the WebXR right hand without its wrist cap, its 25 joints merged into MANO's 16."""
    header, arrays = _read_glb(path)
    primitive = header["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    names = [header["nodes"][node]["name"] for node in header["skins"][0]["joints"]]
    places = np.array([header["nodes"][node]["translation"] for node in header["skins"][0]["joints"]])

    def to_hand_frame(positions: NDArray) -> Floats:
        return (positions.astype(np.float64) - places[names.index("wrist")]) @ FILE_TO_HAND_AXES.T

    vertices = to_hand_frame(arrays[attributes["POSITION"]])
    faces = arrays[primitive["indices"]].reshape(-1, 3).astype(np.int64)
    weights = np.zeros((len(vertices), len(PARENTS)))
    skin_joints = np.array([_merged_joint(name) for name in names])[arrays[attributes["JOINTS_0"]]]
    np.add.at(weights, (np.arange(len(vertices))[:, None], skin_joints), arrays[attributes["WEIGHTS_0"]])
    weights /= weights.sum(axis=1, keepdims=True)

    joints = np.zeros((len(PARENTS), 3))
    for name, place in zip(names, to_hand_frame(places), strict=True):
        merged_away = name.endswith("tip") or (name.endswith("metacarpal") and not name.startswith("thumb"))
        if not merged_away:
            joints[_merged_joint(name)] = place
    tips = to_hand_frame(places)[[names.index(f"{f}-tip" if f == "thumb" else f"{f}-finger-tip") for f in FINGERS]]

    piece = _connected_pieces(faces, len(vertices))
    cap, *sheets = np.argsort(np.bincount(piece))
    wrist_normal = unit(unit(vertices[piece == cap].mean(axis=0)) + TOWARDS_FOREARM)
    normals = cross_normals(vertices, faces)
    palm = min(sheets, key=lambda sheet: float(normals[piece[faces[:, 0]] == sheet].sum(axis=0) @ DORSAL))

    kept = np.flatnonzero(piece != cap)
    renumbered = np.full(len(vertices), -1)
    renumbered[kept] = np.arange(len(kept))
    return GenericHand(
        vertices=vertices[kept],
        faces=renumbered[faces[piece[faces[:, 0]] != cap]],
        chart=np.where(piece[kept] == palm, PALM, BACK),
        weights=weights[kept],
        joints=joints,
        tips=tips,
        wrist_plane=Plane(WRIST_CUT_BELOW_JOINT * wrist_normal, wrist_normal),
    )


def clip_faces(faces: Integers, height: Floats) -> tuple[Integers, csr_matrix]:
    """Keep the part of a mesh where a per-vertex height is negative, splitting the faces that cross zero.

    Args:
        faces: (F, 3).
        height: (V,), linear on faces, nowhere exactly zero.

    Returns:
        Faces (F', 3) of the kept part and a matrix (V', V) that interpolates any per-vertex attribute to its vertices:
        first the kept old vertices in their old order, then the new ones on the cut.
    """
    inside = height < 0
    old = np.flatnonzero(inside)
    number = {int(vertex): index for index, vertex in enumerate(old)}
    rows, columns, values = list(range(len(old))), old.tolist(), [1.0] * len(old)
    cuts: dict[tuple[int, int], int] = {}

    def cut(inner: int, outer: int) -> int:
        key = (inner, outer)
        if key not in cuts:
            cuts[key] = len(old) + len(cuts)
            share = height[inner] / (height[inner] - height[outer])
            rows.extend([cuts[key]] * 2)
            columns.extend(key)
            values.extend([1.0 - share, share])
        return cuts[key]

    kept = []
    for face in faces.tolist():
        count = int(inside[face].sum())
        # Turn the face so that the corner on its own side comes first.
        lone = next((i for i in range(3) if inside[face[i]] == (count == 1)), 0) if count in (1, 2) else 0
        a, b, c = face[lone:] + face[:lone]
        if count == 3:
            kept.append([number[a], number[b], number[c]])
        elif count == 1:
            kept.append([number[a], cut(a, b), cut(a, c)])
        elif count == 2:
            kept.append([cut(b, a), number[b], number[c]])
            kept.append([cut(b, a), number[c], cut(c, a)])
    interpolation = csr_matrix((values, (rows, columns)), shape=(len(old) + len(cuts), len(height)))
    return np.array(kept), interpolation


def clip_hand(hand: GenericHand, below_plane: float = 0.0) -> GenericHand:
    """Cut the hand off at a distance in metres below its wrist plane."""
    height = hand.wrist_plane.signed_distance(hand.vertices) - below_plane
    faces, interpolation = clip_faces(hand.faces, height)
    return GenericHand(
        vertices=interpolation @ hand.vertices,
        faces=faces,
        chart=np.rint(interpolation @ hand.chart).astype(np.int64),
        weights=interpolation @ hand.weights,
        joints=hand.joints,
        tips=hand.tips,
        wrist_plane=hand.wrist_plane,
    )


def vertex_normals(vertices: Floats, faces: Integers) -> Floats:
    """Area-weighted unit vertex normals (V, 3); vertices at the same place share theirs, so that seams are smooth."""
    _, place = np.unique(np.round(vertices, 7), axis=0, return_inverse=True)
    place = place.reshape(-1)
    sums = np.zeros((place.max() + 1, 3))
    np.add.at(sums, place[faces], cross_normals(vertices, faces)[:, None])
    return unit(sums[place])

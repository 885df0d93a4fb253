"""MANO's topology as its UV layout shows it: two charts, the seam between them, and where the anatomy lies on it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

from generic_hand import BACK, PALM, Floats, Integers

SOURCE_PATH = Path(__file__).parent / "sources" / "mano_right_uv_905.npz"

# The open boundary, beginning at the thumb's side and running along the back.
WRIST_LOOP = (122, 38, 92, 234, 239, 279, 215, 214, 121, 78, 79, 108, 120, 119, 117, 118)
# Two vertices that published code uses as a finger's tip. Both lie slightly to the nail side.
TIP_VERTICES = {"index": (317, 320), "middle": (444, 443), "pinky": (673, 671), "ring": (556, 554), "thumb": (745, 744)}


@dataclass(frozen=True)
class Landmark:
    """A place on the seam that is found on both hands.

    Attributes:
        position: index in the seam of 127 vertices; a half lies midway between two vertices.
        kind: "end" (wrist), "joint", "tip" or "web".
        finger: the finger of a joint or tip; the first of the two fingers of a web.
        joint: 1, 2 or 3 for a joint.
    """

    position: float
    kind: str
    finger: str = ""
    joint: int = 0


# The seam runs from the wrist's thumb side along the silhouette to the wrist's other side. At each finger joint the
# topology has three closely spaced edge rows (the seam's spacing is short, short, long); the middle row is the joint.
LANDMARKS = (
    Landmark(0, "end"),
    Landmark(6, "joint", "thumb", 2),
    Landmark(9, "joint", "thumb", 3),
    Landmark(14, "tip", "thumb"),
    Landmark(19, "joint", "thumb", 3),
    Landmark(21.5, "web", "thumb"),
    Landmark(26, "joint", "index", 1),
    Landmark(29, "joint", "index", 2),
    Landmark(32, "joint", "index", 3),
    Landmark(37, "tip", "index"),
    Landmark(42, "joint", "index", 3),
    Landmark(45, "joint", "index", 2),
    Landmark(49, "web", "index"),
    Landmark(52, "joint", "middle", 2),
    Landmark(55, "joint", "middle", 3),
    Landmark(60, "tip", "middle"),
    Landmark(65, "joint", "middle", 3),
    Landmark(68, "joint", "middle", 2),
    Landmark(71.5, "web", "middle"),
    Landmark(75, "joint", "ring", 2),
    Landmark(78, "joint", "ring", 3),
    Landmark(83, "tip", "ring"),
    Landmark(88, "joint", "ring", 3),
    Landmark(91, "joint", "ring", 2),
    Landmark(95, "web", "ring"),
    Landmark(98, "joint", "pinky", 2),
    Landmark(101, "joint", "pinky", 3),
    Landmark(106, "tip", "pinky"),
    Landmark(111, "joint", "pinky", 3),
    Landmark(114, "joint", "pinky", 2),
    Landmark(117, "joint", "pinky", 1),
    Landmark(126, "end"),
)


@dataclass(frozen=True)
class Chart:
    """One side of a hand, a topological disc.

    Attributes:
        points: (N, 2) UV or (N, 3) metres.
        faces: (F, 3) into `points`.
        vertex: (N,) the vertex of the whole hand that a point belongs to.
        seam: indices of points along the silhouette, from the wrist's thumb side to its other side.
        wrist: indices along the wrist, from where the seam ends back to where it begins.
    """

    points: Floats
    faces: Integers
    vertex: Integers
    seam: Integers
    wrist: Integers


@dataclass(frozen=True)
class ManoLayout:
    """Topology and atlas: faces (1538, 3), uv (905, 2) with v up, uv_faces (1538, 3), charts by `PALM` and `BACK`."""

    faces: Integers
    uv: Floats
    uv_faces: Integers
    charts: tuple[Chart, Chart]

    @property
    def seam_vertices(self) -> Integers:
        """The 127 vertices of the seam."""
        return self.charts[PALM].vertex[self.charts[PALM].seam]


def directed_edges(faces: Integers) -> Integers:
    """The three directed edges of each face, (3F, 2)."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def boundary_loop(faces: Integers) -> list[int]:
    """The vertices around a disc's boundary in the direction of its faces."""
    edges = {(int(a), int(b)) for a, b in directed_edges(faces)}
    following = {a: b for a, b in edges if (b, a) not in edges}
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    if len(loop) != len(following):
        raise ValueError(f"boundary_loop: expected one boundary, got {len(following)} edges, {len(loop)} in a loop")
    return loop


def make_chart(points: Floats, faces: Integers, vertex: Integers, is_wrist: NDArray[np.bool_], side: int) -> Chart:
    """Split a disc's boundary into seam and wrist.

    Args:
        points: (N, 2 or 3).
        faces: (F, 3) into points.
        vertex: (N,) index in the whole hand.
        is_wrist: (N,) True for the boundary points on the wrist, both ends of the seam included.
        side: `PALM`, whose boundary runs from the thumb to the little finger, or `BACK`, which runs the other way.
    """
    loop = boundary_loop(faces)
    if side == BACK:
        loop = loop[::-1]
    # Begin with the last wrist point: it is the seam's first.
    begin = next(i for i in range(len(loop)) if is_wrist[loop[i]] and not is_wrist[loop[(i + 1) % len(loop)]])
    loop = loop[begin:] + loop[:begin]
    end = next(i for i in range(1, len(loop)) if is_wrist[loop[i]])
    return Chart(points, faces, vertex, np.array(loop[: end + 1]), np.array(loop[end:] + loop[:1]))


def read_mano_layout(path: Path = SOURCE_PATH) -> ManoLayout:
    """Read the topology and the UV layout and find the two charts."""
    data = np.load(path)
    uv, uv_faces = data["vt"].astype(np.float64), data["faces_uv"].astype(np.int64)
    vertex = data["vt_to_vertex"].astype(np.int64)
    edges = directed_edges(uv_faces)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(uv), len(uv)))
    piece = connected_components(graph, directed=False)[1]
    back = piece[np.flatnonzero(vertex == TIP_VERTICES["index"][0])[0]]
    charts = []
    for side in (PALM, BACK):
        kept = np.flatnonzero((piece == back) == (side == BACK))
        local = np.full(len(uv), -1)
        local[kept] = np.arange(len(kept))
        faces = local[uv_faces[(piece[uv_faces[:, 0]] == back) == (side == BACK)]]
        charts.append(make_chart(uv[kept], faces, vertex[kept], np.isin(vertex[kept], WRIST_LOOP), side))
    palm_chart, back_chart = charts
    if not np.array_equal(palm_chart.vertex[palm_chart.seam], back_chart.vertex[back_chart.seam]):
        raise ValueError("read_mano_layout: the charts' seams differ")
    return ManoLayout(data["faces"].astype(np.int64), uv, uv_faces, (palm_chart, back_chart))


def seam_lengths(layout: ManoLayout) -> Floats:
    """Arc length (127,) along the seam in UV units: the mean of both charts'."""
    steps = [np.linalg.norm(np.diff(chart.points[chart.seam], axis=0), axis=1) for chart in layout.charts]
    return np.concatenate([[0.0], np.cumsum(np.mean(steps, axis=0))])


def _shortest_path(chart: Chart, start: int, end: int) -> list[int]:
    """Vertices of the shortest edge path, measured in UV, between two vertices of a chart."""
    edges = directed_edges(chart.faces)
    length = np.linalg.norm(chart.points[edges[:, 0]] - chart.points[edges[:, 1]], axis=1)
    size = len(chart.points)
    # Duplicates would be added up by the sparse format, and every inner edge occurs once in each direction.
    graph = coo_matrix((length, (edges[:, 0], edges[:, 1])), shape=(size, size)).tocsr()
    graph = graph.maximum(graph.T)
    begin = int(np.flatnonzero(chart.vertex == start)[0])
    point = int(np.flatnonzero(chart.vertex == end)[0])
    before = dijkstra(graph, indices=begin, return_predecessors=True)[1]
    path = [point]
    while path[-1] != begin:
        path.append(int(before[path[-1]]))
    return chart.vertex[path].tolist()


def joint_rings(layout: ManoLayout) -> dict[tuple[str, int], Integers]:
    """For each finger joint that meets the seam twice, the vertices of the middle one of its three edge rows."""
    seam = layout.seam_vertices
    crossings: dict[tuple[str, int], list[int]] = {}
    for landmark in LANDMARKS:
        if landmark.kind == "joint":
            crossings.setdefault((landmark.finger, landmark.joint), []).append(int(seam[int(landmark.position)]))
    rings = {}
    for key, ends in crossings.items():
        if len(ends) == 2:
            paths = [_shortest_path(chart, ends[0], ends[1]) for chart in layout.charts]
            rings[key] = np.unique(np.concatenate(paths))
    return rings


def web_vertices(layout: ManoLayout) -> dict[str, Integers]:
    """For each web, named after its first finger, the one or two vertices whose middle is the web."""
    seam = layout.seam_vertices
    return {
        landmark.finger: np.unique(seam[[int(np.floor(landmark.position)), int(np.ceil(landmark.position))]])
        for landmark in LANDMARKS
        if landmark.kind == "web"
    }

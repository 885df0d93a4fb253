from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from texalign._internal import Unscriptable, computes_constants, expect, expect_same_device, expect_tensor, hand_asset
from texalign.rasterize import select_backend
from texalign.surface.obj import read_obj
from texalign.surface.topology import atlas_identity, boundary_loops, check_topology, relative_winding, twin_edges

# So many boundary vertices at places of others are no accident.
SEAM = 4
SEAM_EXPECTED = (
    "one vertex for each point of the skin, with seams in vt only (merge vertices by position, as Blender's merge by "
    "distance or trimesh's merge_vertices(merge_tex=True) do)"
)


class TexelMap(NamedTuple):
    """Which point of the surface lies under each texel's centre, and the inside texel that a border texel copies.

    Attributes:
        face_index: (T, T) int64, -1 outside the charts.
        barycentric: (T, T, 3) float32, 0 outside the charts.
        redirect: (T·T,) int64, the flat texel to read in place of each: just outside a chart, where a bilinear lookup
            inside it can touch, the nearest texel inside; everywhere else the texel itself.

    Example:
        >>> face_index, barycentric, redirect = HandSurface.mano().texel_map(64)
        >>> face_index.shape
        torch.Size([64, 64])
    """

    face_index: Tensor
    barycentric: Tensor
    redirect: Tensor


class HandSurface(Unscriptable, nn.Module):
    """All that is fixed about a hand's topology: faces, UV atlas, adjacency and handedness, as buffers.

    It holds no vertex positions: those come from a network. Nothing here enters a `state_dict`.

    Args:
        faces: (F, 3) integer, into the vertices, counter-clockwise seen from outside.
        uv: (U, 2) float in [0, 1], u to the right, **v down** (texture row 0 is v = 0).
        uv_faces: (F, 3) integer, into uv. Seams split uv, never vertices.
        vertex_count: V; by default the largest index in `faces` plus one.
        is_right: whether `faces` wind counter-clockwise for a right hand's vertices.

    Attributes:
        faces, uv, uv_faces: as above, int64, float32, int64.
        twins: (F, 3) int64: edge i of a face lies opposite its corner i; here is the number 3·face + edge that the same
            edge has in the face across it, -1 at the boundary.
        boundary_loops: closed loops of boundary vertices, as tuples of indices; MANO's open wrist is one of 16.
        atlas_id: text that says which vertices lie where in the atlas. Weights of a texture prior belong to one atlas.
            Another layout, or the same one on other vertices, has another id; the order of faces and of their corners,
            the winding of all of them (so the side of the hand), the numbering of uv and faces without area in the
            atlas (a cap over the wrist) do not matter. `same_atlas` compares two, up to the rounding of files.

    Raises:
        ValueError: an index out of range, a face that repeats a vertex, uv outside [0, 1], an edge shared by three
            faces, or two neighbours that wind differently; the message names the element.

    Example:
        >>> surface = HandSurface.mano()
        >>> surface.vertex_count, len(surface.faces), surface.is_right
        (778, 1538, True)
    """

    faces: Tensor
    uv: Tensor
    uv_faces: Tensor
    twins: Tensor

    @computes_constants
    def __init__(
        self, faces: Any, uv: Any, uv_faces: Any, vertex_count: int | None = None, is_right: bool = True
    ) -> None:
        super().__init__()
        face_array, uv_face_array = _as_array(faces), _as_array(uv_faces)
        uv_array = _as_array(uv).astype(np.float32)
        if vertex_count is None and face_array.size and face_array.dtype.kind in "iu":
            vertex_count = int(face_array.max()) + 1
        self.vertex_count = int(vertex_count or 0)
        check_topology(face_array, uv_array, uv_face_array, self.vertex_count)
        face_array, uv_face_array = face_array.astype(np.int64), uv_face_array.astype(np.int64)
        self.is_right = bool(is_right)
        self.boundary_loops = boundary_loops(face_array)
        self.atlas_id = atlas_identity(face_array, uv_array, uv_face_array)
        arrays = {
            "faces": face_array,
            "uv": uv_array,
            "uv_faces": uv_face_array,
            "twins": twin_edges(face_array),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
        self._texel_maps: dict[tuple[int, torch.device], TexelMap] = {}

    @classmethod
    def mano(cls) -> HandSurface:
        """MANO's right-hand topology (778 vertices, 1,538 faces, open wrist) with DART's UV layout (905 uv).

        Both ship with the package under the MIT licence; no licensed file is needed.

        Example:
            >>> surface = HandSurface.mano()
            >>> surface.vertex_count, surface.faces.shape, surface.uv.shape
            (778, torch.Size([1538, 3]), torch.Size([905, 2]))
        """
        # Fake tensors (of `torch.export`, for instance) are not to be kept.
        return _bundled()._copied() if type(torch.empty(0)) is Tensor else _mano()

    @classmethod
    def from_obj(cls, path: str | Path, is_right: bool | None = None) -> HandSurface:
        """From an OBJ file whose faces carry texture coordinates: the official MANO UV, HTML's, DART's, your own.

        Only `v`, `vt` and `f` lines are read; polygons are split into fans; v is flipped once, since OBJ's points up.

        Args:
            path: the file.
            is_right: the side of the hand. None tells it from how MANO's faces are wound; other faces are a right
                hand's.

        Raises:
            ValueError: no faces, a face without `vt` (the message names the line), vertices that are split at the
                seams of the atlas, or MANO's faces wound as those of the other side.
        """
        path = Path(path)
        vertices, faces, uv, uv_faces = read_obj(path)
        winding = relative_winding(faces, hand_asset()["faces"])
        told = {1: True, -1: False}.get(winding)
        if is_right is not None and told is not None:
            sides = ("left", "right")
            expect(
                is_right == told, path.name, f"MANO's faces as a {sides[is_right]} hand's", f"a {sides[told]} hand's"
            )
        made = cls(faces, uv, uv_faces, len(vertices), told is not False if is_right is None else is_right)
        points = vertices[list(made.boundary_vertices)]
        doubles = len(points) - len(np.unique(points, axis=0))
        expect(doubles < SEAM, path.name, SEAM_EXPECTED, f"{doubles} of {len(points)} boundary vertices that coincide")
        return made

    @classmethod
    def from_layer(cls, layer: Any) -> HandSurface:
        """From MANO's faces as a layer or file has them: of manotorch's `ManoLayer`, smplx's `MANO` and `MANOLayer`, or
        `texalign.mano.load(path)`.

        The layer's faces must be MANO's, in any order and of either hand; each gets its texture coordinates from the
        bundled layout. Faces that close the wrist are kept and take the colour of the wrist's edge.

        Raises:
            TypeError: the layer has neither `th_faces` nor `faces`.
            ValueError: the faces are not MANO's; pass them with your own uv to `HandSurface` instead.
        """
        faces = getattr(layer, "th_faces", None)
        if faces is None:
            faces = getattr(layer, "faces", None)
        if faces is None:
            raise TypeError(
                f"HandSurface.from_layer: expected a layer with faces or th_faces, got {type(layer).__name__}"
            )
        # smplx keeps uint32, which torch cannot index with.
        return cls.mano()._rearranged(_as_array(faces).astype(np.int64).reshape(-1, 3), "HandSurface.from_layer")

    def _rearranged(self, faces: np.ndarray, who: str) -> HandSurface:
        """This atlas on another order, rotation, winding (of all faces) or wrist closure of the same faces."""
        mine = self.faces.cpu().numpy()
        corner_of = {frozenset(face): index for index, face in enumerate(mine.tolist())}
        wrist = {vertex for loop in self.boundary_loops for vertex in loop}
        uv_of = dict(zip(mine.reshape(-1).tolist(), self.uv_faces.cpu().reshape(-1).tolist()))
        uv_faces, same_winding = [], []
        for index, face in enumerate(faces.tolist()):
            match = corner_of.get(frozenset(face))
            if match is not None:
                order = [mine[match].tolist().index(vertex) for vertex in face]
                uv_faces.append([int(self.uv_faces[match, corner]) for corner in order])
                same_winding.append((order[1] - order[0]) % 3 == 1)
            elif wrist.issuperset(face):
                uv_faces.append([uv_of[face[0]]] * 3)
            else:
                raise ValueError(f"{who}: expected MANO's faces, got face {index} = {tuple(face)}")
        expect(
            len(same_winding) == len(mine) and len(set(same_winding)) == 1,
            who,
            f"all {len(mine)} faces of MANO with one winding",
            f"{len(same_winding)} of them, {sum(same_winding)} wound as the right hand's",
        )
        is_right = self.is_right == same_winding[0]
        return HandSurface(faces, self.uv.cpu(), np.array(uv_faces), self.vertex_count, is_right)

    def mirrored(self) -> HandSurface:
        """The other hand's surface: the same uv, every face wound the other way, for vertices mirrored in x.

        Example:
            >>> HandSurface.mano().mirrored().is_right
            False
        """
        flip = [0, 2, 1]
        return HandSurface(
            self.faces[:, flip], self.uv, self.uv_faces[:, flip], self.vertex_count, is_right=not self.is_right
        ).to(self.faces.device)

    def same_side(self, is_right: Tensor) -> Tensor:
        """(B,) bool: which of the samples `is_right` (B,) bool are hands of this surface's own side."""
        return is_right if self.is_right else ~is_right

    def closed_wrist(self) -> HandSurface:
        """The same surface with every boundary loop closed by a strip of faces (MANO: 14, no new vertex).

        The new faces have no area in the atlas: each takes the colour of one vertex at the wrist's edge.

        Example:
            >>> len(HandSurface.mano().closed_wrist().boundary_loops)
            0
        """
        faces, uv_faces = [self.faces.cpu().numpy()], [self.uv_faces.cpu().numpy()]
        uv_of = dict(zip(faces[0].reshape(-1).tolist(), uv_faces[0].reshape(-1).tolist()))
        for loop in self.boundary_loops:
            cap = _strip(loop)
            faces.append(np.array(cap))
            uv_faces.append(np.array([[uv_of[face[0]]] * 3 for face in cap]))
        return HandSurface(
            np.concatenate(faces), self.uv, np.concatenate(uv_faces), self.vertex_count, self.is_right
        ).to(self.faces.device)

    @property
    def boundary_vertices(self) -> tuple[int, ...]:
        """The vertices of all boundary loops, each once, ascending."""
        return tuple(sorted({vertex for loop in self.boundary_loops for vertex in loop}))

    def texel_map(self, texture_size: int) -> TexelMap:
        """Which face and barycentric point lies under the centre of each texel of a T × T texture. Cached."""
        key = (texture_size, self.faces.device)
        if key in self._texel_maps:
            return self._texel_maps[key]
        found = _texel_map(self.uv, self.uv_faces, texture_size)
        if type(found.redirect) is Tensor:  # and not a fake one
            self._texel_maps[key] = found
        return found

    def dilated(self, texture: Tensor) -> Tensor:
        """Texture (B, C, T, T) with the texels just outside the charts overwritten by the nearest one inside.

        A bilinear lookup at a chart's border then never mixes in what lies between the charts. Differentiable.

        Raises:
            ValueError: another shape, or another device than the surface's.
        """
        who = "HandSurface.dilated"
        shape = tuple(expect_tensor(texture, who, "texture").shape)
        expect(len(shape) == 4 and shape[2] == shape[3] > 0, who, "texture (B, C, T, T)", shape)
        expect_same_device(who, surface=self.faces, texture=texture)
        redirect = self.texel_map(texture.shape[-1]).redirect
        return texture.flatten(2).index_select(2, redirect).reshape(texture.shape)

    @computes_constants
    def _copied(self) -> HandSurface:
        """A surface of its own, so that moving one moves no other; they share texel maps, which depend on the atlas."""
        made = copy.deepcopy(self)
        made._texel_maps = self._texel_maps
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> HandSurface:
        # A host network's .half() or .double() moves the atlas but must not round it.
        uv = self.uv
        super()._apply(fn, recurse)
        self.uv = uv.to(self.faces.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_texel_maps": {}}

    def extra_repr(self) -> str:
        """What `print` shows."""
        side = "right" if self.is_right else "left"
        return (
            f"{self.vertex_count} vertices, {len(self.faces)} faces, {len(self.uv)} uv, {side}, atlas {self.atlas_id}"
        )


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3) out of the surface, of vertices (B, V, 3): means of the faces around, by area.

    Example:
        >>> triangle = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> vertex_normals(triangle, torch.tensor([[0, 1, 2]]))[0, 0]
        tensor([0., 0., 1.])
    """
    corners = vertices[:, faces]
    normals = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(1, faces[:, corner], normals)
    return functional.normalize(summed, dim=-1)


def _mano() -> HandSurface:
    hand = hand_asset()
    return HandSurface(hand["faces"], hand["uv"], hand["uv_faces"], vertex_count=len(hand["vertices"]))


# Made once: looking for twins and loops takes a while.
_bundled = cache(_mano)


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _strip(loop: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """A zigzag of triangles across a loop, wound to match the faces around it."""
    low, high, faces = 0, len(loop) - 1, []
    while high - low > 1:
        faces.append((loop[low], loop[high], loop[low + 1]))
        low += 1
        if high - low > 1:
            faces.append((loop[high], loop[high - 1], loop[low]))
            high -= 1
    return faces


@computes_constants
def _texel_map(uv: Tensor, uv_faces: Tensor, size: int) -> TexelMap:
    flat = torch.cat([uv * size, torch.ones_like(uv[:, :1])], dim=1)[None]
    found = select_backend("torch", flat.device).rasterize(flat, uv_faces, size, size, near=0.5)
    face_index, barycentric = found.face_index[0], found.barycentric[0]
    row, column = torch.meshgrid(*[torch.arange(size, device=uv.device)] * 2, indexing="ij")
    best = torch.full((size, size), 99, device=uv.device)
    source = torch.arange(size * size, device=uv.device).reshape(size, size)
    inside = face_index >= 0
    # A bilinear lookup inside a chart reaches one texel beyond it, diagonals included; two leave room for rounding.
    offsets = sorted(((dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)), key=lambda o: (o[0] ** 2 + o[1] ** 2, o))
    for dy, dx in offsets[1:]:
        y, x = (row + dy).clamp(0, size - 1), (column + dx).clamp(0, size - 1)
        better = ~inside & inside[y, x] & (best > dy * dy + dx * dx)
        best = torch.where(better, dy * dy + dx * dx, best)
        source = torch.where(better, y * size + x, source)
    return TexelMap(face_index, barycentric, source.reshape(-1))

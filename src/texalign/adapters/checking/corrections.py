"""What usual mistakes would have made of a mesh and a camera, undone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from texalign.adapters.checking.silhouettes import Moves, Silhouettes
from texalign.camera import PinholeCamera

_X, _Y, _YZ = (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, -1.0, -1.0)
_WHOLE, _PART = "after the translation is added, which is flipped too", "before the translation is added"
_Y_UP = "y points up: negate y, {}; this library's y points down"
_LEFT = (
    "these are the vertices of left hands, and the images show right ones, or the other way round: mirror one of the "
    "two (vertices: negate x, {})"
)
_MIRRORED = (
    "image and mesh are each other's mirror image, as when left hands are mirrored in one and not in the other: mirror "
    "both or none (vertices: negate x, {})"
)
_OPENGL = "the axes are OpenGL's, y up and z backwards: negate y and z, {}"

# Steps of a search in degrees, octaves and image sides, how many of them it goes each way, and whether it is about the
# image's corner.
_ROTATION = ((10.0, 0.0, 0.0, 0.0), 18, False)
_SHIFT = ((0.0, 0.0, 1 / 16, 1 / 16), 8, False)
_ZOOM, _RESIZING = ((0.0, 0.1, 0.0, 0.0), 10, False), ((0.0, 0.1, 0.0, 0.0), 10, True)
# What rotations chosen one by one gain more than one for all does, on meshes that are right.
_CHOSEN_ONE_BY_ONE = 0.05


class Correction(NamedTuple):
    """Another mesh and camera, and the mistake that would have turned them into those that came.

    Attributes:
        mistake: in words.
        vertices, camera: of N samples.
        explained: (N,) the share explained of their silhouettes.
        of_some: a mistake that is made with a part of a batch only.
    """

    mistake: str
    vertices: Tensor
    camera: PinholeCamera
    explained: Tensor
    of_some: bool = False


def flips(
    silhouettes: Silhouettes, vertices: Tensor, camera: PinholeCamera, index: Tensor, inside_out: bool
) -> list[Correction]:
    """Axes negated: reflections where the mesh is inside out; where not, a turn, or a reflection of some samples."""
    roots = [(vertices.amin(dim=1, keepdim=True) + vertices.amax(dim=1, keepdim=True)) / 2]
    if silhouettes.wrist:
        roots.append(vertices[:, silhouettes.wrist].mean(dim=1, keepdim=True))
    # They may have been flipped about a point beside these.
    nearby = _lattice(_SHIFT[0], 2).to(vertices)
    found = []
    for mistake, signs in ((_Y_UP, _Y), (_LEFT, _X)) if inside_out else ((_MIRRORED, _X), (_OPENGL, _YZ)):
        sign, of_some = vertices.new_tensor(signs), mistake == _MIRRORED
        if mistake != _OPENGL:  # those lie behind the camera
            seen = camera.mirrored(silhouettes.width) if of_some else camera
            explained = silhouettes.explained(silhouettes.layers(vertices * sign, seen), index, Moves(0 * nearby[:1]))
            found.append(Correction(mistake.format(_WHOLE), vertices * sign, seen, explained[:, 0], of_some))
        for root in roots:
            flipped = (vertices - root) * sign + root
            explained = silhouettes.explained(silhouettes.layers(flipped, camera), index, Moves(nearby))
            best = _best(explained)
            flipped = silhouettes.moved(flipped, camera, Moves(nearby[best : best + 1]))
            found.append(Correction(mistake.format(_PART), flipped, camera, explained[:, best], of_some))
    return found


def moves_in_the_image(
    silhouettes: Silhouettes, vertices: Tensor, camera: PinholeCamera, index: Tensor, one_by_one: bool
) -> list[Correction]:
    """Rotated, scaled and shifted in the image as suits the batch best; `one_by_one`: also each rotated for itself."""
    layers = silhouettes.layers(vertices, camera)
    found = []
    for kind in (_ROTATION, _ZOOM, _RESIZING, _SHIFT):
        steps, reach, corner = kind
        grid = _lattice(steps, reach).to(vertices)
        over_grid = silhouettes.explained(layers, index, Moves(grid, corner))
        rows, explained = grid, over_grid
        for finer in (3, 9):
            rows = rows[_best(explained)] + _lattice(steps, 3).to(vertices) / finer
            explained = silhouettes.explained(layers, index, Moves(rows, corner))
        best = _best(explained)
        moves, said = Moves(rows[best : best + 1], corner), _said(rows[best].tolist(), corner, silhouettes)
        most, chosen = over_grid.max(dim=1)
        own = kind is _ROTATION and one_by_one and bool((most - explained[:, best]).mean() > _CHOSEN_ONE_BY_ONE)
        if own:
            moves, said = Moves(grid[chosen]), _said_one_by_one(grid[chosen, 0])
        moved = silhouettes.moved(vertices, camera, moves)
        gain = most - _CHOSEN_ONE_BY_ONE if own else explained[:, best]
        found.append(Correction(said, moved, camera, gain, of_some=own))
    return found


def _lattice(steps: tuple[float, ...], reach: int) -> Tensor:
    """(C, 4): all sums of up to `reach` of each of the steps."""
    return torch.cartesian_prod(*(torch.arange(-reach, reach + 1) * step if step else torch.zeros(1) for step in steps))


def _best(explained: Tensor) -> int:
    """The column of (N, C) that is largest in the mean."""
    return int(explained.mean(dim=0).argmax())


def _said(row: list[float], corner: bool, silhouettes: Silhouettes) -> str:
    degrees, octaves, x, y = row
    factor, width = 2.0**octaves, silhouettes.width
    if degrees:
        way = "" if abs(degrees) > 175 else " clockwise" if degrees > 0 else " counter-clockwise"
        return f"the images look rotated by about {abs(degrees):.0f}°{way} against the meshes: rotate both or none"
    if corner:
        return (
            f"the camera looks made for an image {1 / factor:.2f} × as large, {width / factor:.0f} pixels wide and not "
            f"{width}: multiply its focal length and principal point by {factor:.2f}"
        )
    if octaves:
        size = f"{factor:.2f} × too small" if octaves > 0 else f"{1 / factor:.2f} × too large"
        return f"the meshes look {size}: the focal length, or the depth, is off by that factor"
    side = silhouettes.side
    return f"the principal point looks off: add ({x * side:.0f}, {y * side:.0f}) pixels to it"


def _said_one_by_one(degrees: Tensor) -> str:
    low, high = (f"{float(each):.0f}°" for each in degrees.aminmax())
    return (
        f"the images look rotated against the meshes, each by another angle, {low} to {high} clockwise, as an "
        "augmentation does that rotates only one of the two"
    )

"""What usual mistakes would have made of a mesh and a camera, undone."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from texalign._internal import computes_constants
from texalign.camera import PinholeCamera
from texalign.hand import POSE_JOINT_NAMES, HandModel

_X, _Y, _XY, _YZ = (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (-1.0, -1.0, 1.0), (1.0, -1.0, -1.0)
_WHOLE = "after the translation is added, which is flipped too"
_PART = "before the translation is added"


class Correction(NamedTuple):
    """Another mesh and camera, and the mistake that would have turned them into those that came.

    `of_some`: a mistake that is made with a part of a batch only.
    """

    mistake: str
    vertices: Tensor
    camera: PinholeCamera
    of_some: bool = False


def flips(vertices: Tensor, camera: PinholeCamera, width: int, inside_out: bool) -> list[Correction]:
    """Axes negated: reflections where the mesh is inside out; where not, turns, or a reflection of some samples."""
    points = [(None, _WHOLE), *((point, _PART) for point in _roots(vertices))]
    found = []
    if inside_out:
        y_up = "y points up: negate y, {}; this library's y points down"
        left = (
            "these are the vertices of left hands, and the images show right ones, or the other way round: mirror one "
            "of the two (vertices: negate x, {})"
        )
        found += [Correction(y_up.format(when), flipped(vertices, _Y, point), camera) for point, when in points]
        found += [Correction(left.format(when), flipped(vertices, _X, point), camera) for point, when in points]
    else:
        mirrored = (
            "image and mesh are each other's mirror image, as when left hands are mirrored in one and not in the "
            "other: mirror both or none{}"
        )
        whole = flipped(vertices, _X, None)
        found.append(Correction(mirrored.format(""), whole, camera.mirrored(width), of_some=True))
        for point, when in points[1:]:
            how = mirrored.format(f" (vertices: negate x, {when})")
            found.append(Correction(how, flipped(vertices, _X, point), camera, of_some=True))
        turned = "the hand is upside down: negate x and y, {}"
        found += [Correction(turned.format(when), flipped(vertices, _XY, point), camera) for point, when in points]
        opengl = "the axes are OpenGL's, y up and z backwards: negate y and z, {}"
        found += [Correction(opengl.format(when), flipped(vertices, _YZ, point), camera) for point, when in points[1:]]
    return found


def _roots(vertices: Tensor) -> list[Tensor]:
    """Points (B, 1, 3) that vertices may be relative to: the box's middle, the wrist, the middle finger's base."""
    roots = [(vertices.amin(dim=1, keepdim=True) + vertices.amax(dim=1, keepdim=True)) / 2]
    regressor = _joints_of_mano().to(vertices)
    if vertices.shape[1] == regressor.shape[1]:
        roots += (regressor @ vertices).split(1, dim=1)
    return roots


@lru_cache(maxsize=1)
@computes_constants
def _joints_of_mano() -> Tensor:
    """(2, 778): the wrist and the base of the middle finger, as means of vertices."""
    return HandModel().joint_regressor[[0, POSE_JOINT_NAMES.index("middle_1")]]


def moves(
    vertices: Tensor, camera: PinholeCamera, height: int, width: int, off_mask: Tensor | None
) -> list[Correction]:
    """Other principal points, and the cameras of an image of half and of twice the size.

    Args:
        vertices, camera: as they are.
        height, width: of the image, pixels.
        off_mask: (2,) pixels from the meshes to their masks, or None.
    """
    half = camera.principal.new_tensor([width / 2, height / 2])
    steps = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)]
    named = [(half * half.new_tensor(step), "half the image") for step in steps]
    if off_mask is not None:
        named.append((off_mask, "what separates meshes from masks"))
    found = [
        Correction(
            f"the principal point is off by {reason}: add ({shift[0]:.0f}, {shift[1]:.0f}) pixels to it",
            vertices,
            PinholeCamera(camera.focal, camera.principal + shift),
        )
        for shift, reason in named
    ]
    middle = half.expand_as(camera.principal)
    if bool(((camera.principal - middle).abs() > 0.04 * half.amax()).any()):
        found.append(
            Correction(
                f"the principal point should be the image's middle, ({half[0]:.0f}, {half[1]:.0f})",
                vertices,
                PinholeCamera(camera.focal, middle),
            )
        )
    found += [
        Correction(
            f"the camera is that of an image {size}: multiply its focal length and principal point by {factor:g}",
            vertices,
            PinholeCamera(camera.focal * factor, camera.principal * factor),
        )
        for factor, size in ((0.5, "twice as large"), (2.0, "half as large"))
    ]
    return found


def flipped(vertices: Tensor, signs: tuple[float, float, float], about: Tensor | None) -> Tensor:
    """Axes negated about points (B, 1, 3), or about the camera."""
    sign = vertices.new_tensor(signs)
    return vertices * sign if about is None else (vertices - about) * sign + about

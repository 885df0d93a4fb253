"""What images say about a mesh and a camera, and about those that a usual mistake would have made of them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from texalign.camera import PinholeCamera
from texalign.hand import POSE_JOINT_NAMES, HandModel
from texalign.loss import DenseTextureAlignmentLoss, LossInputs
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer, UVObservations
from texalign.surface import HandSurface

# Gross mistakes are seen at this size as well as at the image's own, in a fraction of the time.
SIDE = 96
TOKENS = 256

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


class Evidence(nn.Module):
    """How well images agree with meshes: the loss, by sample, with the bundled prior where it fits the atlas."""

    def __init__(self, surface: HandSurface, image: Tensor, mask: Tensor | None, valid: Tensor | None) -> None:
        super().__init__()
        height, width = image.shape[2:]
        shrink = SIDE / max(height, width)
        self.size = (max(16, round(height * shrink)), max(16, round(width * shrink)))
        self.scale = image.new_tensor([self.size[1] / width, self.size[0] / height])
        renderer = TexturedHandRenderer(surface, self.size)
        try:
            prior: nn.Module = UVTextureEncoder.from_pretrained(surface=surface).to(image.device)
        except (ValueError, FileNotFoundError):  # another atlas
            prior = MeanColour()
        self.loss = DenseTextureAlignmentLoss(renderer, prior, token_count=TOKENS, reduction="none")
        self.image, self.mask = self._resized(image), None if mask is None else self._resized(mask)
        self.valid = None if valid is None else self._resized(valid)
        self.volume_faces = surface.closed_wrist().faces

    def forward(self, vertices: Tensor, camera: PinholeCamera, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (N,) of samples `index` (N,), which of them were skipped, and coverage (N, 1, h, w).

        A mesh that is inside out is drawn in a mirror, image and camera with it: what is seen stays the same.
        """
        camera = camera.cropped(torch.zeros_like(self.scale), self.scale)
        image, mask = self.image[index], None if self.mask is None else self.mask[index]
        right_side_out = ~self.inside_out(vertices)
        valid = None if self.valid is None else self.valid[index]
        inputs = LossInputs(vertices, camera, image, mask, valid).mirrored(~right_side_out)
        generator = torch.Generator(vertices.device).manual_seed(0)
        with torch.no_grad():
            value, details = self.loss(*inputs, generator=generator, return_details=True)
        # A fingertip that shows at the edge agrees with much; a hand is believed as far as it lies in the image.
        pixels = inputs.camera.project(inputs.vertices)
        within = ((pixels >= 0) & (pixels <= pixels.new_tensor(self.size[::-1]))).all(dim=2).float().mean(dim=1)
        value = torch.where(value < 0, value * within, value)
        coverage = details.coverage
        return value, details.skipped, torch.where(right_side_out[:, None, None, None], coverage, coverage.flip(-1))

    def inside_out(self, vertices: Tensor) -> Tensor:
        """(B,) bool: the mesh, its openings closed, encloses a negative volume."""
        centred = vertices - vertices.mean(dim=1, keepdim=True)
        first, second, third = centred[:, self.volume_faces].unbind(dim=2)
        return (first * torch.linalg.cross(second, third)).sum(dim=(1, 2)) < 0

    def _resized(self, values: Tensor) -> Tensor:
        return functional.interpolate(values, size=self.size, mode="bilinear", antialias=True)


class MeanColour(nn.Module):
    """Stands in for a texture prior on an atlas that has none: the mean colour of what is seen."""

    def forward(self, observations: UVObservations) -> Tensor:
        """(B, 3, 8, 8)."""
        return observations.mean_colour()[:, :, None, None].expand(-1, -1, 8, 8)


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

"""The part of an image-only network that finds landmarks, and where in a photograph it looks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# Pixels of the crops that landmarks are found in.
CROP = 224
# Landmarks whose box tells where the hand is, all but the finger ends; from the wrist to the knuckles is up.
PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
# A crop's side over the box's, and how far it is moved towards the fingers: as MediaPipe follows a hand.
ENLARGED, RAISED = 2.0, 0.1


class Backbone(nn.Module):
    """Landmarks of right hands from crops of `CROP` pixels.

    Args:
        stem: crops (B, 3, 224, 224) in [0, 1] → maps, never trained.
        tail: maps → landmarks (B, 63), x and y in pixels of the crop, and world landmarks (B, 63), metres.
    """

    def __init__(self, stem: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.stem, self.tail = stem.requires_grad_(False), tail


class Crop(NamedTuple):
    """Where B crops lie in their photographs.

    Attributes:
        centre: (B, 2) pixels of the photographs.
        side: (B,) pixels of the photographs.
        turn: (B,) radians, of the photograph's axes into the crop's, clockwise on the screen.
    """

    centre: Tensor
    side: Tensor
    turn: Tensor

    def axes(self) -> Tensor:
        """(B, 2, 2): the crop's right and down in the photograph, as columns."""
        cosine, sine = self.turn.cos(), self.turn.sin()
        return torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)

    def select(self, rows: Tensor) -> Crop:
        """Some of them."""
        return Crop(*(value[rows] for value in self))

    def shares(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) in photographs, pixels, as shares of the crops' sides: 0 to 1 inside."""
        return ((points - self.centre[:, None]) @ self.axes()) / self.side[:, None, None] + 0.5

    def image_points(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) in crops, pixels, as pixels of the photographs."""
        return self.centre[:, None] + ((points / CROP - 0.5) * self.side[:, None, None]) @ self.axes().transpose(1, 2)

    def image_directions(self, points: Tensor) -> Tensor:
        """Points in space (B, N, 3) turned from the crop's axes to the photograph's."""
        return torch.cat([points[..., :2] @ self.axes().transpose(1, 2), points[..., 2:]], dim=-1)

    def cut(self, image: Tensor, pixels: int = CROP) -> Tensor:
        """(B, 3, pixels, pixels) of photographs (B, 3, S, S), black beyond them."""
        size = image.shape[-1]
        affine = torch.cat(
            [self.axes() * (self.side / size)[:, None, None], (2 * self.centre / size - 1)[..., None]], dim=2
        )
        grid = functional.affine_grid(affine, [len(image), 3, pixels, pixels], align_corners=False)
        return functional.grid_sample(image, grid, align_corners=False)


def whole(image: Tensor) -> Crop:
    """All of square photographs (B, 3, S, S)."""
    size, count = float(image.shape[-1]), len(image)
    return Crop(image.new_full((count, 2), size / 2), image.new_full((count,), size), image.new_zeros(count))


def around(landmarks: Tensor) -> Crop:
    """Upright crops around hands whose landmarks (B, 21, 2) are known, as MediaPipe follows them."""
    knuckles = (landmarks[:, 5] + landmarks[:, 13]) / 4 + landmarks[:, 9] / 2
    up = knuckles - landmarks[:, 0]
    turn = torch.atan2(up[:, 0], -up[:, 1])
    upright = Crop(landmarks.new_zeros(len(landmarks), 2), landmarks.new_ones(len(landmarks)), turn).axes()
    there = landmarks[:, PALM] @ upright
    low, high = there.amin(dim=1), there.amax(dim=1)
    box = (high - low).amax(dim=1)
    middle = (low + high) / 2
    middle = torch.stack([middle[:, 0], middle[:, 1] - RAISED * (high - low)[:, 1]], dim=1)
    return Crop((upright @ middle[..., None])[..., 0], ENLARGED * box, turn)


def landmarks_of(outputs: tuple[Tensor, Tensor], crop: Crop) -> tuple[Tensor, Tensor]:
    """What a tail has found in crops: (B, 21, 2) pixels of the photographs, and (B, 21, 3) metres in their axes."""
    seen, world = (each.unflatten(1, (21, 3)) for each in outputs)
    return crop.image_points(seen[..., :2]), crop.image_directions(world)


@torch.no_grad()
def crops_of(backbone: Backbone, image: Tensor, looks: int = 1) -> Crop:
    """Upright crops of photographs (B, 3, S, S), from so many looks at them."""
    crop = whole(image)
    for _ in range(looks):
        found, _ = landmarks_of(backbone.tail(backbone.stem(crop.cut(image))), crop)
        crop = around(found)
    return crop

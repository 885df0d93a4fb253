"""A hand before a table, drawn from the bundled hand, and a mesh that misses it: what the pictures of the loss show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import texalign as ta
from picture_light import lit, skin
from texalign.hand import (
    FINGERS_UP,
    HandModel,
    HandParameters,
    parameters_of_pose,
    pose_hand,
    rotation_matrices,
    sample_pose,
)
from texalign.viz import overlay

SIZE = 256
FOCAL, DEPTH = 620.0, 0.64


@dataclass(frozen=True, eq=False)
class PictureScene:
    """An image and all that is known of it; B = 1.

    Attributes:
        image: (1, 3, 256, 256).
        mask: (1, 1, 256, 256): the hand without the pen that lies before it; the forearm is not hand.
        camera: of the image.
        true: (1, 778, 3) metres, the hand that was drawn.
        start: (1, 778, 3) metres, the same hand misplaced.
    """

    image: Tensor
    mask: Tensor
    camera: ta.PinholeCamera
    true: Tensor
    start: Tensor


def picture_scene() -> PictureScene:
    """The scene, always the same: an open hand with its forearm, and a pen before it."""
    model, surface = HandModel(), ta.HandSurface.mano()
    pose = sample_pose(1, torch.Generator().manual_seed(3), kind="spread")
    upright = rotation_matrices(torch.tensor([[0.1, -0.35, 0.12]])) @ torch.tensor(FINGERS_UP)
    hand = parameters_of_pose(model, pose, torch.tensor([[-0.012, 0.066, DEPTH]]))
    angles = hand.angles.clone()
    true = _posed(model, hand, angles, upright)
    # A network that is roughly right: fingers bent a little too far, the hand turned and moved by a few pixels.
    angles[:, :12, 0] += 0.06
    turned = rotation_matrices(torch.tensor([[0.0, 0.0, 0.02]])) @ upright
    start = _posed(model, hand, angles, turned) + torch.tensor([0.004, 0.0, 0.0])
    camera = ta.PinholeCamera(torch.full((1, 2), FOCAL), torch.full((1, 2), SIZE / 2))
    image, mask = photograph(surface, true, camera)
    return PictureScene(image, mask, camera, true, start)


def _posed(model: HandModel, hand: HandParameters, angles: Tensor, rotation: Tensor) -> Tensor:
    flat = HandParameters(angles, torch.zeros(1, 3), torch.zeros(1, 3), hand.shape)
    return pose_hand(model, flat).vertices @ rotation.transpose(1, 2) + hand.translation[:, None]


def photograph(surface: ta.HandSurface, vertices: Tensor, camera: ta.PinholeCamera) -> tuple[Tensor, Tensor]:
    """Image and mask, drawn twice as large and averaged down."""
    large = 2 * SIZE
    camera = camera.cropped(torch.zeros(2), torch.tensor(2.0))
    texture = lit(surface, vertices, skin(512))
    hand = ta.TexturedHandRenderer(surface.closed_wrist(), large)(vertices, camera, texture)
    row, column = torch.meshgrid(*[(torch.arange(large) + 0.5) / 2] * 2, indexing="ij")
    table = torch.tensor([0.36, 0.47, 0.50])[:, None, None] * (1.15 - 0.45 * row / SIZE)
    grain = 0.03 * torch.sin(row / 3.1 + 2 * torch.sin(column / 37)) * torch.sin(row / 1.7 + column / 51)
    image = table + grain
    book = (column < 92 + 0.18 * row) & (row < 120)
    image = torch.where(book, torch.tensor([0.80, 0.79, 0.74])[:, None, None] - 0.05 * (row > 112), image)
    colour = hand.image[0].sum(dim=(1, 2)) / hand.coverage.sum()
    image = _with_forearm(image, surface, vertices, camera, colour, row, column)
    image = overlay(image[None], hand)
    pen = ((column - 60) * 0.42 + (row - 150) * 0.9075).abs() < 4
    pen = pen & (column > 52) & (column < 160)
    image = torch.where(pen, torch.tensor([0.10, 0.13, 0.35])[:, None, None], image)
    mask = hand.coverage * (~pen)
    noise = 0.008 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return (avg_pool2d(image, 2) + noise).clamp(0, 1), avg_pool2d(mask, 2)


def _with_forearm(
    image: Tensor,
    surface: ta.HandSurface,
    vertices: Tensor,
    camera: ta.PinholeCamera,
    colour: Tensor,
    row: Tensor,
    column: Tensor,
) -> Tensor:
    """A cone of skin from the wrist's opening away from the hand, darker towards its sides."""
    points = camera.project(vertices)[0] / 2
    loop = points[max((list(loop) for loop in surface.boundary_loops), key=len)]
    middle = loop.mean(dim=0)
    along = middle - points.mean(dim=0)
    along = along / along.norm()
    across = torch.stack([-along[1], along[0]])
    half_width = ((loop - middle) @ across).abs().max()
    x, y = column - middle[0], row - middle[1]
    distance, aside = x * along[0] + y * along[1], x * across[0] + y * across[1]
    share = aside / (0.97 * half_width + 0.10 * distance.clamp(min=0))
    light = 0.98 - 0.28 * (share + 0.25) ** 2
    inside = (distance > -4) & (share.abs() < 1)
    return torch.where(inside, colour[:, None, None] * light, image)

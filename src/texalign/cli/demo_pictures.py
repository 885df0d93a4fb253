"""The demo's pictures: outlines over images, a contact sheet, an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from texalign.loss import LossDetails
from texalign.photographs import Photographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import RESIDUAL_GAIN, contact_sheet, mark, outline, overlay, residual_heat, texture_picture

# Pixels of a picture's side; outlines are drawn twice as large and averaged down.
CELL = 160
# Orange, blue and green: the start and the two refinements.
COLOURS = ((1.0, 0.55, 0.0), (0.1, 0.85, 1.0), (0.1, 1.0, 0.2))


class Pictures:
    """Draws meshes over the images they are fitted to.

    Args:
        hands: B images and their cameras.
    """

    def __init__(self, hands: Photographs) -> None:
        size, large = hands.image.shape[-1], 2 * CELL
        self.image = interpolate(hands.image, size=large, mode="bicubic", antialias=True).clamp(0, 1)
        self.camera = hands.camera.cropped(torch.zeros(2), torch.tensor(large / size))
        self.keypoints = hands.keypoints * (large / size)
        self.surface = HandSurface.mano()
        self.renderer = TexturedHandRenderer(self.surface, large)

    def outlined(self, vertices: Tensor, colour: Sequence[float]) -> Tensor:
        """(B, 3, CELL, CELL): the contours of meshes (B, 778, 3)."""
        coverage = self.renderer(vertices, self.camera, vertices.new_ones(1, 3, 1, 1)).coverage
        return avg_pool2d(outline(self.image, coverage, colour, width=3), 2)

    def marked(self) -> Tensor:
        """(B, 3, CELL, CELL): the images with their keypoints as dots."""
        return avg_pool2d(mark(self.image, self.keypoints, radius=3.5), 2)

    def texture(self, details: LossDetails) -> Tensor:
        """(B, 3, CELL, CELL): the prior's textures, grey between the atlas's charts."""
        return texture_picture(details.texture, self.surface, CELL)

    def sheet(self, meshes: Mapping[str, Tensor], details: LossDetails, row_labels: Sequence[str]) -> Tensor:
        """One row a hand, (3, height, width).

        Args:
            meshes: names of the columns, and vertices (B, 778, 3).
            details: of the last of the meshes.
            row_labels: B of them.
        """
        rendered = interpolate(
            overlay(0.3 * self._like(details.coverage), details.rendering), size=CELL, mode="bilinear"
        )
        heat = residual_heat(details).clamp(0, 1)
        columns = {"image, keypoints": self.marked()}
        for (name, vertices), colour in zip(meshes.items(), COLOURS):
            columns[name] = self.outlined(vertices, colour)
        columns |= {
            "texture": self.texture(details),
            "textured hand": rendered,
            f"difference, {RESIDUAL_GAIN:g} times": interpolate(heat, size=CELL, mode="bilinear"),
        }
        rows = [list(row) for row in zip(*columns.values())]
        return contact_sheet(rows, row_labels, tuple(columns))

    def animation(self, tracks: Mapping[str, Sequence[Tensor]], every: int) -> tuple[Tensor, list[int]]:
        """Frames (N, 3, height, width) and how long each is shown, milliseconds: one row a track, one column a hand.

        Args:
            tracks: names of the rows, and the meshes (B, 778, 3) of every step, the start first.
            every: how many steps lie between two frames.
        """
        count = len(next(iter(tracks.values())))
        steps = [*range(0, count - 1, every), count - 1]
        frames = []
        for step in steps:
            rows = [
                list(self.outlined(track[step], colour))
                for track, colour in zip(tracks.values(), COLOURS[-len(tracks) :])
            ]
            frames.append(contact_sheet(rows, tuple(tracks)))
        return torch.stack(frames), [800, *[100] * (len(steps) - 2), 2000]

    def _like(self, coverage: Tensor) -> Tensor:
        """The images at the size of a coverage."""
        return interpolate(self.image, size=coverage.shape[2:], mode="area")

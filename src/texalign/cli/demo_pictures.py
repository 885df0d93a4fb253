"""The demo's pictures: outlines over images, a contact sheet, an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from texalign.cli.demo_fits import ALONE, START, TOGETHER
from texalign.photographs import Photographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, mark, outline, overlay

# Pixels of a picture's side, on the sheet and in the animation; outlines are drawn twice as large and averaged down.
SHEET_CELL, MOVING_CELL = 256, 160
COLOURS = {START: (1.0, 0.55, 0.0), ALONE: (0.1, 0.85, 1.0), TOGETHER: (0.1, 1.0, 0.2)}
TRUTH = (1.0, 1.0, 1.0)


class Pictures:
    """Draws meshes over the images they are fitted to.

    Args:
        hands: B images, their cameras, and masks where they are known.
        cell: pixels of a picture's side.
    """

    def __init__(self, hands: Photographs, cell: int) -> None:
        size = hands.image.shape[-1]
        self.large, self.mask = 2 * cell, hands.mask
        self.image = interpolate(hands.image, size=self.large, mode="bicubic", antialias=True).clamp(0, 1)
        self.camera = hands.camera.cropped(torch.zeros(2), torch.tensor(cell / size))
        self.keypoints = hands.keypoints * (self.large / size)
        self.renderer = TexturedHandRenderer(HandSurface.mano(), cell)

    def outlined(self, picture: Tensor, inside: Tensor, colour: Sequence[float]) -> Tensor:
        """(B, 3, 2 cell, 2 cell): a contour over a picture of that size; inside is a mask, or vertices (B, 778, 3)."""
        if inside.dim() == 3:
            inside = self.renderer(inside, self.camera, inside.new_ones(1, 3, 1, 1)).coverage
        return outline(picture, interpolate(inside, size=self.large, mode="bilinear"), colour, width=3)

    def sheet(self, meshes: Mapping[str, Tensor], texture: Tensor, labels: Sequence[str], truth: str) -> Tensor:
        """One row a hand, (3, height, width).

        Args:
            meshes: vertices (B, 778, 3) by the names `START`, `ALONE` and `TOGETHER`.
            texture: (B, 3, T, T) for the last of them.
            labels: of the rows.
            truth: what the mask is.
        """
        before, legend = self.image, "start orange"
        if self.mask is not None:
            before, legend = self.outlined(before, self.mask, TRUTH), f"{legend}, {truth} white"
        before = self.outlined(before, meshes[START], COLOURS[START])
        columns = {"image, keypoints": mark(self.image, self.keypoints, radius=4)}
        for name, colour in ((ALONE, "blue"), (TOGETHER, "green")):
            columns[f"{name} ({colour})\n{legend}"] = self.outlined(before, meshes[name], COLOURS[name])
        columns = {name: avg_pool2d(column, 2) for name, column in columns.items()}
        rendering = self.renderer(meshes[TOGETHER], self.camera, texture)
        columns["textured hand"] = overlay(0.3 * avg_pool2d(self.image, 2), rendering)
        return contact_sheet([list(row) for row in zip(*columns.values())], labels, tuple(columns))

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
            rows = [self.outlined(self.image, track[step], COLOURS[name]) for name, track in tracks.items()]
            frames.append(contact_sheet([list(avg_pool2d(row, 2)) for row in rows], tuple(tracks)))
        return torch.stack(frames), [800, *[150] * (len(steps) - 2), 2000]

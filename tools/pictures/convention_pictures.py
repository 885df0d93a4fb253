"""The pictures of docs/conventions.md: pixels, axes, the atlas, left hands. Needs matplotlib and pillow.

python tools/pictures/convention_pictures.py                   # docs/images/conventions_*.png
python tools/pictures/convention_pictures.py --output FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import texalign as ta
from picture_files import bare, figure, write_figures
from picture_light import DEEP, lit, skin
from texalign.hand import FINGERS_UP, HandModel, sample_pose
from texalign.rasterize import select_backend
from texalign.viz import overlay, to_uint8, uv_checker

SIZE = 320
RED, GREEN, BLUE = "#c0392b", "#1e8449", "#1f5fa8"
WHITE = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}


def hand(around: float = 0.0) -> Tensor:
    """(1, 778, 3) metres: an open right hand, its palm towards the camera, turned about its fingers by degrees."""
    model = HandModel()
    pose = sample_pose(1, torch.Generator().manual_seed(3), kind="open")
    pose[:, 0] = 0
    angle = torch.deg2rad(torch.tensor(around))
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    vertices = model(pose).vertices @ torch.tensor(FINGERS_UP).T @ turn.T
    return vertices - (vertices.amin(dim=1) + vertices.amax(dim=1)) / 2 + torch.tensor([0.0, 0.0, 0.6])


def camera(size: int = SIZE) -> ta.PinholeCamera:
    """One that sees the hand fill an image of `size` pixels."""
    return ta.PinholeCamera(torch.full((1, 2), 2.75 * size), torch.full((1, 2), size / 2))


def drawn_on_white(surface: ta.HandSurface, vertices: Tensor, view: ta.PinholeCamera, texture: Tensor) -> np.ndarray:
    """(S, S, 3) uint8."""
    renderer = ta.TexturedHandRenderer(surface.closed_wrist(), SIZE)
    return to_uint8(overlay(torch.ones(1, 3, 1, 1), renderer(vertices, view, texture)))[0]


def pixels() -> Any:
    """Where a pixel's centre lies: the renderer lights the pixel that a projected point falls into."""
    width, height, row, column = 7, 5, 2, 4
    point = torch.tensor([column + 0.5, row + 0.5])
    # A triangle of a tenth of a pixel around that point, drawn by the rasterizer itself.
    corners = point + 0.05 * torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, 0.0]])
    homogeneous = torch.cat([corners, torch.ones(3, 1)], dim=1)[None]
    backend = select_backend("torch", torch.device("cpu"))
    found = backend.rasterize(homogeneous, torch.tensor([[0, 1, 2]]), height, width, near=0.1)
    lit = (found.face_index[0] >= 0).numpy()
    figure_drawn, axes = figure(1, 2, 10.0, 3.7)
    for cell, offset, title in (
        (axes[0, 0], 0.0, "texalign: pixel (row 2, column 4) has its centre at (4.5, 2.5)"),
        (axes[0, 1], -0.5, "OpenCV, COCO, FreiHAND, HaMeR's crops: the same centre is (4, 2)"),
    ):
        extent = (offset, width + offset, height + offset, offset)
        cell.imshow(np.where(lit, 0.72, 1.0), cmap="gray", vmin=0, vmax=1, extent=extent)
        for line in range(width + 1):
            cell.axvline(line + offset, color="0.75", linewidth=0.8)
        for line in range(height + 1):
            cell.axhline(line + offset, color="0.75", linewidth=0.8)
        place = (column + 0.5 + offset, row + 0.5 + offset)
        cell.plot(*place, "o", color=RED, markersize=6)
        cell.annotate(f"({place[0]:g}, {place[1]:g})", place, textcoords="offset points", xytext=(8, -14), color=RED)
        cell.plot(offset, offset, "s", color=BLUE, markersize=6, clip_on=False)
        corner = f"corner ({offset:g}, {offset:g})"
        cell.annotate(corner, (offset, offset), textcoords="offset points", xytext=(6, -14), color=BLUE)
        cell.set_xticks(range(width + (offset == 0)))
        cell.set_yticks(range(height + (offset == 0)))
        cell.set_xlabel("x, pixels")
        cell.set_ylabel("y, pixels, down")
        cell.set_title(title, fontsize=9)
        cell.set_xlim(extent[0], extent[1])
        cell.set_ylim(extent[2], extent[3])
    return figure_drawn


def axes_of_the_camera() -> Any:
    """The camera's axes, drawn into the image by the camera itself."""
    surface, vertices, view = ta.HandSurface.mano(), hand(), camera()
    texture = lit(surface, vertices, skin())
    figure_drawn, axes = figure(1, 2, 8.0, 3.9)
    cell = axes[0, 0]
    cell.imshow(drawn_on_white(surface, vertices, view, texture), extent=(0, SIZE, SIZE, 0))
    origin = torch.tensor([0.056, -0.068, 0.6])
    ends = torch.stack([origin, *(origin + 0.03 * torch.eye(3)[:2])])[None]
    start, *tips = view.project(ends)[0].tolist()
    for tip, name, colour, shift in zip(tips, ("x right", "y down"), (RED, GREEN), ((-14, -16), (6, -4))):
        cell.annotate("", tip, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
        cell.annotate(name, tip, textcoords="offset points", xytext=shift, color=colour, fontsize=10)
    cell.plot(*start, "o", color=BLUE, markersize=8, markerfacecolor="white")
    cell.plot(*start, "x", color=BLUE, markersize=5)
    cell.annotate("z forward", start, textcoords="offset points", xytext=(-12, 10), color=BLUE, fontsize=10)
    bare(cell, "a right hand, its palm towards the camera")
    cell = axes[0, 1]
    side = vertices[0].numpy()
    cell.scatter(side[:, 2], side[:, 1], s=1.5, color="#c98b6f")
    cell.plot(0, 0, marker="s", markersize=11, color="0.25")
    cell.annotate("camera", (0, 0), textcoords="offset points", xytext=(-8, 14), color="0.25")
    for corner in (-0.11, 0.11):
        cell.plot([0, 0.6], [0, corner], color="0.8", linewidth=0.8)
    cell.annotate("", (0.2, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 2})
    cell.annotate("z", (0.2, 0), textcoords="offset points", xytext=(4, -3), color=BLUE)
    cell.annotate("", (0, 0.09), (0, 0), arrowprops={"arrowstyle": "-|>", "color": GREEN, "lw": 2})
    cell.annotate("y", (0, 0.09), textcoords="offset points", xytext=(5, -6), color=GREEN)
    cell.set_xlim(-0.06, 0.72)
    cell.set_ylim(0.15, -0.15)
    cell.set_xlabel("z, metres")
    cell.set_ylabel("y, metres")
    cell.set_title("the same from the side", fontsize=9)
    return figure_drawn


def atlas() -> Any:
    """The atlas, whose v runs down; the checker's cells show where a point of the hand lies in the atlas."""
    surface, view = ta.HandSurface.mano(), camera()
    checker = uv_checker(512, cells=16)
    charts = surface.texel_map(512).face_index >= 0
    figure_drawn, axes = figure(1, 3, 10.6, 3.9)
    faded = torch.where(charts, checker, 0.35 * checker + 0.65)
    cell = axes[0, 0]
    cell.imshow(to_uint8(faded)[0], extent=(0, 1, 1, 0))
    for end, name, colour, shift in (((0.35, 0), "u", RED, (6, -14)), ((0, 0.35), "v", GREEN, (4, -10))):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2.5}
        cell.annotate("", end, (0, 0), arrowprops=arrow, annotation_clip=False)
        cell.annotate(name, end, textcoords="offset points", xytext=shift, color=colour, fontsize=13, bbox=WHITE)
    cell.set_xticks([0, 0.5, 1])
    cell.set_yticks([0, 0.5, 1])
    cell.set_title("the atlas: row 0 of a texture is v = 0", fontsize=9)
    for cell, around, title in ((axes[0, 1], 0.0, "palm"), (axes[0, 2], 180.0, "back")):
        cell.imshow(drawn_on_white(surface, hand(around), view, checker), extent=(0, SIZE, SIZE, 0))
        bare(cell, title)
    return figure_drawn


def left_hands() -> Any:
    """A left hand is the mirror image of a right one and has the same atlas."""
    surface, view = ta.HandSurface.mano(), camera()
    view = ta.PinholeCamera(view.focal, view.principal + torch.tensor([[-24.0, 0.0]]))
    vertices = hand(20.0)
    lit_hand = lit(surface, vertices, skin(seed=DEEP))
    mirrored = vertices * torch.tensor([-1.0, 1.0, 1.0])
    figure_drawn, axes = figure(1, 4, 11.2, 3.1)
    worlds = (
        (0, surface, vertices, view, "right hand"),
        (2, surface.mirrored(), mirrored, view.mirrored(SIZE), "left hand: mirrored"),
    )
    for number, its_surface, its_vertices, its_view, title in worlds:
        image = drawn_on_white(its_surface, its_vertices, its_view, lit_hand)
        principal = its_view.principal[0].tolist()
        cell = axes[0, number]
        cell.imshow(image, extent=(0, SIZE, SIZE, 0))
        cell.plot(*principal, "+", color=BLUE, markersize=12, markeredgewidth=2)
        cell.annotate(f"cx = {principal[0]:g}", principal, textcoords="offset points", xytext=(-20, -20), color=BLUE)
        bare(cell, title)
        renderer = ta.TexturedHandRenderer(its_surface, SIZE)
        pixels_of_image = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        texture, seen = renderer.unwrap(its_vertices, its_view, pixels_of_image, texture_size=SIZE)
        charts = (surface.texel_map(SIZE).face_index >= 0).float()
        shown = texture + (1 - seen) * (1 - 0.12 * charts)
        axes[0, number + 1].imshow(to_uint8(shown)[0], extent=(0, 1, 1, 0))
        bare(axes[0, number + 1], "unwrapped: the same atlas" if number else "unwrapped into the atlas")
    return figure_drawn


FIGURES: dict[str, Callable[[], Any]] = {
    "conventions_pixels": pixels,
    "conventions_axes": axes_of_the_camera,
    "conventions_atlas": atlas,
    "conventions_left": left_hands,
}


if __name__ == "__main__":
    write_figures(__doc__, FIGURES)

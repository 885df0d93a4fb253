"""The pictures of docs/how-the-loss-works.md. Needs matplotlib and pillow.

python tools/pictures/loss_pictures.py                   # docs/images/loss_*.png
python tools/pictures/loss_pictures.py --output FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import texalign as ta
from picture_files import bare, figure, write_figures
from picture_scene import SIZE, PictureScene, picture_scene
from texalign.loss import EVIDENCE_LIMIT, LossDetails, beyond_wrist, dilation_radius
from texalign.loss.background import background_cost
from texalign.loss.likelihoods import hand_cost
from texalign.viz import to_uint8

START = "#ff8c00"


@dataclass(frozen=True, eq=False)
class Seen:
    """What the loss sees of the misplaced mesh.

    Attributes:
        details: as the loss returns them.
        outline: (778, 3) the part of the loss's gradient at the vertices that comes through coverage.
        interior: (778, 3) the part that comes through the texture under each pixel.
    """

    details: LossDetails
    outline: Tensor
    interior: Tensor


class Pictures:
    """All figures, from one scene."""

    def __init__(self) -> None:
        self.scene: PictureScene = picture_scene()
        # No bound on the gradient: its two parts are drawn as they are.
        self.loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE, max_grad=1e12)
        self.renderer = self.loss.renderer
        self.surface = self.renderer.surface
        self.plain, self.masked = self.see(None), self.see(self.scene.mask)

    def see(self, mask: Tensor | None) -> Seen:
        """The loss at the misplaced mesh, and its gradient in two parts."""
        scene = self.scene
        vertices = scene.start.clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        value, details = self.loss(vertices, scene.camera, scene.image, mask, generator=generator, return_details=True)
        (whole,) = torch.autograd.grad(value, vertices, retain_graph=True)
        evidence, coverage = details.evidence, details.rendering.coverage
        size = torch.maximum((evidence < 0).sum(), coverage.detach().sum())
        (outline,) = torch.autograd.grad((coverage * evidence).sum() / size, vertices)
        return Seen(details, outline[0], (whole - outline)[0])

    def before_wrist(self) -> Tensor:
        """(1, 1, H, W): 0 beyond the wrist."""
        screen = self.scene.camera.project(self.scene.start)
        return 1 - beyond_wrist(screen[:, self.loss.wrist], screen.mean(dim=1), SIZE, SIZE)

    def without_wrist(self) -> Tensor:
        """(1, 1, H, W): the evidence of a loss that counts what lies beyond the wrist too."""
        wrist = self.loss.wrist
        self.loss.wrist = wrist[:0]
        details = self.see(None).details
        self.loss.wrist = wrist
        return details.evidence

    def costs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is counted as background, and the costs of a background's and a hand's pixel: (H, W) each."""
        image, coverage, region = self.scene.image, self.plain.details.coverage, self.before_wrist()
        outside = (1 - dilate(coverage, 3 * dilation_radius(image))) * region
        cost = background_cost(image, outside)
        hand = self.plain.details.evidence + cost  # where neither cut off nor left out
        return outside[0, 0], cost[0, 0], hand[0, 0]


def dilate(image: Tensor, radius: int) -> Tensor:
    """Maximum over a (2 radius + 1)² window."""
    return torch.nn.functional.max_pool2d(image, 2 * radius + 1, stride=1, padding=radius)


def show(axes: Any, image: Tensor, title: str) -> None:
    """An image (1, 3, H, W), enlarged without smoothing."""
    axes.imshow(to_uint8(image[0]), interpolation="nearest", extent=(0, SIZE, SIZE, 0))
    bare(axes, title)


def contour(axes: Any, coverage: Tensor, colour: str = START) -> None:
    """The outline of a mesh."""
    place = np.arange(SIZE) + 0.5
    axes.contour(place, place, coverage[0, 0].numpy(), levels=[0.5], colors=[colour], linewidths=1.1)


def diverging(axes: Any, evidence: Tensor, title: str) -> Any:
    """Evidence (1, 1, H, W): blue speaks for the hand, red for the background."""
    bare(axes, title)
    limit = EVIDENCE_LIMIT
    return axes.imshow(
        evidence[0, 0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(0, SIZE, SIZE, 0),
    )  # fmt: skip


def arrows(axes: Any, scene: PictureScene, gradient: Tensor, colour: str, longest: float = 22.0) -> None:
    """Where a step against the gradient (778, 3) moves the vertices in the image; the longest is `longest` pixels."""
    start = scene.camera.project(scene.start)[0]
    step = 1e-4 * gradient / gradient.norm(dim=1).max()
    move = scene.camera.project(scene.start - step[None])[0] - start
    length = move.norm(dim=1)
    shown = length > 0.04 * length.max()
    move = move * longest / length.max()
    axes.quiver(
        *start[shown].T.numpy(), *move[shown].T.numpy(), color=colour, angles="xy", scale_units="xy", scale=1,
        width=0.005, headwidth=3.6, headlength=4.2, headaxislength=3.8,
    )  # fmt: skip


def overview(pictures: Pictures) -> Any:
    """From the image to the evidence, eight panels."""
    scene, details, surface = pictures.scene, pictures.plain.details, pictures.surface
    drawn, axes = figure(2, 4, 10.4, 5.0)
    cells = axes.flatten()
    show(cells[0], scene.image, "image, outline of the mesh")
    contour(cells[0], details.coverage)
    generator = torch.Generator().manual_seed(0)
    observations = pictures.renderer.observe(
        scene.start, scene.camera, scene.image, count=pictures.loss.token_count, generator=generator
    )
    charts = surface.texel_map(SIZE).face_index >= 0
    cells[1].imshow(np.where(charts, 0.9, 1.0), cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    valid = observations.valid[0]
    cells[1].scatter(*observations.uv[0, valid].T.numpy(), c=observations.rgb[0, valid].numpy(), s=5)
    bare(cells[1], "1  observations in the atlas")
    texture = torch.nn.functional.interpolate(details.texture, size=SIZE, mode="bilinear")
    show(cells[2], torch.where(charts, texture, torch.ones(())), "2  texture, completed")
    show(cells[3], details.rendering.image + 1 - details.coverage, "3  textured hand")
    known = (dilate(details.coverage, dilation_radius(scene.image)) > 0.5).float()
    show(cells[4], details.fitted * known + 1 - known, "4  fitted colours")
    heat = cells[5].imshow(
        (details.residual.mean(dim=1) * known[:, 0])[0].numpy(), cmap="inferno", vmin=0, vmax=0.5,
        extent=(0, SIZE, SIZE, 0),
    )  # fmt: skip
    bare(cells[5], "5  residual")
    drawn.colorbar(heat, ax=cells[5], fraction=0.046, pad=0.02)
    _, background, _ = pictures.costs()
    cost = cells[6].imshow(background.numpy(), cmap="viridis", extent=(0, SIZE, SIZE, 0))
    bare(cells[6], "6  cost as background")
    drawn.colorbar(cost, ax=cells[6], fraction=0.046, pad=0.02)
    evidence = diverging(cells[7], details.evidence, "7  evidence")
    contour(cells[7], details.coverage, "black")
    drawn.colorbar(evidence, ax=cells[7], fraction=0.046, pad=0.02)
    return drawn


def background(pictures: Pictures) -> Any:
    """Which pixels teach the background's colours, and what each pixel then costs."""
    scene = pictures.scene
    outside, cost, _ = pictures.costs()
    drawn, axes = figure(1, 3, 9.0, 3.2)
    counted = scene.image * (0.25 + 0.75 * outside) + 0.75 * (1 - outside) * 0.85
    show(axes[0, 0], counted, "counted as background (not greyed)")
    contour(axes[0, 0], pictures.plain.details.coverage)
    heat = axes[0, 1].imshow(cost.numpy(), cmap="viridis", extent=(0, SIZE, SIZE, 0))
    bare(axes[0, 1], "−log p(colour | background)")
    drawn.colorbar(heat, ax=axes[0, 1], fraction=0.046, pad=0.02)
    residual_cost(axes[0, 2])
    return drawn


def residual_cost(axes: Any) -> None:
    """What a residual costs under the hand's distribution, at three scales."""
    residual = torch.linspace(0, 0.6, 200)
    for scale in (0.04, 0.08, 0.16):
        cost = hand_cost(residual[None, None, None].expand(1, 3, 1, -1), torch.full((1, 1, 1, 1), scale))
        axes.plot(residual.numpy(), cost.flatten().numpy(), label=f"scale {scale}")
    axes.axhline(-float(np.log(0.1)), color="0.5", linestyle=":", linewidth=1)
    axes.text(0.6, -float(np.log(0.1)) + 0.12, "−ln 0.1: outlier", ha="right", color="0.35", fontsize=8)
    axes.set_ylim(-8, 3.4)
    axes.set_xlabel("residual, the same in all channels")
    axes.set_title("−log p(residual | hand)", fontsize=9, pad=4)
    axes.legend(frameon=False, fontsize=8)


def outline(pictures: Pictures) -> Any:
    """The gradient at the silhouette: where the evidence is, and where the vertices are pulled."""
    return gradient_figure(
        pictures,
        pictures.plain.outline,
        lambda axes: diverging(axes, pictures.plain.details.evidence, "evidence, and a step against the gradient"),
        "the outline's gradient on the image",
    )


def interior(pictures: Pictures) -> Any:
    """The gradient inside: residuals, and where the texture is pulled."""
    details = pictures.plain.details
    inside = (details.coverage > 0.5).float() * (details.evidence != 0)

    def base(axes: Any) -> Any:
        bare(axes, "residual, and a step against the gradient")
        return axes.imshow(
            (details.residual.mean(dim=1) * inside[:, 0])[0].numpy(), cmap="gray", vmin=0, vmax=0.4,
            extent=(0, SIZE, SIZE, 0),
        )  # fmt: skip

    return gradient_figure(pictures, pictures.plain.interior, base, "the interior's gradient on the image")


def gradient_figure(pictures: Pictures, gradient: Tensor, base: Callable[[Any], Any], title: str) -> Any:
    """Arrows over what causes them, and over the image."""
    drawn, axes = figure(1, 2, 9.0, 4.5)
    heat = base(axes[0, 0])
    drawn.colorbar(heat, ax=axes[0, 0], fraction=0.046, pad=0.02)
    show(axes[0, 1], 0.6 * pictures.scene.image + 0.4, title)
    for cell, colour in ((axes[0, 0], "#1a9641"), (axes[0, 1], "#006837")):
        contour(cell, pictures.plain.details.coverage)
        arrows(cell, pictures.scene, gradient, colour)
        cell.set_xlim(40, 240)
        cell.set_ylim(215, 0)
    return drawn


def forearm(pictures: Pictures) -> Any:
    """What lies beyond the wrist and is left out."""
    scene, region = pictures.scene, pictures.before_wrist()
    screen = scene.camera.project(scene.start)
    drawn, axes = figure(1, 3, 9.0, 3.1)
    show(axes[0, 0], scene.image * (0.35 + 0.65 * region) + 0.5 * (1 - region), "beyond the wrist: ignored")
    contour(axes[0, 0], pictures.plain.details.coverage)
    axes[0, 0].plot(*screen[0, [*pictures.loss.wrist, pictures.loss.wrist[0]]].T.numpy(), color="cyan", linewidth=1.2)
    for cell, value, title in (
        (axes[0, 1], pictures.without_wrist(), "evidence, were the forearm counted"),
        (axes[0, 2], pictures.plain.details.evidence, "evidence as it is"),
    ):
        heat = diverging(cell, value, title)
        contour(cell, pictures.plain.details.coverage, "black")
    drawn.colorbar(heat, ax=axes[0, 2], fraction=0.046, pad=0.02)
    return drawn


def mask(pictures: Pictures) -> Any:
    """What a mask changes: things of the hand's colour, and things before the hand."""
    scene = pictures.scene
    drawn, axes = figure(1, 4, 11.2, 2.9)
    show(axes[0, 0], scene.image, "image")
    contour(axes[0, 0], pictures.plain.details.coverage)
    show(axes[0, 1], scene.mask.expand(-1, 3, -1, -1), "mask: visible skin of the hand")
    for cell, seen, title in (
        (axes[0, 2], pictures.plain, "evidence without a mask"),
        (axes[0, 3], pictures.masked, "evidence with it"),
    ):
        heat = diverging(cell, seen.details.evidence, title)
        contour(cell, pictures.plain.details.coverage, "black")
    drawn.colorbar(heat, ax=axes[0, 3], fraction=0.046, pad=0.02)
    return drawn


FIGURES: dict[str, Callable[[Pictures], Any]] = {
    "loss_overview": overview,
    "loss_background": background,
    "loss_outline": outline,
    "loss_interior": interior,
    "loss_forearm": forearm,
    "loss_mask": mask,
}


@lru_cache(maxsize=1)
def pictures() -> Pictures:
    """What all figures show."""
    return Pictures()


if __name__ == "__main__":
    write_figures(__doc__, {name: partial(lambda drawn: drawn(pictures()), draw) for name, draw in FIGURES.items()})

"""The photographs that fits across people are made on, and who is on them. Part of `python experiments/fits`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fits.real_refinement import known
from fits.stand_ins import short_of_wrist
from texalign import TexturedHandRenderer, synthetic
from texalign.hand import HandModel, HandParameters, pose_hand
from texalign.photographs import Photographs, fit_photographs, read_photographs

# Frames of the video that are drawn together: neighbours are near duplicates.
FRAMES_A_BLOCK = 10
# A row or column at the border whose brightest channel is darker than this in the mean lies outside the photograph.
DARKEST = 8 / 255
# sld's pseudo masks lie one of its 100 pixels too far right and below. Of 49 shifts, (−1, −1) has the most contrast of
# colours across the masks' outlines in 88 of 90 photographs; for hgr and the video (0, 0) has.
SLD_SHIFT = (-1 / 100, -1 / 100)


@dataclass(frozen=True, eq=False)
class People:
    """B photographs and who is on them.

    Attributes:
        photographs: their keypoints are a detector's.
        mask: (B, 1, S, S), hand skin.
        person: (B,) int64, equal where photographs are no independent draws: one person, or neighbouring frames.
        reference: the bundled hand fitted to the keypoints.
        counted: (B, 1, S, S), 0 where masks are not compared: beyond the reference's wrist, or outside `valid`.
        valid: (B, 1, S, S), 0 outside the photograph, or None.
        left_out: photographs on which the keypoints fit no hand.
    """

    photographs: Photographs
    mask: Tensor
    person: Tensor
    reference: HandParameters
    counted: Tensor
    valid: Tensor | None = None
    left_out: int = 0

    def __len__(self) -> int:
        """B."""
        return len(self.photographs)

    def select(self, rows: Tensor) -> People:
        """Some of them."""
        valid = None if self.valid is None else self.valid[rows]
        reference = self.reference.select(rows)
        photographs, mask, person = self.photographs.select(rows), self.mask[rows], self.person[rows]
        return People(photographs, mask, person, reference, self.counted[rows], valid)

    def luminance(self) -> Tensor:
        """(B,) median over the mask's pixels, sRGB-encoded: how light the skin looks."""
        image = self.photographs.image
        luma = (image * image.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1)
        skin = self.mask[:, 0] > 0.5
        return torch.where(skin, luma, torch.nan).flatten(1).nanmedian(dim=1).values


def read_people(
    folder: Path,
    persons: Iterable[int],
    each: int,
    renderer: TexturedHandRenderer,
    keep: Path,
    padded: bool = False,
    shift: tuple[float, float] = (0.0, 0.0),
) -> People:
    """`each` photographs of every person, drawn once and for all.

    Args:
        folder: in the format of docs/photographs.md, with an array `person`.
        persons: whose photographs.
        each: photographs a person, fewer where there are fewer or the keypoints fit no hand.
        renderer: of the images' size, and with the surface at whose wrist the masks are cut.
        keep: folder for the fits of the reference.
        padded: crops reach beyond their photograph, and are black there.
        shift: moves the masks right and down, shares of the side.
    """
    with np.load(folder / "annotations.npz") as file:
        ids, person = file["ids"], file["person"]
    chosen: list[int] = []
    for who in persons:
        chosen += sorted(np.random.default_rng(who).permutation(ids[person == who])[:each].tolist())
    photographs = read_photographs(folder, chosen, renderer.height)
    people = fitted_people(photographs, renderer, keep, padded, dict(zip(ids.tolist(), person.tolist())))
    return replace(people, mask=moved(people.mask, *shift)) if any(shift) else people


def read_frames(folder: Path, frames: Iterable[int], renderer: TexturedHandRenderer, keep: Path) -> People:
    """Frames of a video of one person; blocks of neighbours stand in the people's place."""
    photographs = read_photographs(folder, tuple(frames), renderer.height)
    blocks = {frame: frame // FRAMES_A_BLOCK for frame in photographs.ids}
    return fitted_people(photographs, renderer, keep, False, blocks)


def generated(count: int, size: int, seed: int) -> People:
    """Generated images; their keypoints are the true ones, and every hand is a person."""
    batch = synthetic.generate(count, size, torch.Generator().manual_seed(seed), left_share=0)
    marks = batch.camera.project(batch.joints)
    ids = tuple(range(count))
    photographs = Photographs(ids, batch.image, batch.camera, marks, batch.mask, batch.joints, marks, None)
    fits = HandParameters(*(torch.zeros(count, *shape) for shape in ((15, 3), (3,), (3,), (6,))))
    return People(photographs, batch.mask, torch.arange(count), fits, 1 - batch.occluder_mask)


def moved(mask: Tensor, right: float, down: float) -> Tensor:
    """Masks (B, 1, S, S) moved by shares of the side; what comes in from outside is 0."""
    affine = torch.tensor([[1.0, 0.0, -2 * right], [0.0, 1.0, -2 * down]]).expand(len(mask), -1, -1)
    return grid_sample(mask, affine_grid(affine, list(mask.shape), False), align_corners=False)


def inside_photograph(image: Tensor) -> Tensor:
    """(B, 1, S, S): 0 in the black rows and columns at the border of images (B, 3, S, S), and one pixel further."""
    bright = image.amax(dim=1)
    spans = []
    for lines in (bright.mean(dim=2), bright.mean(dim=1)):
        shown = (lines > DARKEST).int()
        # From the first line that shows something to the last.
        span = shown.cummax(dim=1).values * shown.flip(1).cummax(dim=1).values.flip(1)
        shrunk = span.clone()
        shrunk[:, 1:] *= span[:, :-1]
        shrunk[:, :-1] *= span[:, 1:]
        spans.append(shrunk.float())
    return (spans[0][:, :, None] * spans[1][:, None, :])[:, None]


def fitted_people(
    photographs: Photographs, renderer: TexturedHandRenderer, keep: Path, padded: bool, person: dict[int, int]
) -> People:
    """Photographs with masks, with the bundled hand fitted to their keypoints; `person` by their numbers."""
    fits = fit_photographs(photographs, keep / f"{photographs.fingerprint()[:16]}.npz")
    photographs, reference = fits.photographs, known(fits.parameters)
    valid = inside_photograph(photographs.image) if padded else None
    with torch.no_grad():
        vertices = pose_hand(HandModel(), reference).vertices
        counted = short_of_wrist(renderer.surface, vertices, photographs.camera, renderer.height)
    counted = counted if valid is None else counted * valid
    who = torch.tensor([person[number] for number in photographs.ids])
    return People(photographs, known(photographs.mask), who, reference, counted, valid, fits.left_out)

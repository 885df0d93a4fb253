"""Photographs of many people for image-only networks: who trains, who tests, and what a frozen stem sees of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import texalign as ta
from fits.people import SLD_SHIFT, People, fitted_people, moved, read_frames, read_people
from fits.real_refinement import noisy
from image_only.backbone import Backbone, Crop, crops_of, landmarks_of
from image_only.network import Shown
from recording import digest
from texalign._internal import Draws, write_whole
from texalign.photographs import read_photographs
from training.augmentation import recoloured
from training.order import seeded
from training.samples import Rows, Samples, as_they_are

SIZE = 128
# Photographs of one person, or neighbouring frames, that follow each other and may share a texture.
NEIGHBOURS = 4
KINDS = ("sld", "hgr", "video", "generated")
# Of frozen features: the photograph as it is, and so many jittered crops with other colours.
VIEWS = 4
JITTER_TURN, JITTER_SCALE, JITTER_SHIFT = math.radians(10), (0.87, 1.15), 0.05
# Numbers of persons of one kind.
A_KIND = 1000
# Photographs at a time.
CHUNK = 16


@dataclass(frozen=True)
class Split:
    """Who is in a set: people of sld and of hgr, photographs of each, and frames of the video."""

    sld: Sequence[int]
    sld_each: int
    hgr: Sequence[int]
    hgr_each: int
    frames: Sequence[int]


TRAIN = Split(range(120), 4, range(6), 24, range(0, 298))
TEST = Split(range(120, 159), 4, (6, 7), 40, range(318, 398))
# For choosing, of `TRAIN`: people up to these and blocks of ten frames train, the later ones test. In the block that is
# left out the detector is 8 to 14 px off or finds nothing.
TUNED_ON = {"sld": 100, "hgr": 5, "video": 24, "generated": 0}
TUNED_UP_TO, LEFT_OUT = {**TUNED_ON, "video": 26}, (28,)


@dataclass(frozen=True, eq=False)
class Examples(Rows):
    """N photographs.

    Attributes:
        image: (N, 3, S, S) in [0, 1].
        mask: (N, 1, S, S) hand skin, NaN where nobody knows.
        valid: (N, 1, S, S) 0 outside the photograph.
        counted: (N, 1, S, S) 0 where masks are not compared: outside, and beyond the fitted hand's wrist.
        camera: of them.
        detections: (N, 21, 2) pixels, a detector's keypoints.
        joints: (N, 21, 3) metres, true, NaN where nobody knows.
        marks: (N, 21, 2) pixels, true, NaN where nobody knows.
        vertices: (N, 778, 3) metres, true, NaN where nobody knows.
        person: (N,) int64, equal where photographs are no independent draws.
        kind: (N,) int64, which of `KINDS`.
    """

    image: Tensor
    mask: Tensor
    valid: Tensor
    counted: Tensor
    camera: ta.PinholeCamera
    detections: Tensor
    joints: Tensor
    marks: Tensor
    vertices: Tensor
    person: Tensor
    kind: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.image)


@dataclass(frozen=True, eq=False)
class FrozenViews(Rows):
    """What never changes in training, by view and photograph: (K, N, …).

    Attributes:
        maps: of the frozen stem, float16.
        centre, side, turn: of a `Crop`.
        world: (K, N, 21, 3), the untrained tail's world landmarks, in the image's axes.
    """

    maps: Tensor
    centre: Tensor
    side: Tensor
    turn: Tensor
    world: Tensor

    def select(self, rows: Tensor) -> FrozenViews:
        """Of some photographs."""
        return FrozenViews(*(getattr(self, field.name)[:, rows] for field in fields(self)))

    def of(self, view: Tensor, rows: Tensor) -> Shown:
        """Maps, crops and world landmarks of views (B,) of photographs (B,)."""
        crop = Crop(*(value[view, rows] for value in (self.centre, self.side, self.turn)))
        return Shown(self.maps[view, rows].float(), crop, view, self.world[view, rows])

    def plain(self, rows: Tensor) -> Shown:
        """Photographs as they are."""
        return self.of(torch.zeros_like(rows), rows)

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Shown:
        """One of the views of each."""
        return self.of(torch.randint(len(self.maps), (len(rows),), generator=generator), rows)


def examples_of(people: People, kind: str, each: int | None = None, neighbours: int = 1) -> Examples:
    """Photographs that were read.

    Args:
        people: of them.
        kind: one of `KINDS`.
        each: so many of every person, the first; None takes all.
        neighbours: only a multiple of them of every person or, of frames, in all.
    """
    together = torch.zeros_like(people.person) if kind == "video" else people.person
    rows = [(together == who).nonzero()[:each, 0] for who in together.unique()]
    people = people.select(torch.cat([some[: len(some) // neighbours * neighbours] for some in rows]))
    photographs, count = people.photographs, len(people)
    joints, marks = photographs.joints, photographs.joints_image
    return Examples(
        image=photographs.image,
        mask=people.mask,
        valid=torch.ones_like(people.mask) if people.valid is None else people.valid,
        counted=people.counted,
        camera=photographs.camera,
        detections=photographs.keypoints,
        joints=torch.full((count, 21, 3), torch.nan) if joints is None else joints,
        marks=torch.full((count, 21, 2), torch.nan) if marks is None else marks,
        vertices=torch.full((count, 778, 3), torch.nan),
        person=A_KIND * KINDS.index(kind) + people.person,
        kind=torch.full((count,), KINDS.index(kind)),
    )


def generated_examples(samples: Samples, views: int) -> Examples:
    """Generated images, to be measured on: every hand, of so many views, is a person."""
    batch, kind = as_they_are(samples), KINDS.index("generated")
    number = torch.arange(len(samples))
    marks = batch.camera.project(batch.joints)
    vertices = torch.full((len(batch), 778, 3), torch.nan) if batch.vertices is None else batch.vertices
    truth = (batch.camera, marks, batch.joints, marks, vertices)
    person, kinds = A_KIND * kind + number // views, torch.full_like(number, kind)
    return Examples(batch.image, batch.mask, batch.valid, batch.free, *truth, person, kinds)


def joined(parts: Sequence[Examples]) -> Examples:
    """End to end."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Examples)}
    cameras = columns.pop("camera")
    camera = ta.PinholeCamera(torch.cat([c.focal for c in cameras]), torch.cat([c.principal for c in cameras]))
    return Examples(camera=camera, **{name: torch.cat(column) for name, column in columns.items()})


def read_split(split: Split, people: Path, video: Path | None, keep: Path, neighbours: int = 1) -> Examples:
    """All photographs of a split, sld's masks moved into place.

    Args:
        split: who.
        people: folder that holds `sld` and `hgr`.
        video: folder of the frames, or None.
        keep: folder for the fits that masks are cut with.
        neighbours: see `examples_of`.
    """
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    # A few more than asked for: some have keypoints that fit no hand.
    sld = read_people(people / "sld", split.sld, split.sld_each + 2, renderer, keep, shift=SLD_SHIFT)
    hgr = read_people(people / "hgr", split.hgr, split.hgr_each + 4, renderer, keep, padded=True)
    parts = [
        examples_of(sld, "sld", split.sld_each, neighbours),
        examples_of(hgr, "hgr", split.hgr_each, neighbours),
    ]
    if video is not None:
        frames = read_frames(video, split.frames, renderer, keep)
        parts.append(examples_of(frames, "video", neighbours=neighbours))
    return joined(parts)


def trained_on(examples: Examples) -> Tensor:
    """Rows that are trained on: of the video every other group of neighbours, as those between are alike."""
    row = torch.arange(len(examples))
    frames = examples.kind == KINDS.index("video")
    first = int((~frames).sum())
    return row[~frames | ((row - first) // NEIGHBOURS % 2 == 0)]


def tuning_parts(examples: Examples) -> tuple[Tensor, Tensor]:
    """Rows of `TRAIN`'s photographs to train on and to choose by, other people's and other frames."""
    number = examples.person % A_KIND
    before, after = (torch.tensor([bound[kind] for kind in KINDS])[examples.kind] for bound in (TUNED_ON, TUNED_UP_TO))
    frames = examples.kind == KINDS.index("video")
    left_out = frames & torch.isin(number, torch.tensor(LEFT_OUT))
    train = (number < before).nonzero()[:, 0]
    # Frames come last.
    return train[: len(train) // NEIGHBOURS * NEIGHBOURS], ((number >= after) & ~left_out).nonzero()[:, 0]


def read_folder(folder: Path, keep: Path, padded: bool, shift: tuple[float, float]) -> Examples:
    """All photographs of a folder in the format of docs/photographs.md, for evaluation; of the first of `KINDS`.

    Masks, true joints and the array `person` may be missing; without it every photograph is a person.

    Args:
        folder: of them.
        keep: folder for the fits that masks are cut with.
        padded: crops reach beyond their photographs, and are black there.
        shift: moves the masks right and down, shares of the side.
    """
    photographs = read_photographs(folder, None, SIZE)
    with np.load(folder / "annotations.npz") as file:
        numbers = file["person"] if "person" in file.files else file["ids"]
        person = dict(zip(file["ids"].tolist(), numbers.tolist()))
    if photographs.mask is None:
        photographs = replace(photographs, mask=torch.full_like(photographs.image[:, :1], torch.nan))
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    people = fitted_people(photographs, renderer, keep, padded, person)
    if people.left_out:
        print(f"{people.left_out} photographs left out: their keypoints fit no hand")
    return examples_of(replace(people, mask=moved(people.mask, *shift)), KINDS[0])


def weak_labels(keypoints: Tensor, seed: int) -> Tensor:
    """(N, 21, 2): keypoints with 3 px of noise and 10 % outliers of 10 px, drawn once a seed."""
    return noisy(keypoints, seeded(seed, 3))


@torch.no_grad()
def views_of(
    backbone: Backbone, examples: Examples, keep: Path | None, views: int = VIEWS, looks: int = 1
) -> FrozenViews:
    """What the frozen part sees, made once and kept in a folder: 19 kB a photograph and view.

    Args:
        backbone: untrained.
        examples: of them.
        keep: folder, or None.
        views: K; the first is the photograph as it is.
        looks: see `crops_of`.
    """
    weights = next(iter(backbone.tail.parameters())).detach().numpy().tobytes()
    name = digest(examples.image.numpy().tobytes() + weights + f"{views} {looks} 1".encode())
    file = None if keep is None else keep / f"views {name}.pt"
    if file is None or not file.exists():
        parts = [
            _seen(backbone, examples.image[rows], number, views, looks)
            for number, rows in enumerate(torch.arange(len(examples)).split(CHUNK))
        ]
        tensors = [torch.cat(column, dim=1) for column in zip(*parts)]
        if file is None:
            return FrozenViews(*tensors)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(torch.save, tensors))
    return FrozenViews(*torch.load(file, weights_only=True))


def _seen(backbone: Backbone, image: Tensor, number: int, views: int, looks: int) -> list[Tensor]:
    upright = crops_of(backbone, image, looks)
    found: list[list[Tensor]] = []
    for view in range(views):
        crop, shown = upright, image
        if view:
            draws = Draws(len(image), seeded(view, number), torch.device("cpu"))
            turn = upright.turn + JITTER_TURN * draws.normal().clamp(-2, 2)
            side = upright.side * draws.log_uniform(low=JITTER_SCALE[0], high=JITTER_SCALE[1])
            crop = Crop(upright.centre + JITTER_SHIFT * side[:, None] * (2 * draws.uniform(2) - 1), side, turn)
            shown = recoloured(image, draws)
        maps = backbone.stem(crop.cut(shown))
        _, world = landmarks_of(backbone.tail(maps), crop)
        found.append([maps.half(), *crop, world])
    return [torch.stack(column) for column in zip(*found)]

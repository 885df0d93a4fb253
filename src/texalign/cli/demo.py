"""The alignment demo: misplaced hands are pulled over their images by keypoints alone, and by keypoints and texture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import DEMO_EXTRA_MISSING, MissingExtraError, expect
from texalign.cli.demo_fits import KEYPOINT_SCALE, MOVING, TOGETHER, Alignment, align
from texalign.cli.demo_hands import synthetic_hands
from texalign.cli.demo_pictures import Pictures
from texalign.cli.demo_table import Row, table
from texalign.hand import HandModel, fit_to_keypoints
from texalign.photographs import Photographs, photograph_ids, read_photographs
from texalign.viz import save_gif, save_png

SHOWN = 6


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        hands: synthetic ones.
        photographs: at most.
        image_size: pixels.
        steps: of each refinement.
    """

    hands: int
    photographs: int
    image_size: int
    steps: int


FULL, FAST = Plan(24, 8, 128, 50), Plan(6, 4, 96, 30)


@dataclass(frozen=True, eq=False)
class DemoSummary:
    """What a demo did.

    Attributes:
        files: the pictures, absolute paths.
        seconds: how long it took.
        hands: B images, and what is known of them.
        meshes: vertices (B, 778, 3) metres, by the names `START`, `ALONE` and `TOGETHER`.
        rows: the table.
        steps: of each refinement.
        left_out: photographs that have too few keypoints to start from.
    """

    files: tuple[Path, ...]
    seconds: float
    hands: Photographs
    meshes: dict[str, Tensor]
    rows: tuple[Row, ...]
    steps: int
    left_out: int = 0


def run(
    output: Path = Path("texalign-demo"),
    fast: bool = False,
    seed: int = 0,
    images: Path | None = None,
    count: int | None = None,
) -> DemoSummary:
    """Align hands, measure how well, and draw ``contact_sheet.png`` and ``alignment.gif``, with a progress bar.

    Synthetic hands start near the truth, with the pose and place wrong and the shape known; photographs start from a
    fit to their keypoints. Both refinements start there, and take the same steps.

    Args:
        output: a folder, made if need be; pictures of these names in it are replaced, each at once.
        fast: fewer and smaller hands, fewer steps.
        seed: of the synthetic hands, the noise and the loss's draws.
        images: a folder of photographs with keypoints (docs/photographs.md) to take in place of synthetic hands.
        count: how many hands; photographs are spread evenly over the folder. None takes what the plan says: 24
            synthetic hands (6 if fast) or 8 photographs (4 if fast).

    Raises:
        MissingExtraError: pillow or tqdm is not installed.
        OSError: the folder cannot be made or written, or there are no photographs.
        ValueError: photographs that do not fit their description, or a count that is not positive.
    """
    progress_bar = _require_extra()
    began, folder, plan = time.perf_counter(), output.resolve(), FAST if fast else FULL
    expect(count is None or count > 0, "demo", "count > 0", count)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder, or a name that is free")
    photographs, left_out = None, 0
    if images is not None:
        ids = _spread(photograph_ids(images), count or plan.photographs)
        photographs = read_photographs(images, ids, plan.image_size)
        fittable = photographs.fittable()
        expect(bool(fittable.any()), "demo", "photographs with 11 keypoints or more", f"none of {len(ids)}")
        photographs, left_out = photographs.select(fittable.nonzero()[:, 0]), int((~fittable).sum())
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(total=2 * plan.steps + 3, desc="texalign demo", unit="step") as bar:
        if photographs is None:
            hands, model, start = synthetic_hands(count or plan.hands, plan.image_size, seed)
        else:
            hands, model = photographs, HandModel()
            start = fit_to_keypoints(model, hands.camera, hands.keypoints, KEYPOINT_SCALE * plan.image_size)
        bar.update()
        alignment = align(model, hands, start, plan.steps, seed, bar.update)
        with torch.no_grad():
            files = _draw(folder, hands, alignment, images is None)
        bar.update(2)
    meshes = {name: hand.vertices for name, hand in alignment.hands.items()}
    seconds, rows = time.perf_counter() - began, table(hands, alignment.hands)
    return DemoSummary(files, seconds, hands, meshes, rows, plan.steps, left_out)


def _draw(folder: Path, hands: Photographs, alignment: Alignment, synthetic_ones: bool) -> tuple[Path, ...]:
    """Both pictures, of the first hands."""
    shown = torch.arange(min(SHOWN, len(hands)))
    few = hands.select(shown)
    meshes = {name: hand.vertices[shown] for name, hand in alignment.hands.items()}
    generator = torch.Generator().manual_seed(0)
    _, details = alignment.loss(meshes[TOGETHER], few.camera, few.image, generator=generator, return_details=True)
    labels = [f"hand {number + 1}" if synthetic_ones else f"image {number}" for number in few.ids]
    pictures = Pictures(few)
    sheet = save_png(folder / "contact_sheet.png", pictures.sheet(meshes, details, labels))
    moving = Pictures(hands.select(torch.arange(min(MOVING, len(hands)))))
    frames, milliseconds = moving.animation(alignment.tracks, every=2)
    return sheet, save_gif(folder / "alignment.gif", frames, milliseconds)


def _spread(ids: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many of them, evenly spaced, from the first on."""
    count = min(count, len(ids))
    return tuple(ids[number * len(ids) // count] for number in range(count))


def _require_extra() -> Any:
    """The progress bar, if it and pillow are installed: found out before any work is done."""
    try:
        import PIL.Image  # noqa: F401
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError(DEMO_EXTRA_MISSING) from error
    return tqdm

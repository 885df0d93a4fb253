"""The alignment demo: misplaced hands are pulled over their images by keypoints alone, and by keypoints and texture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import DEMO_EXTRA_MISSING, MissingExtraError, expect
from texalign.cli.demo_fits import KEYPOINT_SCALE, MOVING, TOGETHER, Alignment, align
from texalign.cli.demo_hands import synthetic_hands
from texalign.cli.demo_pictures import MOVING_CELL, SHEET_CELL, Pictures
from texalign.cli.demo_table import Row, table
from texalign.hand import HandModel, fit_to_keypoints
from texalign.photographs import Photographs, photograph_ids, read_photographs
from texalign.viz import save_gif, save_png

SHOWN = 6
# Photographs in the package, of people that no training has seen.
PEOPLE, PEOPLE_SIZE = Path(str(files("texalign").joinpath("assets/people"))), 100
# Steps of the fit that photographs start from.
FIT_STEPS = 100
SHEET, PEOPLE_SHEET, ANIMATION = "contact_sheet.png", "real_hands.png", "alignment.gif"
# Ticks of the progress bar for what is no step of a fit: making or reading hands, and drawing them.
TICKS = 6


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        hands: generated ones.
        photographs: at most.
        image_size: pixels.
        steps: of each refinement.
    """

    hands: int
    photographs: int
    image_size: int
    steps: int


FULL, FAST = Plan(6, 12, 128, 30), Plan(3, 3, 96, 6)


@dataclass(frozen=True, eq=False)
class Part:
    """What was done with one kind of hands.

    Attributes:
        source: the folder of the photographs; None for generated hands.
        hands: B images, and what is known of them.
        meshes: vertices (B, 778, 3) metres, by the names `START`, `ALONE` and `TOGETHER`.
        weight: of the loss.
        rows: the table.
    """

    source: Path | None
    hands: Photographs
    meshes: dict[str, Tensor]
    weight: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class DemoSummary:
    """What a demo did.

    Attributes:
        files: the pictures, absolute paths.
        seconds: how long it took.
        parts: generated hands and real ones, or photographs of one's own.
        steps: of each refinement.
        left_out: photographs that have too few keypoints to start from.
    """

    files: tuple[Path, ...]
    seconds: float
    parts: tuple[Part, ...]
    steps: int
    left_out: int = 0


def run(
    output: Path = Path("texalign-demo"),
    fast: bool = False,
    seed: int = 0,
    images: Path | None = None,
    count: int | None = None,
) -> DemoSummary:
    """Align hands, measure how well, and draw sheets and an animation, with a progress bar.

    Generated hands start near the truth, with the pose and place wrong and the shape known; photographs start from a
    fit to their keypoints. Both refinements start there, and take the same steps.

    Args:
        output: a folder, made if need be; pictures of these names in it are replaced, each at once.
        fast: few and small hands and few steps, to see that it runs.
        seed: of the generated hands, the noise and the loss's draws.
        images: a folder of photographs with keypoints (docs/photographs.md) to take in place of both kinds of hands.
        count: how many hands of a kind; photographs are spread evenly over the folder. None takes what the plan says.

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
    sources = {SHEET: None, PEOPLE_SHEET: PEOPLE} if images is None else {SHEET: images}
    photographs = {name: _photographs(source, count, plan) for name, source in sources.items() if source is not None}
    left_out = 0
    for name, read in photographs.items():
        fittable = read.fittable()
        expect(bool(fittable.any()), "demo", "photographs with 11 keypoints or more", f"none of {len(read)}")
        photographs[name], left_out = read.select(fittable.nonzero()[:, 0]), int((~fittable).sum())
    folder.mkdir(parents=True, exist_ok=True)
    parts, pictures = [], []
    with progress_bar(total=len(sources) * (plan.steps + 2 * TICKS), desc="texalign demo", unit="step") as bar:
        for name, source in sources.items():
            if source is None:
                hands, model, start = synthetic_hands(count or plan.hands, plan.image_size, seed)
            else:
                hands, model = photographs[name], HandModel()
                scale = KEYPOINT_SCALE * hands.image.shape[-1]
                start = fit_to_keypoints(model, hands.camera, hands.keypoints, scale, FIT_STEPS)
            bar.update(TICKS)
            alignment = align(model, hands, start, plan.steps, seed, bar.update)
            with torch.no_grad():
                pictures.append(save_png(folder / name, _sheet(hands, alignment, source)))
                if name == SHEET:
                    moving = Pictures(hands.select(torch.arange(min(MOVING, len(hands)))), MOVING_CELL)
                    frames = moving.animation(alignment.tracks, every=plan.steps // 6)
                    pictures.append(save_gif(folder / ANIMATION, *frames))
            meshes = {name: hand.vertices for name, hand in alignment.hands.items()}
            parts.append(Part(source, hands, meshes, alignment.weight, table(hands, alignment.hands)))
            bar.update(TICKS)
    return DemoSummary(tuple(pictures), time.perf_counter() - began, tuple(parts), plan.steps, left_out)


def _sheet(hands: Photographs, alignment: Alignment, source: Path | None) -> Tensor:
    """The first hands."""
    shown = torch.arange(min(SHOWN, len(hands)))
    few = hands.select(shown)
    meshes = {name: hand.vertices[shown] for name, hand in alignment.hands.items()}
    generator = torch.Generator().manual_seed(0)
    _, details = alignment.loss(meshes[TOGETHER], few.camera, few.image, generator=generator, return_details=True)
    labels = [f"hand {number + 1}" if source is None else f"image {number}" for number in few.ids]
    truth = "truth" if source is None else "mask"
    return Pictures(few, SHEET_CELL).sheet(meshes, details.texture, labels, truth)


def _photographs(folder: Path, count: int | None, plan: Plan) -> Photographs:
    """So many of a folder, evenly spaced from the first on; those of the package are not enlarged."""
    ids = photograph_ids(folder)
    count = min(count or plan.photographs, len(ids))
    size = min(plan.image_size, PEOPLE_SIZE) if folder == PEOPLE else plan.image_size
    return read_photographs(folder, [ids[number * len(ids) // count] for number in range(count)], size)


def _require_extra() -> Any:
    """The progress bar, if it and pillow are installed: found out before any work is done."""
    try:
        import PIL.Image  # noqa: F401
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError(DEMO_EXTRA_MISSING) from error
    return tqdm

"""The alignment demo: misplaced hands are pulled over their images by keypoints alone, and by keypoints and texture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign import synthetic
from texalign._internal import DEMO_EXTRA_MISSING, MissingExtraError, expect
from texalign.camera import PinholeCamera
from texalign.cli.demo_pictures import Pictures
from texalign.hand import (
    Hand,
    HandModel,
    HandParameters,
    KnownShape,
    disturbed,
    fit_to_keypoints,
    keypoint_objective,
    parameters_of_pose,
    pose_hand,
    refine,
)
from texalign.loss import DenseTextureAlignmentLoss
from texalign.metrics import mask_iou, procrustes_aligned
from texalign.photographs import Photographs, photograph_ids, read_photographs
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import save_gif, save_png

START, ALONE, TOGETHER = "start", "keypoints only", "keypoints + texture"
# The loss's weight beside `fitting.KEYPOINT_WEIGHT`.
TEXTURE_WEIGHT = 2.0
RATE = 0.02
# Shares of the image's side: 2 px of keypoint noise, and 8 px at which a keypoint begins to lose its pull, at 128.
KEYPOINT_NOISE, KEYPOINT_SCALE = 1 / 64, 1 / 16
# Synthetic hands are taken that are in sight for so large a share, and no further away, metres.
VISIBLE, FARTHEST = 0.7, 1.5
# No training draws its images from seeds like these.
SEED_OFFSET = 2**52
SHOWN, MOVING = 6, 4


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


@dataclass(frozen=True)
class Row:
    """One line of the table: the mean over all hands, at the start and after each of the two refinements.

    Attributes:
        name: what is measured.
        unit: of it; empty for a share.
        values: at the start, with keypoints only, with keypoints and texture.
    """

    name: str
    unit: str
    values: tuple[float, float, float]


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
    """

    files: tuple[Path, ...]
    seconds: float
    hands: Photographs
    meshes: dict[str, Tensor]
    rows: tuple[Row, ...]
    steps: int


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
    photographs = None
    if images is not None:
        ids = _spread(photograph_ids(images), count or plan.photographs)
        photographs = read_photographs(images, ids, plan.image_size)
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
    return DemoSummary(files, time.perf_counter() - began, hands, meshes, table(hands, alignment.hands), plan.steps)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two refinements from one start.

    Attributes:
        hands: B hands by the names `START`, `ALONE` and `TOGETHER`.
        tracks: of the first `MOVING` hands, their vertices before every step and at the end, by `ALONE` and `TOGETHER`.
        loss: that was added in `TOGETHER`, with ``reduction="none"``.
    """

    hands: dict[str, Hand]
    tracks: dict[str, list[Tensor]]
    loss: DenseTextureAlignmentLoss


def synthetic_hands(count: int, image_size: int, seed: int) -> tuple[Photographs, HandModel, HandParameters]:
    """Unseen right hands with noisy keypoints and all truth, the model in their shapes, and the misplaced start.

    Hands are passed over of which less than 70 % is in the image and not hidden, and those more than 1.5 m away:
    nothing in an image tells their depth. The mask is that of the whole hand, hidden or not.
    """
    generator = torch.Generator().manual_seed((SEED_OFFSET + seed) % 2**63)
    renderer = TexturedHandRenderer(HandSurface.mano(), image_size)
    parts: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in parts) < count:
        batch = synthetic.generate(2 * count, image_size, generator, left_share=0.0)
        mask = renderer(batch.vertices, batch.camera, batch.image.new_ones(1, 3, 1, 1)).coverage
        in_sight = batch.mask.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1)
        pixels = batch.camera.project(batch.vertices)
        in_frame = ((pixels >= 0) & (pixels <= image_size)).all(dim=2).float().mean(dim=1)
        good = (in_sight * in_frame >= VISIBLE) & (batch.translation[:, 2] < FARTHEST)
        found = (batch.image, mask, batch.vertices, batch.joints, batch.camera.focal, batch.camera.principal)
        parts.append(tuple(tensor[good] for tensor in (*found, batch.pose, batch.betas, batch.translation)))
    image, mask, vertices, joints, focal, principal, pose, betas, translation = (
        torch.cat(tensors)[:count] for tensors in zip(*parts)
    )
    camera = PinholeCamera(focal, principal)
    joints_image = camera.project(joints)
    noise = KEYPOINT_NOISE * image_size * torch.randn(joints_image.shape, generator=generator)
    hands = Photographs(tuple(range(count)), image, camera, joints_image + noise, mask, joints, joints_image, vertices)
    model = KnownShape(betas)
    return hands, model, disturbed(parameters_of_pose(model, pose, translation), generator)


def align(
    model: HandModel,
    hands: Photographs,
    start: HandParameters,
    steps: int,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Alignment:
    """Refine the start twice: with keypoints only, and with `DenseTextureAlignmentLoss` and the bundled prior as well.

    Args:
        model: the hand, or `KnownShape`.
        hands: B right hands.
        start: of B hands.
        steps: of each refinement.
        seed: of the loss's draws.
        tick: called before every step.
    """
    size = hands.image.shape[-1]
    surface = HandSurface.mano()
    renderer = TexturedHandRenderer(surface, size)
    loss = DenseTextureAlignmentLoss(renderer, UVTextureEncoder.from_pretrained(surface=surface), reduction="none")
    draws = torch.Generator().manual_seed(seed)

    def texture(hand: Hand) -> Tensor:
        value: Tensor = loss(hand.vertices, hands.camera, hands.image, generator=draws)
        return TEXTURE_WEIGHT * value

    with torch.no_grad():
        posed = {START: pose_hand(model, start)}
    tracks: dict[str, list[Tensor]] = {ALONE: [], TOGETHER: []}
    for name, extra in ((ALONE, None), (TOGETHER, texture)):
        track = tracks[name]

        def watch(step: int, parameters: HandParameters, hand: Hand, track: list[Tensor] = track) -> None:
            track.append(hand.vertices[:MOVING].detach())
            tick()

        objective = keypoint_objective(model, hands.camera, hands.keypoints, KEYPOINT_SCALE * size, extra)
        end = refine(model, start, objective, steps, RATE, watch)
        with torch.no_grad():
            posed[name] = pose_hand(model, end)
        track.append(posed[name].vertices[:MOVING])
    return Alignment(posed, tracks, loss)


def measure(hands: Photographs, hand: Hand) -> dict[tuple[str, str], Tensor]:
    """How far B hands are off, (B,) each by name and unit: all that the truth allows. Unknown joints do not count."""
    camera, found = hands.camera, {}

    def distance(points: Tensor, true: Tensor) -> Tensor:
        return (points - true).norm(dim=-1).nanmean(dim=1)

    wrist = hand.joints[:, :1]
    if hands.vertices is not None:
        found["vertices", "mm"] = 1000 * distance(hand.vertices, hands.vertices)
        if hands.joints is not None:
            relative = hands.vertices - hands.joints[:, :1]
            found["vertices, relative to the wrist", "mm"] = 1000 * distance(hand.vertices - wrist, relative)
        found["vertices in the image", "px"] = distance(camera.project(hand.vertices), camera.project(hands.vertices))
    if hands.joints is not None:
        relative = hands.joints - hands.joints[:, :1]
        found["joints, relative to the wrist", "mm"] = 1000 * distance(hand.joints - wrist, relative)
        # A sample with an unknown joint has no alignment.
        known = torch.isfinite(hands.joints).all(dim=2).all(dim=1)[:, None, None]
        aligned = procrustes_aligned(hand.joints, torch.where(known, hands.joints, hand.joints))
        found["joints, aligned (PA-MPJPE)", "mm"] = 1000 * distance(
            aligned, torch.where(known, hands.joints, torch.nan)
        )
    if hands.joints_image is not None:
        found["joints in the image", "px"] = distance(camera.project(hand.joints), hands.joints_image)
    if not found:
        found["joints to the keypoints given", "px"] = distance(camera.project(hand.joints), hands.keypoints)
    if hands.mask is not None:
        renderer = TexturedHandRenderer(HandSurface.mano(), hands.image.shape[-1])
        coverage = renderer(hand.vertices, camera, hand.vertices.new_ones(1, 3, 1, 1)).coverage
        found["mask, intersection over union", ""] = mask_iou(coverage, hands.mask)
    return found


def table(hands: Photographs, aligned: dict[str, Hand]) -> tuple[Row, ...]:
    """The mean of every measure over the hands, for the start and both refinements."""
    measured = [measure(hands, aligned[name]) for name in (START, ALONE, TOGETHER)]
    rows = []
    for name, unit in measured[0]:
        start, alone, together = (float(one[name, unit].nanmean()) for one in measured)
        rows.append(Row(name, unit, (start, alone, together)))
    return tuple(rows)


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

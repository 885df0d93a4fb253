"""From photographs to aligned, textured hands."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from texalign._internal import MissingExtraError, expect
from texalign.cli.align_fits import AlignedHands, align_hands
from texalign.cli.align_input import WHO, Photo, check_detector, read_photo
from texalign.cli.align_mano import mano_layer, mano_parameters
from texalign.cli.align_output import write_hand
from texalign.loss import DenseTextureAlignmentLoss
from texalign.photographs import FARTHEST, NEAREST

# A fit to keypoints that leaves them so far, as a share of the crop's side, has most likely gone wrong.
_BAD_START = 0.03
# Mean evidence for the hand; meshes that lie on something else have less.
_LEAST_AGREEMENT = 0.3
_MISSING = 'texalign align needs pillow and tqdm: pip install "texalign[photos]"'


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        image_size: pixels.
        steps: of the fit with the texture loss.
    """

    image_size: int
    steps: int


FULL, FAST = Plan(256, 60), Plan(128, 30)


@dataclass(frozen=True)
class Row:
    """One hand's line of the table; pairs are at the start and aligned.

    Attributes:
        name: of its files.
        side: "left" or "right".
        focal: of the photograph, and its file, in words.
        agreement: mean evidence for the hand under its outline, up to 6.
        iou: of outline and mask; NaN without a mask.
        distance: pixels of the photograph, from joints to keypoints.
        seconds: of its fit.
    """

    name: str
    side: str
    focal: str
    agreement: tuple[float, float]
    iou: tuple[float, float]
    distance: tuple[float, float]
    seconds: float


def run(
    photographs: Sequence[Path],
    output: Path = Path("texalign-hands"),
    plan: Plan = FULL,
    keypoints: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    predictions: Sequence[Path] = (),
    side: str | None = None,
    same_hand: bool = False,
    model: Path | None = None,
    mano: Path | None = None,
) -> list[Row]:
    """Align the hands of photographs and write their files, with a progress bar. What cannot be done is told on stderr.

    Args:
        photographs: image files.
        output: a folder, made if need be; files of these names in it are replaced, each at once.
        plan: how much is done.
        keypoints: a file for each photograph, or none: then a detector finds them.
        masks: likewise, to measure by.
        predictions: likewise, a network's, in place of keypoints.
        side: "left" or "right" of all hands.
        same_hand: all are one person's: the hands of a side share one texture.
        model: the detector's.
        mano: a right hand's MANO file, whose pose is then told as well, or None; predicted MANO parameters need it.

    Returns:
        A row for each hand; empty where nothing could be done.

    Raises:
        MissingExtraError: pillow, tqdm or a detector is not installed.
        OSError: the folder cannot be written, or the detector's model cannot be had.
        ValueError: another number of files than of photographs.
    """
    try:
        import PIL.Image  # noqa: F401
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    for name, files in (("--keypoints", keypoints), ("--mask", masks), ("--predictions", predictions)):
        wanted = f"{name} once for each of {len(photographs)} photographs, in their order, or never"
        expect(len(files) in (0, len(photographs)), WHO, wanted, len(files))
    names = _names(photographs)
    written = re.compile(f"({'|'.join(re.escape(name) for name in names)})-\\d+(-sheet)?\\.(png|obj|mtl|glb|json)")
    for path in (*photographs, *masks):
        lost = path.resolve().parent == output.resolve() and written.fullmatch(path.name)
        expect(not lost, WHO, f"an output folder in which {path.name} would not be replaced", output)
    output.mkdir(parents=True, exist_ok=True)
    taken = [path for path in output.iterdir() if path.is_dir() and written.fullmatch(path.name)]
    expect(not taken, WHO, "no folders where files are written", ", ".join(map(str, taken)))
    with TemporaryFile(dir=output):
        pass  # it can be written to
    expect(not (keypoints and predictions), WHO, "--keypoints or --predictions", "both")
    if not keypoints and not predictions:
        check_detector(model)
    layer = None if mano is None else mano_layer(mano)
    loss = DenseTextureAlignmentLoss.from_pretrained(image_size=plan.image_size, reduction="none")
    rows: list[Row] = []
    waiting: list[tuple[str, Photo]] = []
    with tqdm(total=len(photographs) * plan.steps, desc="texalign align", unit="step") as bar:
        for number, path in enumerate(photographs):
            marks, skin, net = (some[number] if some else None for some in (keypoints, masks, predictions))
            try:
                photo = read_photo(path, plan.image_size, marks, skin, net, side, model, layer)
                waiting.append((names[number], photo))
            except (OSError, ValueError) as error:
                _tell(bar, str(error))
                bar.update(plan.steps)
            last = number + 1 == len(photographs)
            if waiting and (last or not same_hand):
                rows += _align(waiting, output, plan, loss, same_hand, layer, bar)
                waiting = []
    return rows


def _align(
    photos: list[tuple[str, Photo]],
    output: Path,
    plan: Plan,
    loss: DenseTextureAlignmentLoss,
    same_hand: bool,
    layer: Any,
    bar: Any,
) -> list[Row]:
    """Fit all hands of some photographs together, and write them."""
    crops = [crop for _, photo in photos for crop in photo.crops]
    numbers = [number for number, (_, photo) in enumerate(photos) for _ in photo.crops]
    aligned = align_hands(crops, numbers, plan.steps, loss, same_hand, lambda: bar.update(len(photos)))
    mano = None if layer is None else mano_parameters(layer, aligned.hands[1])
    rows: list[Row] = []
    for name, photo in photos:
        for count, crop in enumerate(photo.crops, start=1):
            row = len(rows)
            hand = f"{name}-{count}"
            write_hand(output, hand, photo, crop, aligned, row, mano)
            _doubt(bar, hand, crop.scale / plan.image_size, aligned, row)
            focal = f"{photo.path.name} {crop.focal:.0f} px ({photo.focal_from})"
            pairs = (aligned.agreement, aligned.iou, aligned.distances)
            agreement, iou, distance = ((float(pair[0, row]), float(pair[1, row])) for pair in pairs)
            side = "right" if crop.is_right else "left"
            rows.append(Row(hand, side, focal, agreement, iou, distance, aligned.seconds / len(crops)))
    return rows


def _doubt(bar: Any, name: str, scale: float, aligned: AlignedHands, row: int) -> None:
    """Say what makes a hand doubtful; `scale` is the crop's sides for each pixel of the photograph."""
    if bool(aligned.details[1].skipped[row]):
        _tell(bar, f"{name}: nothing of the hand is in sight, so only its keypoints were fitted")
    depth = float(aligned.hands[1].vertices[row, :, 2].mean())
    if not NEAREST < depth < FARTHEST:
        _tell(bar, f"{name}: a hand {depth:g} m away. Is the focal length in pixels of the photograph?")
    share = float(aligned.distances[0, row]) * scale
    agreement = float(aligned.agreement[1, row])
    if agreement < _LEAST_AGREEMENT and not bool(aligned.details[1].skipped[row]):
        _tell(bar, f"{name}: the photograph shows no hand there (agreement {agreement:.2f}): look at {name}-sheet.png")
    if not share < _BAD_START:
        _tell(bar, f"{name}: no hand fits the keypoints, {share:.0%} of the crop off: look at {name}-sheet.png")


def _tell(bar: Any, message: str) -> None:
    bar.write(f"texalign: {message}", file=sys.stderr)


def _names(photographs: Sequence[Path]) -> list[str]:
    """A name for each photograph's files: its own, with letters that every program takes, and a number if need be."""
    names: list[str] = []
    for path in photographs:
        plain = re.sub(r"[^\w.-]+", "_", path.stem) or "photo"
        name, number = plain, 2
        while name in names:
            name, number = f"{plain}_{number}", number + 1
        names.append(name)
    return names

"""How far the demo's hands are off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from texalign.cli.demo_fits import ALONE, START, TOGETHER
from texalign.hand import Hand
from texalign.metrics import mask_iou, procrustes_aligned
from texalign.photographs import Photographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface

IOU = "outline, intersection over union"
# The one line that tells how far a fit is from what it was shown, not from the truth.
SHOWN = "joints to the keypoints shown"


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


def measure(hands: Photographs, hand: Hand) -> dict[tuple[str, str], Tensor]:
    """How far B hands are off, (B,) each by name and unit: all that the truth allows. Unknown joints do not count.

    How far off in depth is left out: a single image hardly tells it.
    """
    camera, found = hands.camera, {}

    def distance(points: Tensor, true: Tensor) -> Tensor:
        return (points - true).norm(dim=-1).nanmean(dim=1)

    wrist, joints_image = hand.joints[:, :1], camera.project(hand.joints)
    if hands.vertices is not None:
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
        found["joints in the image", "px"] = distance(joints_image, hands.joints_image)
    if hands.mask is not None:
        renderer = TexturedHandRenderer(HandSurface.mano(), hands.image.shape[-1])
        coverage = renderer(hand.vertices, camera, hand.vertices.new_ones(1, 3, 1, 1)).coverage
        found[IOU, ""] = mask_iou(coverage, hands.mask)
    found[SHOWN, "px"] = distance(joints_image, hands.keypoints)
    return found


def table(hands: Photographs, aligned: dict[str, Hand]) -> tuple[Row, ...]:
    """The mean of every measure over the hands, for the start and both refinements; the keypoints shown come last."""
    measured = [measure(hands, aligned[name]) for name in (START, ALONE, TOGETHER)]
    rows = []
    for name, unit in measured[0]:
        start, alone, together = (float(one[name, unit].nanmean()) for one in measured)
        rows.append(Row(name, unit, (start, alone, together)))
    return tuple(rows)


def table_lines(rows: tuple[Row, ...]) -> list[str]:
    """The table as text: first what should become better, then what need not."""
    width = max(len(row.name) for row in rows)
    lines = [" " * (width + 4) + f" {START:>9}  {ALONE:>16}  {TOGETHER:>20}    change"]
    heads = {
        False: "not shown to the fits (mm and px should fall, the intersection should rise):",
        True: "shown to the fits, and wrong by some pixels (may rise):",
    }
    for row in rows:
        if (head := heads.pop(row.name == SHOWN, None)) is not None:
            lines.append(head)
        start, alone, together = row.values
        change = f"{100 * (together / alone - 1):+.0f} %" if row.unit else f"{together - alone:+.3f}"
        decimals = 2 if row.unit else 3
        values = (f"{value:.{decimals}f}" for value in (start, alone, together))
        lines.append(f"{row.name:<{width}} {row.unit:<4}" + "{:>9}  {:>16}  {:>20}".format(*values) + f"  {change:>8}")
    return lines

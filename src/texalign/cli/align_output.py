"""The files that `align` writes for a hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import write_whole
from texalign.cli.align_crops import HandCrop
from texalign.cli.align_fits import AlignedHands
from texalign.cli.align_input import Photo
from texalign.hand import SHAPE_NAMES, HandModel, ManoParameters, rotation_vectors
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, mark, outline, overlay, save_mesh, save_png, texture_picture

COLUMNS = ("photograph, keypoints", "fit to keypoints", "aligned", "texture", "textured hand")
PREDICTED = ("photograph, joints", "prediction", *COLUMNS[2:])
_MANO = ("global_orient", "hand_pose", "betas", "translation")
# Shares of a picture's side.
_LINE, _DOT = 1 / 160, 1 / 100


# MANO's parameters of all hands and how far it lies from them, or None.
Mano = tuple[ManoParameters, Tensor] | None


def write_hand(
    folder: Path, name: str, photo: Photo, crop: HandCrop, aligned: AlignedHands, row: int, mano: Mano
) -> None:
    """Write ``NAME-sheet.png``, ``NAME.obj`` with ``.mtl`` and ``.png``, ``NAME.glb``, and last ``NAME.json``."""
    texture = aligned.details[1].texture[row]
    save_png(folder / f"{name}-sheet.png", _sheet(crop, aligned, row))
    surface = HandSurface.mano()
    vertices = crop.in_space(aligned.hands[1].vertices[row])
    for suffix in (".obj", ".glb"):
        save_mesh(folder / f"{name}{suffix}", vertices, surface if crop.is_right else surface.mirrored(), texture)
    text = json.dumps(_description(photo, crop, aligned, row, mano), indent=1, allow_nan=False)
    write_whole(folder / f"{name}.json", lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


def _sheet(crop: HandCrop, aligned: AlignedHands, row: int) -> Tensor:
    """The columns side by side, at the resolution of the crop's picture."""
    size = crop.picture.shape[-1]
    renderer = TexturedHandRenderer(HandSurface.mano(), size)
    camera = crop.camera.cropped((0.0, 0.0), size / crop.image.shape[-1])
    seen = crop.picture if crop.is_right else crop.picture.flip(-1)
    texture = aligned.details[1].texture[row][None]
    line = max(2, round(_LINE * size))
    with torch.no_grad():
        points = crop.keypoints[None] * (size / crop.image.shape[-1])
        cells = [mark(seen[None], points, radius=max(1.5, _DOT * size))]
        for hand in aligned.hands:
            rendering = renderer(hand.vertices[row][None], camera, texture)
            cells.append(outline(seen[None], rendering.coverage, width=line))
        cells.append(texture_picture(texture, renderer.surface, size))
        cells.append(overlay(0.3 * seen[None], rendering))
    upright = [cell[0] if crop.is_right or number == 3 else cell[0].flip(-1) for number, cell in enumerate(cells)]
    return contact_sheet([upright], column_labels=COLUMNS if crop.joints is None else PREDICTED)


def _description(photo: Photo, crop: HandCrop, aligned: AlignedHands, row: int, mano: Mano) -> dict[str, Any]:
    """All that the fit found, as JSON holds it; docs/your-photographs.md says what is what."""
    model = HandModel()
    angles, orientation, translation, _ = (tensor[row][None] for tensor in aligned.parameters.tensors())
    pose = rotation_vectors(model.pose_from_angles(angles, orientation))[0]
    betas = aligned.parameters.betas()[row].tolist()
    width, height = photo.size
    joints = aligned.hands[1].joints[row]
    pixels = crop.in_photograph(crop.camera.project(joints[None])[0])
    names = ("start", "aligned")
    told: dict[str, Any] = {}
    if mano is not None:
        found, distance = mano
        told = {name: _rounded(getattr(found, name)[row], 5) for name in _MANO}
        told = {"mano": {"mirrored": not crop.is_right, **told, "off_mm": round(1000 * float(distance[row]), 2)}}
    return {
        "photograph": photo.path.name,
        "size": [width, height],
        "hand": "right" if crop.is_right else "left",
        "focal": round(crop.focal, 2),
        "focal_from": photo.focal_from,
        "principal": [width / 2, height / 2],
        "box": list(crop.box),
        # As files count pixels, so that this file is one for --keypoints.
        "keypoints": _rounded(crop.in_photograph(crop.keypoints) - 0.5, 2),
        "joints_px": _rounded(pixels - 0.5, 2),
        "joints_m": _rounded(crop.in_space(joints), 5),
        "model": {
            "mirrored": not crop.is_right,
            "pose": _rounded(pose, 5),
            "betas": {name: round(beta, 4) for name, beta in zip(SHAPE_NAMES, betas)},
            "translation": _rounded(translation[0], 5),
        },
        "agreement": dict(zip(names, _rounded(aligned.agreement[:, row], 4))),
        "mask_iou": dict(zip(names, _rounded(aligned.iou[:, row], 4))),
        "joints_to_keypoints_px": dict(zip(names, _rounded(aligned.distances[:, row], 2))),
        **told,
    }


def _rounded(values: Tensor, digits: int) -> Any:
    """As nested lists, null where a number is not finite."""
    if values.dim() > 0:
        return [_rounded(value, digits) for value in values]
    number = float(values)
    return round(number, digits) if abs(number) < float("inf") else None

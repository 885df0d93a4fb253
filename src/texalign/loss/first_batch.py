from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import expect
from texalign.loss.inputs import LARGEST_COLOUR, LossInputs
from texalign.surface import SEAM, SEAM_EXPECTED

# Metres from a hand's wrist to its farthest fingertip, and beyond which no hand's box goes: a child's fist, a giant's.
SMALLEST_HAND, LARGEST_HAND = 0.03, 0.6
SLACK = 1e-2
# The largest value of a batch of photographs is above.
DARKEST = 0.02
REASONS = {
    "dropped": "vertices or camera not finite, or a focal length that is not positive",
    "unreadable": "images with values that are not finite",
    "unusable": "textures from the encoder that are not finite",
    "hidden": "hands outside the image, behind the camera or in padding",
    "masked": "masks that are 0 on the whole hand",
    "inside out": "meshes seen from inside: left hands need is_right, or faces and vertices are of different sides",
}


def first_batch_findings(
    inputs: LossInputs, boundary: Tensor, skipped: Tensor, reasons: dict[str, Tensor], who: str
) -> list[str]:
    """What looks wrong with a batch, in words. Waits for the device once.

    Args:
        inputs: as the caller gave them, in float32.
        boundary: (N,) int64, the vertices on the mesh's boundary.
        skipped: (B,) bool.
        reasons: for each name of `REASONS` the samples (B,) bool that it holds for.
        who: begins the error.

    Raises:
        ValueError: the mesh is split at its seams, which the loss would take for the wrist's opening.
    """
    vertices = inputs.vertices.detach()
    extent = (vertices.amax(dim=1) - vertices.amin(dim=1)).amax(dim=1)
    numbers = [inputs.image.amin(), inputs.image.amax(), extent.nanmedian()]
    for weight in (inputs.mask, inputs.valid):
        numbers += [inputs.image.new_zeros(())] * 2 if weight is None else [weight.amin(), weight.amax()]
    numbers += [
        _doubles(vertices[:, boundary], reasons["dropped"] | (extent < 1e-3)),
        skipped.sum(),
        *(reasons[name].sum() for name in REASONS),
    ]
    low, high, size, *rest = torch.stack([number.float() for number in numbers]).tolist()
    findings = []
    if low < -SLACK:
        findings.append(f"images lie in [{low:.3g}, {high:.3g}] in place of [0, 1]: undo the network's normalisation")
    elif 0 < high < DARKEST:
        findings.append(f"images lie in [{low:.3g}, {high:.3g}] in place of [0, 1]: divided by 255 twice?")
    elif 1 + SLACK < high < LARGEST_COLOUR:
        findings.append(f"images lie in [{low:.3g}, {high:.3g}] in place of [0, 1]: divide by 255")
    for name, (lowest, highest) in (("mask", rest[0:2]), ("valid", rest[2:4])):
        if lowest < -SLACK or highest > 1 + SLACK:
            findings.append(f"{name} lies in [{lowest:.3g}, {highest:.3g}] in place of [0, 1]; it is clamped")
    if not SMALLEST_HAND <= size <= LARGEST_HAND and size == size:
        findings.append(f"hands are {size:.3g} m large (median): vertices are expected in metres")
    doubles, count, *by_reason = (int(number) for number in rest[4:])
    expect(doubles < SEAM, who, SEAM_EXPECTED, f"{doubles} of {len(boundary)} boundary vertices that coincide")
    if 2 * count > len(vertices):
        why = "; ".join(f"{n} for {REASONS[name]}" for name, n in zip(REASONS, by_reason) if n)
        findings.append(f"{count} of {len(vertices)} samples are skipped: {why}")
    return findings


def _doubles(points: Tensor, ignored: Tensor) -> Tensor:
    """How many boundary vertices (B, N, 3) lie where another does: the least number over the samples not ignored."""
    distance = (points[:, :, None] - points[:, None]).abs().amax(dim=-1)
    # Within a micrometre; a vertex lies where it does itself.
    count = ((distance < 1e-6).sum(dim=2) > 1).sum(dim=1)
    none = points.shape[1] + 1
    return torch.where(ignored, none, count).amin() % none

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from texalign._internal import dilate, expect, expect_floating, flipped_images
from texalign.loss import EVIDENCE_LIMIT, LossDetails, dilation_radius
from texalign.surface import HandSurface
from texalign.viz.drawing import outline, overlay
from texalign.viz.sheets import contact_sheet

# What a residual of one third is drawn as: white.
RESIDUAL_GAIN = 3.0
COLUMNS = (
    "image",
    "outline",
    "textured hand",
    "fitted to the light",
    f"difference, {RESIDUAL_GAIN:g} times",
    "blue: hand, red: not",
    "texture",
)
FOR_HAND, AGAINST = (0.10, 0.28, 0.80), (0.80, 0.08, 0.10)
BETWEEN_CHARTS = 0.85


def alignment_sheet(
    image: Tensor,
    details: LossDetails,
    is_right: Tensor | None = None,
    surface: HandSurface | None = None,
    cell_size: int = 192,
) -> Tensor:
    """What a `DenseTextureAlignmentLoss` saw, one row a hand. Needs pillow.

    The columns: the image; the mesh's outline on it; the hand with the prior's texture; its colours as they were
    compared, fitted to the image's light and extended past the silhouette; how far they are from the image; the
    evidence, blue where the image looks like this hand and red where it does not (blue outside the outline pulls it
    outwards, red inside pushes it inwards); the texture. A row's label is the hand's loss, or "skipped".

    Args:
        image: (B, 3, H, W) in [0, 1], as the loss got it.
        details: of these images, from ``return_details=True``.
        is_right: (B,) bool, as the loss got it. The loss sees hands of the other side than its surface's in a mirror;
            here they are turned back.
        surface: the loss's, whose atlas it is: what lies between its charts is then grey. None: of a right hand.
        cell_size: pixels of a picture's longer side.

    Returns:
        One image (3, height, width) in [0, 1], on the CPU.

    Raises:
        MissingExtraError: pillow is not installed.
        ValueError: no image, or details of other images.

    Example:
        >>> from texalign.loss import DenseTextureAlignmentLoss
        >>> from texalign.synthetic import generate
        >>> hands, loss_fn = generate(2, image_size=64, left_share=0), DenseTextureAlignmentLoss.from_pretrained(64)
        >>> _, details = loss_fn(hands.vertices, hands.camera, hands.image, return_details=True)
        >>> sheet = alignment_sheet(hands.image, details)
    """
    who = "alignment_sheet"
    expect_floating(image, who, "image", ("B", 3, "H", "W"))
    expect(len(image) > 0, who, "at least one image", len(image))
    wanted = (len(image), 1, *image.shape[2:])
    expect(details.coverage.shape == wanted, who, f"details of these images, coverage {wanted}", details.coverage.shape)
    expect(cell_size > 0, who, "cell_size > 0", cell_size)
    with torch.no_grad():
        image = image.detach().float().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
        mirrored = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        if is_right is not None:
            mirrored = ~(is_right if surface is None else surface.same_side(is_right)).to(image.device)
        seen, coverage = flipped_images(image, mirrored), details.coverage
        faint = 0.3 * seen
        # Where the hand's colours are extended to.
        near = dilate(coverage, dilation_radius(image))
        judged = ~details.skipped[:, None, None, None]
        strength = judged * (details.evidence / EVIDENCE_LIMIT).clamp(-1, 1)
        colour = torch.where(strength < 0, _rgb(FOR_HAND, image), _rgb(AGAINST, image))
        heat = 1 - strength.abs() * (1 - colour)
        columns = [
            seen,
            outline(_enlarged(seen, cell_size), _enlarged(coverage, cell_size)),
            overlay(faint, details.rendering),
            torch.where(near > 0.5, details.fitted, faint),
            residual_heat(details),
            outline(_enlarged(heat, cell_size), _enlarged(coverage, cell_size), (0.0, 0.0, 0.0), width=1),
        ]
        cells = [
            flipped_images(_enlarged(column, cell_size), mirrored.to(column.device)).clamp(0, 1) for column in columns
        ]
        height, width = cells[0].shape[2:]
        cells.append(_centred(texture_picture(details.texture, surface, min(height, width)), height, width))
        labels = [
            "skipped" if skipped else f"loss {value:.2f}"
            for value, skipped in zip(details.per_sample.tolist(), details.skipped.tolist())
        ]
        return contact_sheet([list(row) for row in zip(*cells)], labels, COLUMNS)


def _enlarged(image: Tensor, longer: int) -> Tensor:
    """(B, C, H, W) resized so that its longer side has so many pixels."""
    scale = longer / max(image.shape[2:])
    size = [max(1, round(side * scale)) for side in image.shape[2:]]
    return interpolate(image, size=size, mode="bilinear", antialias=scale < 1, align_corners=False)


def residual_heat(details: LossDetails) -> Tensor:
    """(B, 3, H, W), not clamped: the difference of colours from black over red and yellow to white, `RESIDUAL_GAIN`
    times as bright; black beyond the wrist, where nothing is compared.

    Example:
        >>> from texalign.loss import DenseTextureAlignmentLoss
        >>> from texalign.synthetic import generate
        >>> hands, loss_fn = generate(2, image_size=64, left_share=0), DenseTextureAlignmentLoss.from_pretrained(64)
        >>> _, details = loss_fn(hands.vertices, hands.camera, hands.image, return_details=True)
        >>> heat = residual_heat(details).clamp(0, 1)
    """
    compared = details.coverage * (details.evidence != 0)
    residual = RESIDUAL_GAIN * compared * details.residual.mean(dim=1, keepdim=True)
    return torch.cat([2 * residual, 2 * residual - 0.5, 2 * residual - 1], dim=1)


def texture_picture(texture: Tensor, surface: HandSurface | None, size: int) -> Tensor:
    """(B, 3, size, size): textures, grey between the surface's charts if it is given.

    Example:
        >>> texture_picture(torch.rand(2, 3, 64, 64), HandSurface.mano(), size=128).shape
        torch.Size([2, 3, 128, 128])
    """
    texture = _enlarged(texture.detach().float(), size)
    if surface is None:
        return texture
    charts = (surface.texel_map(size).face_index >= 0).to(texture)
    return texture * charts + BETWEEN_CHARTS * (1 - charts)


def _centred(image: Tensor, height: int, width: int) -> Tensor:
    """In the middle of a white one of this size."""
    down, right = height - image.shape[2], width - image.shape[3]
    return pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0)


def _rgb(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(colour)[:, None, None]

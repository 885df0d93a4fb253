"""What `pretrain` draws: what its prior makes of held-out hands, and how its errors fell."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from texalign.cli.demo_hands import synthetic_hands
from texalign.loss import DenseTextureAlignmentLoss
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import RESIDUAL_GAIN, contact_sheet, residual_heat, texture_picture

SHOWN, CELL = 4, 192
# Curves of an error over that of the mean colour, which is 1, and the picture they are drawn in.
CURVES = {"visible": (0, 110, 190), "misaligned": (215, 110, 0), "hidden": (30, 140, 60)}
WIDTH, HEIGHT, EDGE, HIGHEST = 720, 400, 50, 1.2

Errors = Mapping[str, float | None]


def held_out_sheet(encoder: UVTextureEncoder, image_size: int) -> Tensor:
    """Four hands of no training, a row each: image, what is seen of the texture, what the prior predicts, the error."""
    surface = HandSurface.mano()
    renderer = TexturedHandRenderer(surface, image_size)
    hands, _, _ = synthetic_hands(SHOWN, image_size, seed=0)
    assert hands.vertices is not None
    loss = DenseTextureAlignmentLoss(renderer, copy.deepcopy(encoder).cpu())
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        _, details = loss(hands.vertices, hands.camera, hands.image, generator=generator, return_details=True)
        seen, visible = renderer.unwrap(hands.vertices, hands.camera, hands.image, texture_size=CELL)
        columns = {
            "image": interpolate(hands.image, size=CELL, mode="bicubic", antialias=True).clamp(0, 1),
            "observed": texture_picture(torch.where(visible > 0, seen, 0.7), surface, CELL),
            "predicted": texture_picture(details.texture, surface, CELL),
            f"error, {RESIDUAL_GAIN:g} times": interpolate(residual_heat(details).clamp(0, 1), size=CELL),
        }
    return contact_sheet([list(row) for row in zip(*columns.values())], column_labels=tuple(columns))


def curves(points: Sequence[tuple[int, Errors]], reference: Errors) -> Tensor:
    """Errors on held-out images over those of the mean colour, by step (3, HEIGHT, WIDTH); dotted: the reference."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    last = max(step for step, _ in points)

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = step / last, min(value, HIGHEST) / HIGHEST
        return EDGE + (WIDTH - 4 * EDGE) * across, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * up

    draw.text((EDGE, EDGE / 2), "held-out error / error of the mean colour; dotted: bundled prior", "black", font)
    draw.text(place(last, -0.1), f"step {last}", "black", font, anchor="mm")
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
        draw.line([place(0, value), place(last, value)], (225, 225, 225))
        draw.text((EDGE / 2, place(0, value)[1]), f"{value}", "black", font, anchor="mm")
    for name, colour in CURVES.items():
        key = f"{name}_l1_over_mean_colour"
        way = [place(step, error) for step, errors in points if (error := errors.get(key)) is not None]
        draw.line(way, colour, 2)
        for x, y in [*way, *(place(last * part / 60, reference[key] or 0) for part in range(61))]:
            size = 3 if (x, y) in way else 1
            draw.ellipse((x - size, y - size, x + size, y + size), colour)
        draw.text((WIDTH - 3 * EDGE + 8, way[-1][1] if way else 0), name, colour, font, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

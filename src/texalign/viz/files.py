"""Pictures as arrays and files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from texalign._internal import DEMO_EXTRA_MISSING, MissingExtraError, expect, expect_floating, write_whole


def to_uint8(image: Tensor) -> np.ndarray:
    """Image (3, H, W) or images (B, 3, H, W) in [0, 1] → uint8 array (H, W, 3) or (B, H, W, 3), as pillow wants it.

    Values are clamped and rounded; NaN becomes 0.

    Example:
        >>> to_uint8(torch.ones(3, 2, 4)).shape  # rows, columns, channels
        (2, 4, 3)
    """
    expect(image.dim() in (3, 4) and image.shape[-3] == 3, "to_uint8", "image ([B,] 3, H, W)", tuple(image.shape))
    pixels = (image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def save_png(path: str | os.PathLike[str], image: Tensor) -> Path:
    """Write an image (3, H, W) in [0, 1]; the file appears whole or not at all. Needs pillow. Returns the path.

    Example:
        >>> path = save_png("grey.png", torch.full((3, 8, 8), 0.5))
    """
    expect_floating(image, "save_png", "image", (3, "H", "W"))
    picture = pillow()[0].fromarray(to_uint8(image))
    # Half the time of pillow's own choice, for 2 % more bytes.
    return write_whole(path, lambda partial: picture.save(partial, format="PNG", compress_level=4))


def save_gif(path: str | os.PathLike[str], frames: Tensor, milliseconds: Sequence[int]) -> Path:
    """Write an animation that loops for ever; the file appears whole or not at all. Needs pillow.

    All frames share 256 colours, chosen for the first and the last, and are not dithered: what stands still then costs
    no bytes.

    Args:
        path: NAME.gif.
        frames: (N, 3, H, W) in [0, 1].
        milliseconds: how long each of the N frames is shown, in steps of 10.

    Returns:
        The path.

    Example:
        >>> path = save_gif("grey.gif", torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8), [100] * 4)
    """
    expect_floating(frames, "save_gif", "frames", ("N", 3, "H", "W"))
    expect(
        len(frames) == len(milliseconds) > 0, "save_gif", f"milliseconds for {len(frames)} frames", len(milliseconds)
    )
    image_module = pillow()[0]
    pictures = [image_module.fromarray(array) for array in to_uint8(frames)]
    both = image_module.fromarray(np.concatenate([np.asarray(pictures[0]), np.asarray(pictures[-1])]))
    palette = both.quantize(256)
    first, *others = (picture.quantize(palette=palette, dither=image_module.Dither.NONE) for picture in pictures)
    options = {"append_images": others, "duration": list(milliseconds), "loop": 0, "disposal": 1}
    return write_whole(path, lambda partial: first.save(partial, format="GIF", save_all=True, **options))


def pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules Image, ImageDraw and ImageFont, imported when they are needed."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError(DEMO_EXTRA_MISSING) from error
    return Image, ImageDraw, ImageFont

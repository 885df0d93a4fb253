"""Image and mask files, upright as a viewer shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from texalign._internal import MissingExtraError, expect

# Of a mask in [0, 1]: the channels of a grey pixel differ by less, since JPEG rounds.
_GREY = 1 / 16
_HEIF = (".heic", ".heif", ".avif")
_LOSSY = ("JPEG", "MPO")


def read_image(path: str | Path) -> Tensor:
    """An image file (3, H, W), sRGB in [0, 1], upright: its EXIF orientation is applied. Needs pillow.

    Grey, palette, CMYK and 16-bit grey files become RGB; what is transparent becomes black; of several frames the first
    is read. Colour profiles are not applied.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no image, a damaged one, or one of floating values.
        MissingExtraError: pillow is not installed.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 48)).save("photo.png")
        >>> read_image("photo.png").shape
        torch.Size([3, 48, 64])
    """
    colours, opacity, _ = _read(Path(path), "read_image")
    if opacity is not None:
        colours = colours * opacity[..., None]
    return torch.from_numpy(colours).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path, size: Sequence[int] | None = None) -> Tensor:
    """A mask file (1, H, W) in [0, 1], 1 = skin, upright like `read_image`. Needs pillow.

    A grey file of more than two values, of which one is above half of its range (127 of 8 bits), is a soft mask:
    value / 255. Every other file holds labels: any but 0, and any colour but black, is skin. If transparency varies, it
    is the mask, not the colours.

    Args:
        path: the file.
        size: (H, W) of its image, or None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `read_image`; another size; labels in a JPEG, which changes small numbers.
        MissingExtraError: pillow is not installed.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (64, 48), color=255).save("mask.png")
        >>> read_mask("mask.png", size=(48, 64)).mean()
        tensor(1.)
    """
    colours, opacity, lossy = _read(Path(path), "read_mask")
    if size is not None:
        (height, width), got = size, colours.shape
        expect(got[:2] == (height, width), "read_mask", f"{width} × {height} in {path}", f"{got[1]} × {got[0]}")
    mask = colours.max(axis=-1)
    labels = (mask - colours.min(axis=-1)).max() > _GREY
    if opacity is not None and opacity.min() < opacity.max():
        mask, labels = opacity, False
    two = not lossy and mask.min() == 0 and ((mask == 0) | (mask == mask.max())).all()
    if labels or two or mask.max() <= 0.5:
        wanted = f"labels in a file without loss, such as PNG, or black and white in {path}"
        expect(not (lossy and mask.any()), "read_mask", wanted, "colours or dark grey in a JPEG")
        mask = (mask > 0).astype(np.float32)
    return torch.from_numpy(mask)[None]


def _read(path: Path, who: str) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Colours (H, W, 3) and opacity (H, W) or None, float32 in [0, 1], and whether the file is a JPEG."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError('reading photographs needs pillow: pip install "texalign[demo]"') from error
    try:
        with Image.open(path) as opened:
            picture, lossy = ImageOps.exif_transpose(opened), opened.format in _LOSSY
        if picture.mode.startswith("I"):  # 16 bits of grey
            grey = np.asarray(picture).astype(np.float32).clip(0, 65535) / 65535
            return np.repeat(grey[..., None], 3, axis=-1), None, lossy
        if picture.mode == "F":
            raise ValueError("floating values, whose range nobody knows")
        pixels = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"), dtype=np.float32) / 255
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{who}: expected {path}, got no such file") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        if path.suffix.lower() in _HEIF:
            wanted = "a JPEG or PNG: export it as one, or register pillow-heif"
            raise ValueError(f"{who}: expected {wanted}, got {path}") from error
        raise ValueError(f"{who}: expected an image in {path}, got {error}") from error
    return pixels[..., :3], pixels[..., 3] if pixels.shape[-1] == 4 else None, lossy

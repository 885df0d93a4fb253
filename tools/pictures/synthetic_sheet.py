"""The picture of synthetic hands in the documentation, and the same beside photographs. Needs pillow.

python tools/pictures/synthetic_sheet.py                                        # docs/images/synthetic.png
python tools/pictures/synthetic_sheet.py --beside-real FOLDER --output both.png  # to look at, not to publish
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from texalign import synthetic
from texalign.photographs import read_image
from texalign.viz import contact_sheet, to_uint8

COUNT = 64
COLUMNS = 8


def grid(images: Tensor, columns: int = COLUMNS) -> Tensor:
    """Images (N, 3, S, S) in rows: one image (3, height, width)."""
    return contact_sheet([[*images[start : start + columns]] for start in range(0, len(images), columns)])


def masks_over(batch: synthetic.SyntheticBatch) -> Tensor:
    """(B, 3, S, S): the hand in green, what lies before it in red, over the image in grey."""
    paint = torch.cat([batch.occluder_mask, batch.mask, torch.zeros_like(batch.mask)], dim=1)
    return 0.4 * batch.image.mean(dim=1, keepdim=True) + 0.6 * paint


def photographs(folder: Path, count: int, size: int) -> Tensor:
    """(count, 3, size, size): photographs evenly spread over a folder, their middle squares."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"synthetic_sheet: expected .jpg or .png files in {folder}, found none")
    images = []
    for number in range(count):
        image = read_image(paths[number * len(paths) // count])
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        square = image[:, top : top + side, left : left + side]
        images.append(interpolate(square[None], size=size, mode="area")[0])
    return torch.stack(images)


def save(path: Path, image: Tensor) -> None:
    """Write a PNG; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(image)).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Write the sheets named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images/synthetic.png"))
    parser.add_argument("--beside-real", type=Path, metavar="DIR", help="put photographs from a folder beside them")
    parser.add_argument("--masks", type=Path, metavar="PNG", help="also write the masks and the textures")
    parser.add_argument("--size", type=int, default=96, help="pixels of an image")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.beside_real and arguments.output == parser.get_default("output"):
        parser.error("--beside-real needs an --output of its own, outside the documentation")
    batch = synthetic.generate(COUNT, arguments.size, torch.Generator().manual_seed(arguments.seed))
    if arguments.beside_real:
        real = photographs(arguments.beside_real, COUNT, arguments.size)
        gap = torch.ones(3, COLUMNS * arguments.size, arguments.size // 4)
        save(arguments.output, torch.cat([grid(batch.image), gap, grid(real)], dim=2))
    else:
        save(arguments.output, grid(batch.image))
    if arguments.masks:
        textures = torch.nn.functional.interpolate(batch.texture, size=(arguments.size, arguments.size))
        save(arguments.masks, torch.cat([grid(masks_over(batch)), grid(textures)], dim=2))


if __name__ == "__main__":
    main()

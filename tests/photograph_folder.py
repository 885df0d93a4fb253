"""A folder of photographs as docs/photographs.md describes it, made of synthetic images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from texalign import synthetic
from texalign.viz import to_uint8

# What is stored of a picture by the EXIF orientation, as the standard words it: where row 0 and column 0 belong.
STORED = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def saved(path, pixels, orientation=1, **options):
    """The path of an image file: of an array, stored as its EXIF orientation wants it, or of a picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(STORED[orientation](pixels).copy())
    picture.save(path, exif=exif, **options)
    return path


def write_folder(folder, count=4, size=64, seed=0, left_share=0.5, suffix=".png", masks=True, first=7, **changes):
    """Write the folder and return the batch it shows. `changes` replace arrays of the annotations, None removes one."""
    batch = synthetic.generate(count, size, torch.Generator().manual_seed(seed), left_share=left_share, texture_size=32)
    ids = np.arange(first, first + count)
    (folder / "images").mkdir(parents=True)
    for number, image in zip(ids, to_uint8(batch.image)):
        Image.fromarray(image).save(folder / "images" / f"{number:05d}{suffix}")
    if masks:
        (folder / "masks").mkdir()
        for number, mask in zip(ids, batch.mask[:, 0]):
            Image.fromarray((255 * mask).round().byte().numpy()).save(folder / "masks" / f"{number:05d}.png")
    marks = (batch.camera.project(batch.joints) - 0.5).numpy()
    arrays = {
        "ids": ids,
        "image_size": np.array(size),
        "hand": np.where(batch.is_right.numpy(), "right", "left"),
        "K_crop": torch.cat([batch.camera.focal, batch.camera.principal - 0.5], dim=1).numpy(),
        "keypoints_px": marks,
        "joints_px": marks,
        "joints_cam_cm": 100 * batch.joints.numpy(),
        "vertices_cam_cm": 100 * batch.vertices.numpy(),
        **changes,
    }
    np.savez(folder / "annotations.npz", **{name: value for name, value in arrays.items() if value is not None})
    return batch

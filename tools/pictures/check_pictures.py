"""The pictures of the page on networks of one's own: outlines as check draws them, right and wrong. Needs pillow.

python tools/pictures/check_pictures.py                   # docs/images/check_overlays.png
python tools/pictures/check_pictures.py --output FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import texalign as ta
from picture_scene import SIZE, PictureScene, picture_scene
from texalign.adapters import check
from texalign.viz import contact_sheet, save_png


def wirings(scene: PictureScene) -> dict[str, tuple[Tensor, ta.PinholeCamera, Tensor]]:
    """What a caption says was done to the hand, its camera and image."""
    vertices, camera, image = scene.true, scene.camera, scene.image
    middle = (vertices.amin(dim=1, keepdim=True) + vertices.amax(dim=1, keepdim=True)) / 2
    half = SIZE / 2

    def flipped(*signs: float) -> Tensor:
        return (vertices - middle) * torch.tensor(signs) + middle

    return {
        "right": (vertices, camera, image),
        "y points up": (flipped(1.0, -1.0, 1.0), camera, image),
        "OpenGL's axes": (flipped(1.0, -1.0, -1.0), camera, image),
        "mirrored": (vertices, camera, image.flip(-1)),
        "principal point": (vertices, ta.PinholeCamera(camera.focal, camera.principal - half), image),
        "camera of 512 pixels": (vertices, ta.PinholeCamera(2 * camera.focal, 2 * camera.principal), image),
    }


def main() -> None:
    """Write the sheet, and print what is said of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    shown = []
    for caption, (vertices, camera, image) in wirings(picture_scene()).items():
        report = check(vertices, camera, image)
        print(f"{caption}:\n{report}\n")
        shown.append((caption, avg_pool2d(report.overlay, 2)[0]))
    pictures, captions = [picture for _, picture in shown], [caption for caption, _ in shown]
    sheet = contact_sheet([pictures], column_labels=captions)
    folder.mkdir(parents=True, exist_ok=True)
    print(save_png(folder / "check_overlays.png", sheet))


if __name__ == "__main__":
    main()

"""The sheet of the bundled hand in docs/hand.md: both sides of both hands, and the atlas on it. Needs pillow.

python tools/pictures/hand_sheet.py                   # docs/images/contact_sheet.png
python tools/pictures/hand_sheet.py --output FOLDER
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from picture_light import DEEP, lit, skin
from texalign.camera import PinholeCamera
from texalign.hand import FINGERS_UP, POSE_KINDS, HandModel, sample_pose
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.viz import contact_sheet, overlay, save_png, uv_checker

DISTANCE = 0.6  # metres from the camera


def place(poses: Tensor, around: float, is_right: bool, size: int) -> tuple[Tensor, PinholeCamera]:
    """Vertices (B, 778, 3) and cameras that see the hands from one side.

    Args:
        poses: (B, 16, 3), upright: no global orientation.
        around: degrees the hand is turned about its fingers: 0 shows the palm, 180 the back, 90 the thumb.
        is_right: False mirrors the hand.
        size: pixels of the square image.
    """
    cosine, sine = math.cos(math.radians(around)), math.sin(math.radians(around))
    turn = poses.new_tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    vertices = HandModel()(poses).vertices @ poses.new_tensor(FINGERS_UP).T @ turn.T
    if not is_right:
        vertices = vertices * vertices.new_tensor([-1.0, 1.0, 1.0])
    low, high = vertices.amin(dim=1), vertices.amax(dim=1)
    vertices = vertices + (vertices.new_tensor([0.0, 0.0, DISTANCE]) - (low + high) / 2)[:, None]
    # Fists are brought a little nearer, but not as large as open hands.
    extent = (high - low)[:, :2].amax(dim=1).clamp(min=0.165) * 1.12
    focal = (size * DISTANCE / extent)[:, None].expand(-1, 2)
    return vertices, PinholeCamera(focal, torch.full_like(focal, size / 2))


def draw(poses: Tensor, around: float, is_right: bool, texture: Tensor, size: int) -> list[Tensor]:
    """Lit hands on white, a picture (3, size, size) a pose, drawn twice as large and averaged down."""
    surface = HandSurface.mano() if is_right else HandSurface.mano().mirrored()
    vertices, camera = place(poses, around, is_right, 2 * size)
    renderer = TexturedHandRenderer(surface.closed_wrist(), image_size=2 * size)
    rendering = renderer(vertices, camera, lit(surface, vertices, texture))
    return list(avg_pool2d(overlay(vertices.new_ones(1, 3, 1, 1), rendering), 2))


@torch.no_grad()
def sheet(size: int = 256, texture_size: int = 512, seed: int = 0) -> Tensor:
    """One image (3, height, width): a row a view, a column a kind of pose."""
    kinds = POSE_KINDS[:-1]  # no gesture: every draw is another
    generator = torch.Generator().manual_seed(seed)
    poses = torch.cat([sample_pose(1, generator, kind=kind) for kind in kinds])
    poses[:, 0] = 0.0
    fair, deep, checker = skin(texture_size), skin(texture_size, DEEP), uv_checker(texture_size)
    views = {
        "right, palm": (15.0, True, fair),
        "right, back": (200.0, True, fair),
        "left, palm": (25.0, False, deep),
        "left, back": (165.0, False, deep),
        "right, uv checker": (40.0, True, checker),
    }
    return contact_sheet([draw(poses, *view, size) for view in views.values()], tuple(views), kinds)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    print(save_png(folder / "contact_sheet.png", sheet()))


if __name__ == "__main__":
    main()

"""The pictures of docs/hand.md: every shape parameter at -2, 0 and +2, sampled poses, joint axes. Needs pillow.

python tools/pictures/shape_pictures.py docs/images
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from picture_light import lit
from texalign import HandSurface, PinholeCamera, TexturedHandRenderer
from texalign.hand import (
    JOINT_NAMES,
    POSE_JOINT_NAMES,
    POSE_KINDS,
    SHAPE_NAMES,
    HandModel,
    rotation_matrices,
    rotation_vectors,
    sample_pose,
)

SKIN = torch.tensor([0.93, 0.74, 0.64])[:, None, None]
DISTANCE = 4.0  # metres; far away, so that sizes compare
WRIST_BELOW = torch.tensor([0.012, -0.092, 0.0])  # the middle of pictures of upright hands, metres from the wrist
# Fingers up, palm to the camera: what ``sample_pose`` turns its hands from.
UPRIGHT = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def draw(vertices: Tensor, size: int, width: float, middle: Tensor | None = None) -> list[Image.Image]:
    """Square pictures of hands (B, 778, 3) in OpenCV axes, ``width`` metres wide, about ``middle`` or each its own."""
    surface = HandSurface.mano()
    if middle is None:
        middle = (vertices.amax(1, keepdim=True) + vertices.amin(1, keepdim=True)) / 2
    placed = vertices - middle + torch.tensor([0.0, 0.0, DISTANCE])
    focal = torch.full((len(vertices), 2), 2 * size * DISTANCE / width)
    camera = PinholeCamera(focal, torch.full_like(focal, float(size)))
    renderer = TexturedHandRenderer(surface, image_size=2 * size, backend="torch")
    rendering = renderer(placed, camera, lit(surface, placed, SKIN.expand(1, 3, 256, 256)))
    image = torch.nn.functional.avg_pool2d(rendering.image + (1 - rendering.coverage), 2)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def labelled(pictures: list[Image.Image], columns: int, labels: list[str]) -> Image.Image:
    """Pictures in rows, each under its label."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * (height + 18)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels)):
        left, top = number % columns * width, number // columns * (height + 18)
        sheet.paste(picture, (left, top + 18))
        pen.text((left + width / 2, top + 9), label, fill="black", anchor="mm")
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """As a PNG of 64 colours, a third of the size."""
    picture.quantize(64).save(path, optimize=True)


def upright_pose(count: int, turned: float = 0.0) -> Tensor:
    """Flat hands (count, 16, 3), turned about their fingers by an angle in degrees."""
    pose = torch.zeros(count, 16, 3)
    turn = rotation_matrices(torch.deg2rad(torch.tensor([0.0, turned, 0.0])))
    pose[:, 0] = rotation_vectors(turn @ UPRIGHT)
    return pose


def main() -> None:
    """Write the pictures into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = HandModel()
    steps = torch.tensor([-2.0, 0.0, 2.0])
    for number, name in enumerate(SHAPE_NAMES):
        betas = torch.nn.functional.one_hot(torch.tensor([number] * 3), 10) * steps[:, None]
        views = [model(upright_pose(3), betas).vertices]
        if "thickness" in name:  # also from the side
            views.append(model(upright_pose(3, 90.0), betas).vertices)
        pictures = draw(torch.cat(views), 200, 0.24, WRIST_BELOW)
        labels = [f"{name} {step:+.0f}" if step else "template" for step in steps.tolist()] * len(views)
        save(labelled(pictures, 3 * len(views), labels), folder / f"hand_{name}.png")
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([sample_pose(6, generator, kind) for kind in POSE_KINDS])
    labels = [kind for kind in POSE_KINDS for _ in range(6)]
    save(labelled(draw(model(rows).vertices, 150, 0.23), 6, labels), folder / "hand_pose_kinds.png")
    mixed = draw(model(sample_pose(32, generator)).vertices, 150, 0.23)
    save(labelled(mixed, 8, [""] * 32), folder / "hand_sampled_poses.png")
    axes_pictures(model, folder)


def axes_pictures(model: HandModel, folder: Path) -> None:
    """The axes on the template, and what each angle of a knuckle and of the thumb's base does at either limit."""
    size, width, view = 440, 0.22, upright_pose(1)
    hand = model(view)
    turn = rotation_matrices(view[:, 0])[0]
    joints = hand.joints[0, [JOINT_NAMES.index(name) for name in POSE_JOINT_NAMES[1:]]] - WRIST_BELOW
    picture = draw(hand.vertices, size, width, WRIST_BELOW)[0]
    pen = ImageDraw.Draw(picture)
    for row, color in ((2, "blue"), (1, "green"), (0, "red")):
        ends = joints + torch.stack([torch.zeros(15, 3), 0.012 * model.joint_axes[:, row] @ turn.T])
        for start, end in (ends[..., :2] * size / width + size / 2).transpose(0, 1).tolist():
            pen.line([*start, *end], fill=color, width=3)
    save(picture, folder / "hand_joint_axes.png")
    rows, labels = [], []
    for joint, name in ((1, "index_1"), (13, "thumb_1")):
        for column, angle in enumerate(("flexion", "abduction", "twist")):
            for limit in model.angle_limits[joint - 1, column].tolist():
                rows.append(torch.zeros(15, 3))
                rows[-1][joint - 1, column] = limit
                labels.append(f"{name} {angle} {math.degrees(limit):+.0f}")
    pose = model.pose_from_angles(torch.stack(rows), upright_pose(12, -50.0)[:, 0])
    save(labelled(draw(model(pose).vertices, 170, 0.22), 6, labels), folder / "hand_joint_limits.png")


if __name__ == "__main__":
    main()

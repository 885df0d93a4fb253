"""The animation of docs/your-photographs.md: five frames of a generated video, aligned with one shared texture.

python tools/pictures/video_gif.py                   # docs/images/video.gif, half a minute. Needs pillow
python tools/pictures/video_gif.py --output FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import texalign as ta
from picture_scene import DEPTH, FOCAL, SIZE, photograph
from texalign.hand import (
    FINGERS_UP,
    Hand,
    HandModel,
    HandParameters,
    disturbed,
    keypoint_objective,
    parameters_of_pose,
    pose_hand,
    refine,
    rotation_matrices,
    rotation_vectors,
    sample_pose,
)
from texalign.viz import contact_sheet, outline, overlay, save_gif, texture_picture

FRAMES, STEPS, SMALL, CELL = 5, 60, 128, 168
SHOWN = (0, 2, 4, 6, 9, 12, 16, 21, 28, 38, 50, STEPS)


def video(model: HandModel) -> tuple[HandParameters, ta.PinholeCamera, Tensor]:
    """A hand that turns from one side to the other and bends its fingers: parameters, cameras, (5, 3, 256, 256)."""
    share = torch.linspace(-1, 1, FRAMES)
    pose = sample_pose(1, torch.Generator().manual_seed(3), kind="spread").repeat(FRAMES, 1, 1)
    zero = torch.zeros(FRAMES)
    turn = torch.stack([zero + 0.1, 0.8 * share, 0.15 * share], dim=1)
    pose[:, 0] = rotation_vectors(rotation_matrices(turn) @ torch.tensor(FINGERS_UP))
    place = torch.stack([0.012 * share, zero + 0.07, zero + DEPTH], dim=1)
    true = parameters_of_pose(model, pose, place)
    true.angles[:, :12, 0] += 0.25 * (1 + share)[:, None]
    camera = ta.PinholeCamera(torch.full((FRAMES, 2), FOCAL), torch.full((FRAMES, 2), SIZE / 2))
    with torch.no_grad():
        vertices = pose_hand(model, true).vertices
        surface = ta.HandSurface.mano()
        images = [photograph(surface, one[None], camera[torch.tensor([0])])[0] for one in vertices]
    return true, camera, torch.cat(images)


def main() -> None:
    """Align the frames, draw some of the steps, write the animation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="FOLDER")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    model = HandModel()
    true, large_camera, large = video(model)
    shrink = SMALL / SIZE
    image = interpolate(large, size=SMALL, mode="area")
    camera = large_camera.cropped((0.0, 0.0), shrink)
    generator = torch.Generator().manual_seed(1)
    joints = camera.project(pose_hand(model, true).joints)
    keypoints = joints + 2 * torch.randn(joints.shape, generator=generator)
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SMALL, reduction="none")
    renderer = ta.TexturedHandRenderer(loss_fn.renderer.surface, CELL)
    picture, seen_by = interpolate(large, size=CELL, mode="area"), large_camera.cropped((0.0, 0.0), CELL / SIZE)
    shared = torch.zeros(FRAMES, dtype=torch.int64)
    pictures: list[Tensor] = []

    def texture_loss(hand: Hand) -> Tensor:
        return 4 * loss_fn(hand.vertices, camera, image, group=shared, generator=generator)

    def draw(step: int, parameters: HandParameters, hand: Hand) -> None:
        if step not in SHOWN:
            return
        with torch.no_grad():
            same = torch.Generator().manual_seed(0)
            seen = loss_fn(hand.vertices, camera, image, group=shared, generator=same, return_details=True)
            details = seen[1]
            rendering = renderer(hand.vertices, seen_by, details.texture)
            rows = [[*outline(picture, rendering.coverage)], [*overlay(0.3 * picture, rendering)]]
            rows[0].append(texture_picture(details.texture[:1], renderer.surface, CELL)[0])
        columns = [*(f"frame {number}" for number in range(1, FRAMES + 1)), "the shared texture"]
        pictures.append(contact_sheet(rows, column_labels=columns))

    objective = keypoint_objective(model, camera, keypoints, SMALL / 16, texture_loss)
    end = refine(model, disturbed(true, generator), objective, STEPS, progress=draw)
    draw(STEPS, end, pose_hand(model, end))
    milliseconds = [1200, *[180] * (len(SHOWN) - 2), 2500]
    path = save_gif(folder / "video.gif", torch.stack(pictures), milliseconds)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

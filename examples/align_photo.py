"""Fit the bundled hand to one photograph with 2D keypoints, then pull it over its pixels with the texture loss.

python examples/align_photo.py PHOTO KEYPOINTS.json [--output aligned.png] [--vertices hand.npz]

KEYPOINTS.json:

    {"hand": "left", "keypoints": [[412.0, 655.5], [389.1, null], …], "focal": 2900.0}

- ``hand``: ``"left"`` or ``"right"``.
- ``keypoints``: 21 points [x, y] or [x, y, confidence] in the order of MediaPipe: wrist, then thumb to little finger,
  each from its base to its tip. Pixels of the upright photograph, counted from the first one's centre at (0, 0). A
  point with a ``null`` in it, of confidence 0 or at (0, 0) is missing; docs/photographs.md says all that is taken.
- ``focal``: pixels, optional. Without it 0.9 of the photograph's longer side, as phones and webcams have. The hand's
  distance follows it; its pose hardly does.

The picture shows the photograph's crop with its keypoints, the fit to the keypoints, the fit with the texture loss, and
the texture prior's idea of the whole hand. hand.npz holds ``vertices`` (778, 3) and ``joints`` (21, 3), metres, camera
frame, of the hand as it is (left or right), ``start_vertices`` and ``start_joints`` before the texture loss, ``focal``
and ``principal`` in pixels of the photograph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import texalign as ta
from texalign import viz
from texalign.hand import HandModel, fit_to_keypoints, keypoint_objective, pose_hand, refine
from texalign.photographs import read_image, read_keypoints

SIZE, STEPS, MARGIN = 192, 60, 1.6
KEYPOINT_SCALE, TEXTURE_WEIGHT = SIZE / 16, 2.0


def main() -> None:
    """Fit, print, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("keypoints", type=Path)
    parser.add_argument("--output", type=Path, default=Path("aligned.png"), help="the picture")
    parser.add_argument("--vertices", type=Path, help="an .npz for the mesh")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        photo = read_image(arguments.photo)
        height, width = photo.shape[-2:]
        found = read_keypoints(arguments.keypoints, (height, width))
        if found.is_right is None:
            raise ValueError(f'expected {{"hand": "left", "keypoints": …}} in {arguments.keypoints}, got no hand')
    except (OSError, ValueError) as error:
        raise SystemExit(f"align_photo: {error}") from error

    # A square around the keypoints, and the camera that sees it; what lies beyond the photograph is black.
    known = found.points[found.confidence > 0]
    low, high = known.amin(dim=0), known.amax(dim=0)
    side = max(16, round(MARGIN * float((high - low).max())))
    left, top = (round(float(middle) - side / 2) for middle in (low + high) / 2)
    crop = functional.pad(photo, (-left, left + side - width, -top, top + side - height))
    image = functional.interpolate(crop[None], size=SIZE, mode="area")
    scale, corner = SIZE / side, torch.tensor([float(left), float(top)])
    focal = found.focal or 0.9 * max(width, height)
    whole = ta.PinholeCamera(torch.full((1, 2), focal), torch.tensor([[width / 2, height / 2]]))
    camera = whole.cropped(corner, torch.tensor(scale))
    keypoints = (found.points[None] - corner) * scale

    # Fits are made of right hands: a left one is looked at in a mirror.
    is_right = found.is_right
    if not is_right:
        image, camera = image.flip(-1), camera.mirrored(SIZE)
        keypoints = torch.stack([SIZE - keypoints[..., 0], keypoints[..., 1]], dim=-1)

    model = HandModel()
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE, reduction="none")
    draws = torch.Generator().manual_seed(0)
    start = fit_to_keypoints(model, camera, keypoints, KEYPOINT_SCALE)
    objective = keypoint_objective(
        model,
        camera,
        keypoints,
        KEYPOINT_SCALE,
        lambda hand: TEXTURE_WEIGHT * loss_fn(hand.vertices, camera, image, generator=draws),
    )
    end = refine(model, start, objective, STEPS)

    pictures, fits = [viz.mark(image, keypoints)], {}
    with torch.no_grad():
        for name, parameters in (("keypoints only", start), ("keypoints + texture", end)):
            hand = fits[name] = pose_hand(model, parameters)
            loss, details = loss_fn(hand.vertices, camera, image, generator=draws, return_details=True)
            distance = (camera.project(hand.joints) - keypoints).norm(dim=-1).nanmean() / scale
            print(
                f"{name}: {distance:.1f} px from joints to keypoints, texture loss {loss.item():.3f}, "
                f"{hand.joints[0, 0, 2]:.2f} m away"
            )
            pictures.append(viz.outline(image, details.coverage))
        pictures.append(viz.overlay(0.3 * image, details.rendering))
    cells = [picture[0] if is_right else picture[0].flip(-1) for picture in pictures]
    labels = ("keypoints", *fits, "texture")
    print(f"picture: {viz.save_png(arguments.output, viz.contact_sheet([cells], column_labels=labels))}")
    if arguments.vertices:
        mirror = np.array([1.0 if is_right else -1.0, 1.0, 1.0], dtype=np.float32)
        before, after = fits.values()
        np.savez(
            arguments.vertices,
            vertices=after.vertices[0].numpy() * mirror,
            joints=after.joints[0].numpy() * mirror,
            start_vertices=before.vertices[0].numpy() * mirror,
            start_joints=before.joints[0].numpy() * mirror,
            focal=whole.focal[0].numpy(),
            principal=whole.principal[0].numpy(),
        )
        print(f"mesh: {arguments.vertices}")


if __name__ == "__main__":
    main()

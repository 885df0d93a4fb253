"""The demo's synthetic hands: what is known of them, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign import synthetic
from texalign.camera import PinholeCamera
from texalign.hand import HandModel, HandParameters, KnownShape, disturbed, parameters_of_pose
from texalign.photographs import Photographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface

# A share of the image's side: 2 px at 128.
KEYPOINT_NOISE = 1 / 64
# Hands are taken that are in sight for so large a share, and no further away, metres.
VISIBLE, FARTHEST = 0.7, 1.5
# No training draws its images from seeds like these.
SEED_OFFSET = 2**52


def synthetic_hands(count: int, image_size: int, seed: int) -> tuple[Photographs, HandModel, HandParameters]:
    """Unseen right hands with noisy keypoints and all truth, the model in their shapes, and the misplaced start.

    Hands are passed over of which less than 70 % is in the image and not hidden, and those more than 1.5 m away:
    nothing in an image tells their depth. The mask is that of the whole hand, hidden or not.
    """
    generator = torch.Generator().manual_seed((SEED_OFFSET + seed) % 2**63)
    renderer = TexturedHandRenderer(HandSurface.mano(), image_size)
    parts: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in parts) < count:
        batch = synthetic.generate(2 * count, image_size, generator, left_share=0.0)
        mask = renderer(batch.vertices, batch.camera, batch.image.new_ones(1, 3, 1, 1)).coverage
        in_sight = batch.mask.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1)
        pixels = batch.camera.project(batch.vertices)
        in_frame = ((pixels >= 0) & (pixels <= image_size)).all(dim=2).float().mean(dim=1)
        good = (in_sight * in_frame >= VISIBLE) & (batch.translation[:, 2] < FARTHEST)
        found = (batch.image, mask, batch.vertices, batch.joints, batch.camera.focal, batch.camera.principal)
        parts.append(tuple(tensor[good] for tensor in (*found, batch.pose, batch.betas, batch.translation)))
    image, mask, vertices, joints, focal, principal, pose, betas, translation = (
        torch.cat(tensors)[:count] for tensors in zip(*parts)
    )
    camera = PinholeCamera(focal, principal)
    joints_image = camera.project(joints)
    noise = KEYPOINT_NOISE * image_size * torch.randn(joints_image.shape, generator=generator)
    hands = Photographs(tuple(range(count)), image, camera, joints_image + noise, mask, joints, joints_image, vertices)
    model = KnownShape(betas)
    return hands, model, disturbed(parameters_of_pose(model, pose, translation), generator)

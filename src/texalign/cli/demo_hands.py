"""The demo's generated hands: what is known of them, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign import synthetic
from texalign.camera import PinholeCamera
from texalign.hand import HandModel, HandParameters, KnownShape, disturbed, parameters_of_pose
from texalign.photographs import Photographs
from texalign.render import TexturedHandRenderer
from texalign.surface import HandSurface
from texalign.synthetic import SyntheticBatch

# A share of the image's side: 2 px at 128.
KEYPOINT_NOISE = 1 / 64
# Hands are taken that are in sight for so large a share, fill so much of the image's side, and are no further away, m.
VISIBLE, FILL, FARTHEST = 0.75, 0.5, 1.5
# Of the image's side: a hand that is nearer to the border may be cut off.
MARGIN = 0.02
# No training draws its images from seeds like these.
SEED_OFFSET = 2**52
_CHUNK = 16


def synthetic_hands(count: int, image_size: int, seed: int) -> tuple[Photographs, HandModel, HandParameters]:
    """Unseen right hands with noisy keypoints and all truth, the model in their shapes, and the misplaced start.

    Taken are hands that lie in the image as a whole, at least 75 % of them not hidden, that look like natural skin and
    are neither small nor more than 1.5 m away: nothing in an image tells their depth. The mask is that of the whole
    hand, hidden or not.

    Example:
        >>> hands, model, start = synthetic_hands(2, image_size=64, seed=0)
        >>> hands.image.shape, start.translation.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 3]))
    """
    generator = torch.Generator().manual_seed((SEED_OFFSET + seed) % 2**63)
    renderer = TexturedHandRenderer(HandSurface.mano(), image_size)
    parts: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in parts) < count:
        batch = synthetic.generate(_CHUNK, image_size, generator, left_share=0.0)
        camera, posed = batch.camera, (batch.pose, batch.betas, batch.translation)
        found = (batch.image, batch.mask, batch.vertices, batch.joints, camera.focal, camera.principal, *posed)
        good = _well_placed(batch) & _looks_like_skin(batch.image, batch.mask)
        image, seen, vertices, *others = (tensor[good] for tensor in found)
        if not len(image):
            continue
        mask = renderer(vertices, camera[good.nonzero()[:, 0]], image.new_ones(1, 3, 1, 1)).coverage
        bare = seen.sum(dim=(1, 2, 3)) >= VISIBLE * mask.sum(dim=(1, 2, 3)).clamp(min=1)
        parts.append(tuple(tensor[bare] for tensor in (image, mask, vertices, *others)))
    image, mask, vertices, joints, focal, principal, pose, betas, translation = (
        torch.cat(tensors)[:count] for tensors in zip(*parts)
    )
    camera = PinholeCamera(focal, principal)
    joints_image = camera.project(joints)
    noise = KEYPOINT_NOISE * image_size * torch.randn(joints_image.shape, generator=generator)
    hands = Photographs(tuple(range(count)), image, camera, joints_image + noise, mask, joints, joints_image, vertices)
    model = KnownShape(betas)
    return hands, model, disturbed(parameters_of_pose(model, pose, translation), generator)


def _well_placed(batch: SyntheticBatch) -> Tensor:
    """(B,) bool: near, large, and whole in the image."""
    pixels = batch.camera.project(batch.vertices) / batch.image.shape[-1]
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)
    framed = (low > MARGIN).all(dim=1) & (high < 1 - MARGIN).all(dim=1) & ((high - low).amax(dim=1) > FILL)
    return framed & (batch.translation[:, 2] < FARTHEST)


def _looks_like_skin(image: Tensor, mask: Tensor) -> Tensor:
    """(B,) bool: the mean colour is reddish, neither dark nor washed out nor saturated. Light and camera count, too."""
    red, green, blue = ((image * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp(min=1)).unbind(dim=1)
    return (red > 1.1 * green) & (green > 1.02 * blue) & (red < 2.5 * blue) & (red > 0.35) & (red < 0.9)

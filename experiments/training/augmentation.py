"""Heavy augmentation: turned, resized, moved, recoloured, occluded. Labels, camera and padding follow."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

import texalign as ta
from texalign._internal import Draws, per_sample
from training.samples import Batch

# Standard deviation of the turn, radians; bounds of the scale and of the shift, shares of the image's side.
TURN, SCALE, SHIFT = math.radians(25), (0.75, 1.25), 0.08
# Exposure, and beside it each channel for itself; contrast.
GAIN, CHANNEL, GAMMA = (0.7, 1.35), (0.85, 1.18), (0.75, 1.33)
OCCLUDED_SHARE, MOST_OCCLUDERS, OCCLUDER_SIZE = 0.5, 2, (0.06, 0.2)


def augmented(batch: Batch, neighbours: int, generator: torch.Generator) -> Batch:
    """All of it. Images of one group keep a common colour, as frames of one video have.

    Args:
        batch: as it is.
        neighbours: rows that follow each other and are one group; divides B.
        generator: on the CPU: the same draws on every device.
    """
    device = batch.image.device
    draws = Draws(len(batch), generator, device)
    light = Draws(len(batch), generator, device, repeats=neighbours)
    moved = turned(batch, TURN * draws.normal().clamp(-2.5, 2.5), draws.log_uniform(low=SCALE[0], high=SCALE[1]), draws)
    moved = replace(moved, image=recoloured(moved.image, light) * moved.valid)
    return occluded(moved, draws)


def turned(batch: Batch, angle: Tensor, scale: Tensor, draws: Draws) -> Batch:
    """The image plane turned by angles (B,) and resized by scales (B,) about its middle, then shifted.

    A turn of the image is a turn of the camera about its axis, wherever in the image its centre lies: joints turn about
    the z axis, and the principal point moves with the picture. It is exact for square pixels.
    """
    size = batch.image.shape[-1]
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    middle = turn.new_full((2,), size / 2)
    shift = SHIFT * size * (2 * draws.uniform(2) - 1)

    def there(pixels: Tensor) -> Tensor:
        return scale[:, None, None] * ((pixels - middle) @ turn.transpose(1, 2)) + (middle + shift)[:, None]

    # Where each pixel of the new image comes from, with the image from -1 to 1.
    back = turn.transpose(1, 2) / scale[:, None, None]
    origin = -(back @ (2 * shift / size)[..., None])
    grid = functional.affine_grid(torch.cat([back, origin], dim=2), list(batch.image.shape), align_corners=False)
    planes = torch.cat([batch.image, batch.mask, batch.free, batch.valid], dim=1)
    image, mask, free, valid = functional.grid_sample(planes, grid, align_corners=False).split((3, 1, 1, 1), dim=1)
    space = torch.eye(3, device=turn.device).repeat(len(turn), 1, 1)
    space[:, :2, :2] = turn
    camera = ta.PinholeCamera(batch.camera.focal * scale[:, None], there(batch.camera.principal[:, None])[:, 0])
    vertices = None if batch.vertices is None else batch.vertices @ space.transpose(1, 2)
    joints, keypoints = batch.joints @ space.transpose(1, 2), there(batch.keypoints)
    # A pixel of which a part was sampled beyond the image's edge is darker than what it shows.
    valid = (valid > 0.99).to(image.dtype)
    detections = None if batch.detections is None else there(batch.detections)
    return Batch(image, valid, mask, free * valid, camera, keypoints, joints, vertices, batch.group, detections)


def recoloured(image: Tensor, light: Draws) -> Tensor:
    """Another exposure, white balance and contrast."""
    gain = light.log_uniform(1, low=GAIN[0], high=GAIN[1]) * light.log_uniform(3, low=CHANNEL[0], high=CHANNEL[1])
    gamma = per_sample(light.log_uniform(low=GAMMA[0], high=GAMMA[1]), 4)
    return (gain[:, :, None, None] * image.clamp(min=1e-4) ** gamma).clamp(0, 1)


def occluded(batch: Batch, draws: Draws) -> Batch:
    """In half of the images up to two ellipses or slabs, plain or cut from another image, over random joints.

    What is pasted over a photograph is known, and is no more of it than padding: it is taken out of `valid` too.
    """
    image, size = batch.image, batch.image.shape[-1]
    centre = torch.arange(size, device=image.device) + 0.5
    pixel = torch.stack([centre.expand(size, size), centre[:, None].expand(size, size)], dim=-1)
    joint = batch.camera.project(batch.joints)
    free, shown = batch.free, torch.ones_like(batch.free)
    chosen = draws.chance(OCCLUDED_SHARE)
    for number in range(MOST_OCCLUDERS):
        which = draws.integers(1, high=21)[..., None].expand(-1, 1, 2)
        at = joint.gather(1, which) + 0.08 * size * draws.normal(1, 2)
        angle = math.pi * draws.uniform()
        offset = pixel[None] - at[:, None]
        along = offset[..., 0] * per_sample(angle.cos(), 3) + offset[..., 1] * per_sample(angle.sin(), 3)
        across = offset[..., 1] * per_sample(angle.cos(), 3) - offset[..., 0] * per_sample(angle.sin(), 3)
        half = size * draws.log_uniform(2, low=OCCLUDER_SIZE[0], high=OCCLUDER_SIZE[1])
        u, v = along / per_sample(half[:, 0], 3), across / per_sample(half[:, 1], 3)
        slab = per_sample(draws.chance(0.5), 3)
        reach = torch.lerp((u.square() + v.square()).sqrt(), torch.maximum(u.abs(), v.abs()), slab)
        present = chosen * (draws.chance(0.5) if number else 1)
        # A soft edge of a pixel.
        alpha = ((1 - reach) * half.amin(dim=1)[:, None, None] + 0.5).clamp(0, 1) * per_sample(present, 3)
        shade = 1 + 0.3 * u.clamp(-1, 1)[:, None]
        plain = (draws.uniform(3)[:, :, None, None] * shade).clamp(0, 1)
        cut = image.roll((1, size // 3), dims=(0, 3))
        paint = torch.lerp(plain, cut, per_sample(draws.chance(0.4), 4))
        alpha = alpha[:, None]
        image, free, shown = torch.lerp(image, paint, alpha), free * (1 - alpha), shown * (1 - alpha)
    return replace(batch, image=image * batch.valid, free=free, valid=batch.valid * (shown > 0.99))

"""Training batches of synthetic hands, as HaMeR's loader makes them from photographs, and the truth about them.

The same keys, shapes and dtypes as `ImageDataset.process_webdataset_tar_item` gives after PyTorch's default collation,
and the same treatment: crop, augmentation, mirrored left hands, black padding, normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from hamer_stand_in import FOCAL, SIZE, Batch, StandInMANO, outputs
from torch import Tensor
from torch.nn.functional import grid_sample

import texalign as ta
from texalign import synthetic
from texalign.adapters import IMAGENET_MEAN, IMAGENET_STD
from texalign.hand import rotation_matrices, rotation_vectors, sample_pose


@dataclass(frozen=True, eq=False)
class Photographs:
    """Annotated pictures of N hands, left ones not mirrored, before any crop. Integer coordinates are pixel centres.

    Attributes:
        image: (N, 3, H, W) in [0, 255], whole numbers.
        mask: (N, H, W) bool: visible hand.
        keypoints_2d: (N, 21, 3) pixels and a confidence.
        keypoints_3d: (N, 21, 4) metres in the camera's frame and a confidence.
        pose: (N, 48) axis-angle of a MANO hand of the same side.
        betas: (N, 10).
        is_right: (N,) bool.
    """

    image: Tensor
    mask: Tensor
    keypoints_2d: Tensor
    keypoints_3d: Tensor
    pose: Tensor
    betas: Tensor
    is_right: Tensor


@lru_cache(maxsize=16)
def photographs(count: int, seed: int, left_share: float = 0.5) -> Photographs:
    """Hands of `texalign.synthetic` in 256 × 256 pixels: hardly hidden, and such that HaMeR's far camera fits them.

    That leaves out those nearer than 4 m, those that point at the camera and those with joints outside the picture. A
    larger `count` adds hands to those of a smaller one.
    """
    generator, renderer = torch.Generator().manual_seed(seed), ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    found: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in found) < count:
        drawn = synthetic.generate(8, SIZE, generator, left_share=left_share)
        right = drawn.canonical()
        coverage = renderer(right.vertices, right.camera, right.texture).coverage
        pixels = drawn.camera.project(drawn.joints)
        low, high = drawn.joints[..., :2].aminmax(dim=1)
        shown = right.mask.sum((1, 2, 3)) > 0.95 * coverage.sum((1, 2, 3))
        inside = ((pixels > 0) & (pixels < SIZE)).flatten(1).all(dim=1)
        good = shown & inside & (drawn.translation[:, 2] > 4) & ((high - low).amax(dim=1) > 0.09)
        one = torch.ones(8, 21, 1)
        fields = (
            (255 * drawn.image).round(),
            drawn.mask[:, 0] > 0.5,
            torch.cat([pixels - 0.5, one], dim=2),
            torch.cat([drawn.joints, one], dim=2),
            _pose_of_side(drawn.pose.flatten(1), drawn.is_right),
            drawn.betas,
            drawn.is_right,
        )
        found.append(tuple(field[good] for field in fields))
    return Photographs(*(torch.cat(parts)[:count] for parts in zip(*found)))


def joint_batch(count: int = 2, seed: int = 0, **options: Any) -> Batch:
    """What `training_step` takes: a `training_batch` and a `mocap_batch`."""
    return {"img": training_batch(count, seed, **options), "mocap": mocap_batch(count, seed)}


def mocap_batch(count: int = 2, seed: int = 0) -> Batch:
    """Poses (2 B, 45) and betas (2 B, 10) as motion capture has them, of other hands than those in the images."""
    generator = torch.Generator().manual_seed(seed)
    hand_pose = sample_pose(2 * count, generator)[:, 1:].flatten(1).contiguous()
    return {"hand_pose": hand_pose, "betas": torch.randn(2 * count, 10, generator=generator)}


def training_batch(
    count: int = 2,
    seed: int = 0,
    left_share: float = 0.5,
    segmented: bool = True,
    augment: bool = True,
    box_scale: float = 1.5,
) -> Batch:
    """Crops of `photographs`, as the network is trained on them.

    Args:
        count: B.
        seed: of the hands and of their augmentation; the same seed gives the same batch.
        left_share: share of left hands. They come mirrored, as right ones, and nothing in the batch says so.
        segmented: False for photographs without a segmentation: `mask` is 1 wherever there is a photograph.
        augment: turn, scale and shift the crops and change their colours, within HaMeR's own ranges.
        box_scale: side of the square crops before augmentation, in larger sides of the keypoints' bounding boxes: the
            larger, the more padding.
    """
    photos = photographs(count, seed, left_share)
    box_center, box_size = boxes(photos, box_scale)
    shift, scale, angle, colour = _augmentation(count, seed if augment else None)
    right, width = _as_right_hands(photos), photos.mask.shape[2]
    middle = box_center + box_size[:, None] * shift
    middle[:, 0] = torch.where(photos.is_right, middle[:, 0], width - 1 - middle[:, 0])
    turn, crop = _crop_matrices(middle, box_size * scale, angle)

    mask = right.mask if segmented else torch.ones_like(right.mask)
    layers = _warped(torch.cat([right.image, 255.0 * mask[:, None]], dim=1), crop).round()
    mask = layers[:, 3] / 255
    mask[(mask < 0.5).flatten(1).all(dim=1)] = 1.0
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    keypoints_2d, keypoints_3d = right.keypoints_2d.clone(), right.keypoints_3d.clone()
    pixels = torch.cat([keypoints_2d[..., :2], torch.ones(count, 21, 1)], dim=2).double() @ crop.transpose(1, 2)
    keypoints_2d[..., :2] = pixels / SIZE - 0.5
    keypoints_3d[..., :3] @= turn.float().transpose(1, 2)
    orient = rotation_vectors(turn.float() @ rotation_matrices(right.pose[:, :3]))
    names = ("global_orient", "hand_pose", "betas")
    return {
        "img": ((layers[:, :3] * colour[:, :, None, None]).clamp(0, 255) - mean) / std,
        "mask": mask,
        "keypoints_2d": keypoints_2d,
        "keypoints_3d": keypoints_3d,
        "orig_keypoints_2d": photos.keypoints_2d.clone(),
        "box_center": box_center,
        "box_size": box_size,
        "img_size": torch.tensor([[width, photos.mask.shape[1]]] * count, dtype=torch.float64),
        "mano_params": dict(zip(names, (orient, right.pose[:, 3:].clone(), right.betas.clone()))),
        "has_mano_params": {name: torch.ones(count, dtype=torch.float64) for name in names},
        "mano_params_is_axis_angle": {name: torch.full((count,), name != "betas") for name in names},
        "_scale": (box_size / 200)[:, None].repeat(1, 2),
        "_trans": crop,
        "imgname": [f"hand_{seed}_{number}" for number in range(count)],
    }


def boxes(photos: Photographs, box_scale: float) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) and sides (N,) of square boxes about the hands, pixels, float64."""
    low, high = photos.keypoints_2d[..., :2].double().aminmax(dim=1)
    return (low + high) / 2, box_scale * (high - low).amax(dim=1)


def _augmentation(count: int, seed: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shift (N, 2) in boxes, scale (N,), angle (N,) in radians, gain (N, 3) of the colours; None changes nothing."""
    if seed is None:
        one = torch.ones(count, dtype=torch.float64)
        return torch.zeros(count, 2), one, 0 * one, torch.ones(count, 3)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    chance = torch.rand(count, 4, generator=generator)
    angle = torch.deg2rad(30 * normal[:, 3].clamp(-2, 2)) * (chance[:, 3] < 0.6)
    return 0.02 * normal[:, :2].clamp(-1, 1), 1 + 0.3 * normal[:, 2].clamp(-1, 1), angle, 0.8 + 0.4 * chance[:, :3]


def _as_right_hands(photos: Photographs) -> Photographs:
    """Left hands in a mirror, as HaMeR sees them: pixels, 2D and 3D keypoints and pose."""
    left = ~photos.is_right
    keypoints_2d, keypoints_3d = photos.keypoints_2d.clone(), photos.keypoints_3d.clone()
    keypoints_2d[left, :, 0] = photos.mask.shape[2] - 1 - keypoints_2d[left, :, 0]
    keypoints_3d[left, :, 0] *= -1
    return Photographs(
        image=torch.where(left[:, None, None, None], photos.image.flip(3), photos.image),
        mask=torch.where(left[:, None, None], photos.mask.flip(2), photos.mask),
        keypoints_2d=keypoints_2d,
        keypoints_3d=keypoints_3d,
        pose=_pose_of_side(photos.pose, photos.is_right),
        betas=photos.betas,
        is_right=torch.ones_like(photos.is_right),
    )


def _pose_of_side(pose: Tensor, is_right: Tensor) -> Tensor:
    """Poses (N, 48) of right hands → of the hands' own sides, or back: a mirror turns round y and z."""
    return pose * torch.where(is_right[:, None], 1.0, torch.tensor([1.0, -1.0, -1.0]).repeat(16))


def _crop_matrices(middle: Tensor, side: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (N, 3, 3) about the viewing axis, and affine maps (N, 2, 3) from photograph to crop, float64.

    The middle of the box comes to lie at (128, 128), the centre of a pixel: half a pixel off the middle of the crop.
    """
    zero = torch.zeros_like(angle)
    turn = rotation_matrices(torch.stack([zero, zero, -angle], dim=1))
    linear = turn[:, :2, :2] * (SIZE / side)[:, None, None]
    return turn, torch.cat([linear, SIZE / 2 - linear @ middle[..., None]], dim=2)


def _warped(image: Tensor, crop: Tensor) -> Tensor:
    """Crops (N, C, 256, 256) of images (N, C, H, W), bilinear, 0 beyond the image; indices are pixel centres."""
    line = torch.arange(SIZE, dtype=torch.float64)
    row, column = torch.meshgrid(line, line, indexing="ij")
    there = torch.stack([column.flatten(), row.flatten()])
    back = torch.linalg.solve(crop[:, :, :2], there - crop[:, :, 2:])  # (N, 2, 256²) indices of the image
    size = torch.tensor([image.shape[3], image.shape[2]], dtype=torch.float64)
    grid = (2 * back.transpose(1, 2) / (size - 1) - 1).unflatten(1, (SIZE, SIZE))
    return grid_sample(image, grid.to(image), padding_mode="zeros", align_corners=True)


def truth(batch: Batch) -> Batch:
    """What a network without error would output for a batch of the bundled hand (from this file's loader or HaMeR's).

    The camera is fitted to the keypoints: f (x + tx) = u (z + tz) is linear in the translation.
    """
    vectors = torch.cat([batch["mano_params"][name] for name in ("global_orient", "hand_pose")], dim=1)
    rotations, betas = rotation_matrices(vectors.unflatten(1, (16, 3))), batch["mano_params"]["betas"]
    mano = StandInMANO().to(betas.device)
    joints = mano(rotations[:, :1], rotations[:, 1:], betas).joints.double()
    known = batch["keypoints_2d"][..., 2:].double()
    pixels = SIZE * batch["keypoints_2d"][..., :2].double()
    ones = FOCAL * torch.ones_like(pixels[..., 0])
    columns = [torch.stack([ones, 0 * ones], 2), torch.stack([0 * ones, ones], 2), -pixels]
    system = torch.stack([(known * column).flatten(1) for column in columns], dim=2)
    target = (known * (pixels * joints[..., 2:] - FOCAL * joints[..., :2])).flatten(1)
    x, y, z = torch.linalg.lstsq(system, target[..., None]).solution.squeeze(2).float().unbind(dim=1)
    pred_cam = torch.stack([2 * FOCAL / (SIZE * z), x, y], dim=1)
    return outputs(mano, {"global_orient": rotations[:, :1], "hand_pose": rotations[:, 1:], "betas": betas}, pred_cam)

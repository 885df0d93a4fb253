"""Generated images with weak labels, made once, kept as bytes in a folder."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import texalign as ta
from texalign import synthetic
from texalign._internal import write_whole
from training.order import seeded
from training.samples import Samples, joined

VIEWS = 4
# A multiple of VIEWS, and images generated at a time.
CHUNK, AT_ONCE = 400, 40
# Pixels of a 128 pixel image.
LABEL_NOISE, OUTLIER, OUTLIER_SHARE = 2.0, 20.0, 0.1
# A joint lies inside the flesh: it is hidden by its own hand if the mesh before it is nearer by more. Metres.
FLESH = 0.02
TRAIN_SEED, TEST_SEED, TUNE_SEED, DETECTOR_SEED = 31_000, 32_000, 33_000, 34_000


def synthetic_samples(keep: Path, count: int, data_seed: int, label_seed: int, size: int = 128) -> Samples:
    """`count` right hands, four views of each, as `texalign.synthetic.generate` draws them.

    Things, other hands and padding hide three joints or more of a third of the hands; nothing is added to that. To
    train on, every other chunk shows gestures; those to test on do not. The keypoints to show are the true ones with
    another draw of the labels' noise.

    Args:
        keep: images of this seed are kept here, in chunks, and found again.
        count: a multiple of 4.
        data_seed: of the images.
        label_seed: of the labels' noise: 2 px, and 10 % outliers of 20 px.
        size: pixels.
    """
    if count % VIEWS:
        raise ValueError(f"synthetic_samples: expected a multiple of {VIEWS} images, got {count}")
    chunks = [
        chunk_of(keep / f"images {data_seed} {size}", data_seed, number, size) for number in range(-(-count // CHUNK))
    ]
    samples = joined(chunks).select(torch.arange(count))
    detections = labels(samples.keypoints, size / 128, DETECTOR_SEED + data_seed)
    return replace(samples, keypoints=labels(samples.keypoints, size / 128, label_seed), detections=detections)


def chunk_of(folder: Path, seed: int, number: int, size: int) -> Samples:
    """`CHUNK` images; keypoints are the true ones."""
    file = folder / f"{number}.pt"
    if not file.exists():
        generator = seeded(seed, number)
        gestures = seed == TRAIN_SEED and number % 2 == 1
        parts = [generated(AT_ONCE, size, generator, gestures) for _ in range(CHUNK // AT_ONCE)]
        samples = joined(parts)
        tensors = {**samples._tensors(), "focal": samples.camera.focal, "principal": samples.camera.principal}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(torch.save, tensors))
    tensors = torch.load(file, weights_only=True)
    camera = ta.PinholeCamera(tensors.pop("focal"), tensors.pop("principal"))
    return Samples(camera=camera, **tensors)


def generated(count: int, size: int, generator: torch.Generator, gestures: bool = False) -> Samples:
    """Images, and what is known about them."""
    batch = synthetic.generate(count, size, generator, left_share=0, views=VIEWS, gestures=gestures)
    image, mask, free = (
        (255 * picture).round().byte() for picture in (batch.image, batch.mask, 1 - batch.occluder_mask)
    )
    keypoints = batch.camera.project(batch.joints)
    return Samples(image, mask, free, batch.camera, keypoints, batch.joints, batch.vertices, hidden_joints(batch))


def hidden_joints(batch: synthetic.SyntheticBatch) -> Tensor:
    """(B, 21) bool: outside the image, under an occluder, or behind another part of the hand."""
    size = batch.image.shape[-1]
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), size)
    depth = renderer(batch.vertices, batch.camera, torch.ones(1, 3, 8, 8)).depth
    pixels = batch.camera.project(batch.joints)
    planes = torch.cat([batch.occluder_mask, depth], dim=1)
    read = functional.grid_sample(planes, (2 * pixels / size - 1)[:, None], mode="nearest", align_corners=False)
    occluder, before = read[:, 0, 0], read[:, 1, 0]
    outside = ((pixels < 0) | (pixels >= size)).any(dim=-1)
    behind = (before > 0) & (before < batch.joints[..., 2] - FLESH)
    return outside | (occluder > 0.5) | behind


def labels(true: Tensor, scale: float, seed: int) -> Tensor:
    """Noisy keypoints (N, 21, 2), pixels; the first n are the same however many there are."""
    noisy = []
    for number, part in enumerate(true.split(CHUNK)):
        generator = seeded(seed, 3, number)
        noise = scale * LABEL_NOISE * torch.randn(CHUNK, 21, 2, generator=generator)
        angle = 2 * math.pi * torch.rand(CHUNK, 21, generator=generator)
        far = scale * OUTLIER * torch.stack([angle.cos(), angle.sin()], dim=-1)
        outlier = torch.rand(CHUNK, 21, 1, generator=generator) < OUTLIER_SHARE
        noisy.append(part + torch.where(outlier, far, noise)[: len(part)])
    return torch.cat(noisy)

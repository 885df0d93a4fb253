"""A network that sees an image alone and is trained whole: the encoder of experiments/training, without keypoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from image_only.backbone import Crop, around, whole
from image_only.examples import SIZE
from image_only.network import Network, Said, Shown
from image_only.train import LARGEST_GRADIENT, Settings
from texalign._internal import Draws, write_whole
from texalign.hand import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss
from training.arms import MAP_WEIGHT, map_loss, space_error
from training.augmentation import SCALE, SHIFT, TURN, recoloured
from training.network import HandNetwork, Prediction
from training.order import seeded
from training.samples import Batch, Samples, as_they_are
from training.synthetic_samples import TRAIN_SEED, synthetic_samples

# Pixels of the crops that it sees, and how often it corrects itself.
CROP, CORRECTIONS = 96, 3
# Generated images that START is trained on. Its steps are of so many images; in this share of them maps alone learn.
IMAGES, STEPS, BATCH, MAPS_ALONE, RATE = 14_000, 5000, 16, 0.5, 1e-3
KEYPOINT_SCALE, SPACE_WEIGHT, WEIGHT_DECAY = 4.0, 2.0, 1e-3
# Generated hands are seen as photographs show them: turned so that fingers point up, give or take; the longer side of
# the joints' box is this share of the crop's.
ROLL, EXTENT = math.radians(40), (0.5, 0.85)
# Steps after which an unfinished START is kept.
KEPT_EVERY = 250
# On photographs. The anchors of the other network are replaced by generated images in every step.
ENCODER = Settings(epochs=7, rate=3e-4, head_rate=3e-4, world_anchor=0.0, depth_anchor=0.0, late=4 / 7)
# Generated images in every step, a multiple of their views, and how many they are drawn from.
REHEARSED, REHEARSED_FROM = 4, 4_000


class Encoder(nn.Module):
    """`HandNetwork` that is shown no keypoints: its corrections follow the places of its own maps."""

    def __init__(self) -> None:
        super().__init__()
        head = HandNetwork(CROP, guided=True, corrections=CORRECTIONS)
        self.head: HandNetwork = head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """All parameters."""
        return [{"params": list(self.head.parameters()), "rate": settings.rate}]

    def seen(self, image: Tensor, camera: ta.PinholeCamera) -> Prediction:
        """Hands in the cameras of images (B, 3, S, S)."""
        nowhere = image.new_full((len(image), 21, 2), torch.nan)
        found: Prediction = self.head(image.contiguous(memory_format=torch.channels_last), camera, nowhere)
        return found

    def forward(self, image: Tensor, crop: Crop, camera: ta.PinholeCamera, shares: Tensor | None = None) -> Said:
        """The hands.

        Args:
            image: (B, 3, S, S), pixels of the crops.
            crop: where they lie.
            camera: of the photographs.
            shares: None: all of a gradient passes.
        """
        if shares is not None:
            raise ValueError("Encoder: expected bending, orientation and depth of 1: all of a gradient passes")
        found = self.seen(image, crop.camera(camera, CROP))
        vertices, joints = (crop.image_directions(points) for points in (found.vertices, found.joints))
        prediction = found._replace(vertices=vertices, joints=joints)
        return Said(prediction, None, prediction)


@dataclass(frozen=True, eq=False)
class PhotographViews:
    """Whole photographs (N, 3, S, S): the hand fills them, as it fills generated images."""

    image: Tensor

    def select(self, rows: Tensor) -> PhotographViews:
        """Of some photographs."""
        return PhotographViews(self.image[rows])

    def plain(self, rows: Tensor) -> Shown:
        """Photographs as they are."""
        image = self.image[rows]
        crop = whole(image)
        return Shown(crop.cut(image, CROP), crop, torch.zeros_like(rows), None)

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Shown:
        """Turned, scaled, moved and with other colours, as `training.augmentation` does it."""
        image, draws = self.image[rows], Draws(len(rows), generator, torch.device("cpu"))
        turn = TURN * draws.normal().clamp(-2.5, 2.5)
        side = SIZE / draws.log_uniform(low=SCALE[0], high=SCALE[1])
        crop = Crop(SIZE / 2 + SHIFT * side[:, None] * (2 * draws.uniform(2) - 1), side, turn)
        return Shown(crop.cut(recoloured(image, draws), CROP), crop, torch.zeros_like(rows), None)


def generated_hands(samples: Samples, rows: Tensor, generator: torch.Generator) -> tuple[Batch, Shown]:
    """Some of them (B,), whole and in crops around the hands."""
    batch, draws = as_they_are(samples.select(rows)), Draws(len(rows), generator, torch.device("cpu"))
    marks = batch.camera.project(batch.joints)
    low, high = marks.amin(dim=1), marks.amax(dim=1)
    turn = around(marks).turn - ROLL * draws.normal().clamp(-2, 2)
    side = (high - low).amax(dim=1) / draws.uniform(low=EXTENT[0], high=EXTENT[1])
    crop = Crop((low + high) / 2 + SHIFT * side[:, None] * (2 * draws.uniform(2) - 1), side, turn)
    image = crop.cut(recoloured(batch.image, draws), CROP)
    return batch, Shown(image, crop, torch.zeros_like(rows), None)


def full_objective(encoder: Encoder, batch: Batch, shown: Shown, maps_alone: bool = False) -> Tensor:
    """A scalar: maps, and but for `maps_alone` keypoints, anatomy and points in space."""
    marks = batch.camera.project(batch.joints)
    shares = shown.crop.shares(marks)
    if maps_alone:
        maps = encoder.head.features(shown.image.contiguous(memory_format=torch.channels_last))[3]
        return MAP_WEIGHT * map_loss(maps[:, :21], shares, 1).mean()
    said = encoder(shown.image, shown.crop, batch.camera).prediction
    value = KEYPOINT_WEIGHT * keypoint_loss(said.joints, batch.camera, marks, KEYPOINT_SCALE)
    value = value + anatomy_loss(encoder.head.hand, said.parameters) + MAP_WEIGHT * map_loss(said.maps, shares, 1)
    return (value + SPACE_WEIGHT * space_error(said, batch)).mean()


class Rehearsal:
    """Generated images with full labels, beside photographs in every step, so that nothing is forgotten.

    Args:
        samples: of them.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __call__(self, network: Network, generator: torch.Generator) -> Tensor:
        """A scalar."""
        assert isinstance(network, Encoder)
        rows = torch.randint(len(self.samples), (REHEARSED,), generator=generator)
        return full_objective(network, *generated_hands(self.samples, rows, generator))


def train_start(encoder: Encoder, samples: Samples, keep: Path, steps: int = STEPS, stop: int = STEPS) -> None:
    """Train on generated images, maps alone at first, until a step; goes on from what a file keeps.

    Without maps that see the hand, what learns its pose is led by corrections that follow nothing.
    """
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    first, sums = 0, 0.0
    if keep.exists():
        state = torch.load(keep, weights_only=True)
        encoder.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, min(stop, steps)):
        share, generator = step / steps, seeded(0, step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 0.02 + 50 * share) * 0.5 * (1 + math.cos(math.pi * share))
        rows = torch.randint(len(samples), (BATCH,), generator=generator)
        value = full_objective(encoder, *generated_hands(samples, rows, generator), share < MAPS_ALONE)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        sums += value.item()
        if (step + 1) % KEPT_EVERY == 0:
            print(f"START: step {step + 1} of {steps}, {sums / KEPT_EVERY:.4g}", flush=True)
            state = {"network": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            keep.parent.mkdir(parents=True, exist_ok=True)
            write_whole(keep, partial(torch.save, state))
            sums = 0.0


def encoder_start(keep: Path) -> Encoder:
    """Trained on generated images with full labels, made once and kept in a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = Encoder()
    train_start(encoder, synthetic_samples(keep, IMAGES, TRAIN_SEED, 0, SIZE), keep / "encoder start.pt")
    return encoder

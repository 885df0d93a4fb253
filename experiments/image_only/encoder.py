"""A network that sees an image alone, trained whole: the image encoder of experiments/training, and a mesh head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import texalign as ta
from image_only.backbone import CROP as LANDMARK_CROP
from image_only.backbone import Crop, around, whole
from image_only.examples import SIZE
from image_only.mesh_head import MeshHead, train_once
from image_only.network import Network, Said, Shown
from image_only.train import LARGEST_GRADIENT, Settings
from texalign._internal import Draws, write_whole
from texalign.hand import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss
from training.arms import MAP_WEIGHT, map_loss, space_error
from training.augmentation import SCALE, SHIFT, TURN, recoloured
from training.network import HandNetwork, Prediction, mean_places
from training.order import seeded
from training.samples import Batch, Samples, as_they_are
from training.synthetic_samples import TRAIN_SEED, synthetic_samples

# Pixels of the crops that it sees.
CROP = 96
# Generated images that START's maps learn from, in steps of so many. Its head learns from posed hands, without images.
IMAGES, STEPS, BATCH, RATE = 14_000, 3250, 16, 1e-3
HEAD_STEPS, HEAD_HANDS, KEYPOINT_SCALE, SPACE_WEIGHT, WEIGHT_DECAY = 800, 48, 4.0, 2.0, 1e-3
# The first steps see all of them. Then only every so many of those that do not show the palm, as most photographs do:
# its normal and the line of sight have a cosine below this.
WIDE_STEPS, OTHERS, PALM = 1250, 4, -0.3
# Generated hands are seen as photographs show them: turned so that fingers point up, give or take; the longer side of
# the joints' box is this share of the crop's.
ROLL, EXTENT = math.radians(40), (0.5, 0.85)
# Steps after which an unfinished START is kept.
KEPT_EVERY = 250
# On photographs. The anchors of the other network are replaced by generated images in every step.
ENCODER = Settings(epochs=10, rate=1e-3, head_rate=1e-4, world_anchor=0.0, depth_anchor=0.0, late=0.7)
# Generated images in every step, and how many they are drawn from.
REHEARSED, REHEARSED_FROM = 2, 4_000


class Encoder(Network):
    """Maps of a `HandNetwork` say where the joints are, and a head lays the hand on them; no keypoints are shown."""

    def __init__(self) -> None:
        super().__init__()
        seeing = HandNetwork(CROP).requires_grad_(False)
        # What comes after the maps is not used.
        for part in (seeing.stem, seeing.norm, seeing.fine, seeing.coarse, seeing.lateral, seeing.maps):
            part.requires_grad_()
        self.seeing: HandNetwork = seeing.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = MeshHead(SIZE)

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """The maps' and the head's parameters."""
        maps = [parameter for parameter in self.seeing.parameters() if parameter.requires_grad]
        return [
            {"params": maps, "rate": settings.rate},
            {"params": list(self.head.parameters()), "rate": settings.head_rate},
        ]

    def maps(self, image: Tensor) -> Tensor:
        """(B, 21, H, W) logits of where in crops (B, 3, CROP, CROP) the joints are."""
        return self.seeing.features(image.contiguous(memory_format=torch.channels_last))[3][:, :21]

    def hand_on(self, landmarks: Tensor, camera: ta.PinholeCamera) -> Prediction:
        """The hands laid on landmarks (B, 21, 2), pixels of photographs."""
        # Landmarks in space are not known: those in the image tell of a right hand which way its fingers bend.
        said: Prediction = self.head(landmarks, landmarks.new_zeros(len(landmarks), 21, 3), camera)
        return said

    @torch.no_grad()
    def laid_on(self, landmarks: Tensor, camera: ta.PinholeCamera) -> Tensor:
        """(B, 21, 2) pixels: joints of the hand laid on landmarks."""
        return camera.project(self.hand_on(landmarks, camera).joints)

    def forward(self, image: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Said:
        """See `Network.forward`; the image is (B, 3, CROP, CROP), pixels of the crops."""
        maps = self.maps(image)
        landmarks = crop.image_points(LANDMARK_CROP * (mean_places(maps)[0] + 1) / 2)
        return Said(self.hand_on(landmarks, camera)._replace(maps=maps), None)


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


def mostly_palms(samples: Samples) -> Samples:
    """All that show the palm, and a part of the others."""
    wrist, index, little, knuckle = (samples.joints[:, joint] for joint in (0, 5, 17, 9))
    normal = functional.normalize(torch.linalg.cross(index - wrist, little - wrist), dim=1)
    palm = (normal * functional.normalize(knuckle, dim=1)).sum(dim=1) < PALM
    return samples.select((palm | (torch.arange(len(samples)) % OTHERS == 0)).nonzero()[:, 0])


def map_objective(encoder: Encoder, batch: Batch, shown: Shown) -> Tensor:
    """A scalar: of maps alone."""
    shares = shown.crop.shares(batch.camera.project(batch.joints))
    return MAP_WEIGHT * map_loss(encoder.maps(shown.image), shares, 1).mean()


def full_objective(encoder: Encoder, batch: Batch, shown: Shown) -> Tensor:
    """A scalar: of maps, keypoints, anatomy and points in space."""
    marks = batch.camera.project(batch.joints)
    said = encoder(shown.image, shown.crop, batch.camera).prediction
    value = KEYPOINT_WEIGHT * keypoint_loss(said.joints, batch.camera, marks, KEYPOINT_SCALE)
    value = value + anatomy_loss(encoder.head.hand, said.parameters)
    value = value + MAP_WEIGHT * map_loss(said.maps, shown.crop.shares(marks), 1)
    return (value + SPACE_WEIGHT * space_error(said, batch)).mean()


class Rehearsal:
    """Generated images with full labels, beside photographs in every step, so that nothing is forgotten.

    Args:
        samples: of them.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = mostly_palms(samples)

    def __call__(self, network: Network, generator: torch.Generator) -> Tensor:
        """A scalar."""
        assert isinstance(network, Encoder)
        rows = torch.randint(len(self.samples), (REHEARSED,), generator=generator)
        return full_objective(network, *generated_hands(self.samples, rows, generator))


def train_maps(encoder: Encoder, samples: Samples, keep: Path, steps: int = STEPS, stop: int = STEPS) -> None:
    """Train maps on generated images until a step; goes on from what a file keeps."""
    maps = encoder.groups(Settings())[0]["params"]
    optimizer = torch.optim.AdamW(maps, lr=0.0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    first, sums, palms = 0, 0.0, mostly_palms(samples)
    if keep.exists():
        state = torch.load(keep, weights_only=True)
        encoder.seeing.load_state_dict(state["seeing"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, min(stop, steps)):
        share, generator = step / steps, seeded(0, step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 0.02 + 50 * share) * 0.5 * (1 + math.cos(math.pi * share))
        drawn_from = samples if step < WIDE_STEPS else palms
        rows = torch.randint(len(drawn_from), (BATCH,), generator=generator)
        value = map_objective(encoder, *generated_hands(drawn_from, rows, generator))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(maps, LARGEST_GRADIENT)
        optimizer.step()
        sums += value.item()
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == steps:
            print(f"START: step {step + 1} of {steps}, {sums / KEPT_EVERY:.4g}", flush=True)
            state = {"seeing": encoder.seeing.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            keep.parent.mkdir(parents=True, exist_ok=True)
            write_whole(keep, partial(torch.save, state))
            sums = 0.0


def encoder_start(keep: Path) -> Encoder:
    """Maps trained on generated images, a head on posed hands; made once and kept in a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = Encoder()
    train_once(encoder.head, keep / "encoder head.pt", HEAD_STEPS, HEAD_HANDS, in_space=False)
    train_maps(encoder, synthetic_samples(keep, IMAGES, TRAIN_SEED, 0, SIZE), keep / "encoder maps.pt")
    return encoder

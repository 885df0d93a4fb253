"""A network that sees an image alone, trained whole: an image classifier, maps of the joints, and a mesh head."""

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
from image_only.classifier import CHANNELS, Classifier
from image_only.examples import SIZE
from image_only.mesh_head import MeshHead, start_head
from image_only.network import Network, Said, Shown
from image_only.train import LARGEST_GRADIENT, Settings
from texalign._internal import Draws, write_whole
from texalign.hand import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss
from training.arms import MAP_WEIGHT, map_loss, space_error
from training.augmentation import SCALE, SHIFT, TURN, recoloured
from training.network import Block, Prediction, mean_places, towards
from training.order import seeded, warm_cosine
from training.samples import Batch, Samples, as_they_are
from training.synthetic_samples import TRAIN_SEED, synthetic_samples

# Pixels of the crops that it sees, and channels of what the maps are made from.
CROP, WIDTH = 96, 96
# START is trained on so many generated images, in steps of so many. The classifier learns at a share of the rate.
IMAGES, STEPS, BATCH, RATE, CLASSIFIER_SHARE = 14_000, 6_000, 32, 1e-3, 0.3
WORLD_WEIGHT, KEYPOINT_SCALE, SPACE_WEIGHT, WEIGHT_DECAY = 2.0, 4.0, 2.0, 1e-3
# Only every so many of those that do not show the palm are seen, as most photographs do: its normal and the line of
# sight have a cosine below this.
OTHERS, PALM = 2, -0.3
# Generated hands are seen as photographs show them: turned so that fingers point up, give or take; the longer side of
# the joints' box is this share of the crop's.
ROLL, EXTENT = math.radians(40), (0.5, 0.85)
# Beside other colours: a lower resolution, and noise.
RESOLUTION, NOISE = (0.4, 1.0), (0.003, 0.05)
# Steps after which an unfinished START is kept.
KEPT_EVERY = 250
# On photographs. The anchors of the other network are replaced by generated images in every step.
ENCODER = Settings(epochs=5, rate=7e-4, head_rate=1e-4, world_anchor=0.0, depth_anchor=0.0, late=0.5)
# Generated images in every step, and how many they are drawn from.
REHEARSED, REHEARSED_FROM = 2, 4_000


class Encoder(Network):
    """Maps say where the joints are, features there how they lie in space; a head lays the hand on both."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.laterals = nn.ModuleList([nn.Conv2d(channels, WIDTH, 1) for channels in CHANNELS])
        self.to_maps = nn.Sequential(Block(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, 21, 1))
        self.to_space = nn.Sequential(nn.Linear(21 * (WIDTH + 2) + CHANNELS[-1], 256), nn.ReLU(), nn.Linear(256, 63))
        self.head = MeshHead()

    def seeing(self) -> list[dict[str, Any]]:
        """Parameters of all but the head, each group with its share of the rate."""
        made = [self.laterals, self.to_maps, self.to_space]
        trained = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        return [
            {"params": trained, "share": CLASSIFIER_SHARE},
            {"params": [parameter for part in made for parameter in part.parameters()], "share": 1.0},
        ]

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """Of what sees, and of the head."""
        groups = [{"params": group["params"], "rate": group["share"] * settings.rate} for group in self.seeing()]
        return [*groups, {"params": list(self.head.parameters()), "rate": settings.head_rate}]

    def seen(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of crops (B, 3, CROP, CROP): logits (B, 21, H, W) of where the joints are, and (B, 21, 3) joints in space.

        The latter lie in the crop's axes, relative to their middle and to the line of sight, at a size of one.
        """
        found = self.classifier(image.contiguous(memory_format=torch.channels_last))
        features = self.laterals[-1](found[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(found[:-1])):
            features = lateral(finer) + functional.interpolate(features, size=finer.shape[2:], mode="bilinear")
        maps = self.to_maps(features)
        share = maps.flatten(2).softmax(dim=2)
        there = share @ functional.relu(features).flatten(2).transpose(1, 2)
        places = mean_places(maps)[0]
        places = places - places.mean(dim=1, keepdim=True)
        x = torch.cat([there.flatten(1), places.flatten(1), found[-1].mean(dim=(2, 3))], dim=1)
        return maps, self.to_space(x).unflatten(1, (21, 3))

    @torch.no_grad()
    def laid_on(self, landmarks: Tensor, image: Tensor, camera: ta.PinholeCamera) -> Tensor:
        """(B, 21, 2) pixels: joints of the hand laid on landmarks, and as photographs (B, 3, S, S) show it in space."""
        crop = whole(image)
        world = crop.image_directions(self.seen(crop.cut(image, CROP))[1])
        return camera.project(self.head(landmarks, world, camera).joints)

    def forward(self, image: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Said:
        """See `Network.forward`; the image is (B, 3, CROP, CROP), pixels of the crops."""
        return Said(self.hand_of(*self.seen(image), crop, camera), None)

    def hand_of(self, maps: Tensor, space: Tensor, crop: Crop, camera: ta.PinholeCamera) -> Prediction:
        """The hands that are `seen` in crops."""
        landmarks = crop.image_points(LANDMARK_CROP * (mean_places(maps)[0] + 1) / 2)
        said: Prediction = self.head(landmarks, crop.image_directions(space), camera)
        return said._replace(maps=maps)


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
    image = degraded(crop.cut(recoloured(batch.image, draws), CROP), generator)
    return batch, Shown(image, crop, torch.zeros_like(rows), None)


def degraded(image: Tensor, generator: torch.Generator) -> Tensor:
    """At a lower resolution, the same for all (B, 3, S, S), and with noise."""
    size, draws = image.shape[-1], Draws(1, generator, torch.device("cpu"))
    small = round(size * draws.uniform(low=RESOLUTION[0], high=RESOLUTION[1]).item())
    noise = draws.log_uniform(low=NOISE[0], high=NOISE[1])
    image = functional.interpolate(image, size=(small, small), mode="area")
    image = functional.interpolate(image, size=(size, size), mode="bilinear")
    return (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def mostly_palms(samples: Samples) -> Samples:
    """All that show the palm, and a part of the others."""
    wrist, index, little, knuckle = (samples.joints[:, joint] for joint in (0, 5, 17, 9))
    normal = functional.normalize(torch.linalg.cross(index - wrist, little - wrist), dim=1)
    palm = (normal * functional.normalize(knuckle, dim=1)).sum(dim=1) < PALM
    return samples.select((palm | (torch.arange(len(samples)) % OTHERS == 0)).nonzero()[:, 0])


def seen_in_space(joints: Tensor, crop: Crop) -> Tensor:
    """Joints (B, 21, 3) of a camera's frame as `Encoder.seen` describes them."""
    space = (joints - joints.mean(dim=1, keepdim=True)) @ towards(joints[:, 0] / joints[:, 0, 2:])
    space = torch.cat([space[..., :2] @ crop.axes(), space[..., 2:]], dim=-1)
    return space / space.square().sum(dim=(1, 2), keepdim=True).div(21).sqrt()


def seeing_objective(maps: Tensor, space: Tensor, batch: Batch, shown: Shown) -> Tensor:
    """(B,): of what is seen, on maps and in space."""
    shares = shown.crop.shares(batch.camera.project(batch.joints))
    far = (space - seen_in_space(batch.joints, shown.crop)).square().sum(dim=-1).add(1e-8).sqrt()
    return MAP_WEIGHT * map_loss(maps, shares, 1) + WORLD_WEIGHT * far.mean(dim=1)


def full_objective(encoder: Encoder, batch: Batch, shown: Shown) -> Tensor:
    """A scalar: of what is seen, keypoints, anatomy and points in space."""
    maps, space = encoder.seen(shown.image)
    marks = batch.camera.project(batch.joints)
    said = encoder.hand_of(maps, space, shown.crop, batch.camera)
    value = KEYPOINT_WEIGHT * keypoint_loss(said.joints, batch.camera, marks, KEYPOINT_SCALE)
    value = value + anatomy_loss(encoder.head.hand, said.parameters)
    value = value + seeing_objective(maps, space, batch, shown)
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


def train_seeing(encoder: Encoder, samples: Samples, keep: Path, steps: int = STEPS, stop: int = STEPS) -> None:
    """Train all but the head on generated images until a step; goes on from what a file keeps."""
    groups = encoder.seeing()
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    first, sums, palms = 0, 0.0, mostly_palms(samples)
    trained = [parameter for group in groups for parameter in group["params"]]
    if keep.exists():
        state = torch.load(keep, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, min(stop, steps)):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * (RATE * warm_cosine(share, 0.02))
        generator = seeded(0, step)
        rows = torch.randint(len(palms), (BATCH,), generator=generator)
        batch, shown = generated_hands(palms, rows, generator)
        value = seeing_objective(*encoder.seen(shown.image), batch, shown).mean()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)
        optimizer.step()
        sums += value.item()
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == steps:
            print(f"START: step {step + 1} of {steps}, {sums / KEPT_EVERY:.4g}", flush=True)
            state = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            keep.parent.mkdir(parents=True, exist_ok=True)
            write_whole(keep, partial(torch.save, state))
            sums = 0.0


def encoder_start(classifier: Path, keep: Path) -> Encoder:
    """A classifier of a file trained on generated images, a head on posed hands; made once and kept in a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = Encoder()
    encoder.classifier.read(classifier)
    encoder.head = start_head(keep)
    train_seeing(encoder, synthetic_samples(keep, IMAGES, TRAIN_SEED, 0, SIZE), keep / "encoder.pt")
    return encoder

"""A network that sees an image alone and is trained whole: the encoder of experiments/training, without keypoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from image_only.backbone import Crop, whole
from image_only.examples import SIZE
from image_only.network import Network, Said, Shown
from image_only.train import Settings
from texalign._internal import Draws
from training.arms import FULL, label_objective
from training.augmentation import SCALE, SHIFT, TURN, augmented, recoloured
from training.network import HandNetwork, Prediction
from training.samples import Samples, as_they_are
from training.settings import Run as TrainingRun
from training.settings import Settings as TrainingSettings
from training.synthetic_samples import TEST_SEED, TRAIN_SEED, VIEWS, synthetic_samples
from training.train import Training

# Generated images that START is trained on, and those it is watched by.
IMAGES, WATCHED = 14_000, 400
# Of START's training: two epochs at a constant rate, two falling to zero.
START_SETTINGS = TrainingSettings(
    batch_size=16,
    shifted=False,
    first_epochs=2,
    second_epochs=2,
    ramp_epochs=0,
    first_rate=6e-4,
    rehearsed=0,
    corrections=5,
    keypoint_scale=6.0,
)
START_RATE = 4e-4
# On photographs. The anchors of the other network are replaced by generated images in every step.
ENCODER = Settings(epochs=7, rate=3e-4, head_rate=3e-4, world_anchor=0.0, depth_anchor=0.0, late=4 / 7)
# Generated images in every step, a multiple of their views, and how many they are drawn from.
REHEARSED, REHEARSED_FROM = 4, 4_000


class Encoder(nn.Module):
    """`HandNetwork` that is shown no keypoints: its corrections follow the places of its own maps."""

    def __init__(self) -> None:
        super().__init__()
        head = HandNetwork(SIZE, guided=True, corrections=START_SETTINGS.corrections)
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
        found = self.seen(image, crop.camera(camera, SIZE))
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
        return Shown(image, whole(image), torch.zeros_like(rows), None)

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Shown:
        """Turned, scaled, moved and with other colours, as `training.augmentation` does it."""
        image, _, view, _ = self.plain(rows)
        draws = Draws(len(rows), generator, image.device)
        turn = TURN * draws.normal().clamp(-2.5, 2.5)
        side = SIZE / draws.log_uniform(low=SCALE[0], high=SCALE[1])
        crop = Crop(SIZE / 2 + SHIFT * side[:, None] * (2 * draws.uniform(2) - 1), side, turn)
        return Shown(crop.cut(recoloured(image, draws), SIZE), crop, view, None)


class Rehearsal:
    """Generated images with full labels, beside photographs in every step, so that nothing is forgotten.

    Args:
        samples: of them, `VIEWS` of every hand.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __call__(self, network: Network, generator: torch.Generator) -> Tensor:
        """A scalar."""
        assert isinstance(network, Encoder)
        hands = torch.randint(len(self.samples) // VIEWS, (REHEARSED // VIEWS,), generator=generator)
        rows = (VIEWS * hands[:, None] + torch.arange(VIEWS)).flatten()
        batch = augmented(as_they_are(self.samples.select(rows)), VIEWS, generator)
        said = network.seen(batch.image, batch.camera)
        return label_objective(network.head.hand, said, batch, START_SETTINGS.keypoint_scale, START_SETTINGS, True)


def blind(samples: Samples) -> Samples:
    """The same, with no keypoints to show."""
    return replace(samples, detections=torch.full_like(samples.keypoints, torch.nan))


def encoder_start(keep: Path) -> Encoder:
    """Trained on generated images with full labels, made once and kept in a folder."""
    run = TrainingRun(FULL, START_RATE, 0, START_SETTINGS)
    samples = blind(synthetic_samples(keep, IMAGES, TRAIN_SEED, 0, SIZE))
    watched = blind(synthetic_samples(keep, WATCHED, TEST_SEED, 0, SIZE))
    training = Training(run, samples, {}, keep / "encoder start", 1, watched)
    encoder = Encoder()
    encoder.head.load_state_dict(training.finish().state_dict())
    return encoder

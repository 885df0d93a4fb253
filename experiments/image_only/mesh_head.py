"""From landmarks to the bundled hand: a head trained on posed hands with simulated landmarks, without images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import texalign as ta
from texalign._internal import Draws, write_whole
from texalign.hand import KEYPOINT_WEIGHT, HandModel, anatomy_loss, keypoint_loss, sample_pose
from training.arms import space_error
from training.network import Correction, HandDescription, Prediction, position, towards
from training.order import warm_cosine
from training.samples import Batch

WIDTH, CORRECTIONS = 384, 3
# Of the training on posed hands.
STEPS, HANDS, RATE = 1500, 96, 1e-3
# Noise of simulated landmarks: of all in common and of each, shares of the hand's spread, log-uniform by hand; of the
# world landmarks also a share by which depth is scaled.
NOISE, WORLD_NOISE, DEPTH_NOISE = (0.02, 0.15), (0.03, 0.25), 0.2
# The keypoints' scale, pixels of 128.
KEYPOINT_SCALE = 4.0


class MeshHead(HandDescription):
    """21 landmarks in the image and 21 in space to the bundled hand.

    Args:
        image_size: pixels of the square images.
    """

    def __init__(self, image_size: int = 128) -> None:
        super().__init__(image_size, CORRECTIONS)
        self.inputs = nn.Linear(21 * 5, WIDTH)
        self.hidden = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.out = nn.Linear(WIDTH, sum(self.sizes))
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.correction = Correction(sum(self.sizes), 0, WIDTH)

    def forward(self, landmarks: Tensor, world: Tensor, camera: ta.PinholeCamera) -> Prediction:
        """The hands.

        Args:
            landmarks: (B, 21, 2) pixels.
            world: (B, 21, 3) in the image's axes, relative to the line of sight; their size does not matter.
            camera: of the images.
        """
        joints = 2 * landmarks / self.image_size - 1
        wrist, spread, roll = where = position(joints)
        level = (joints - wrist[:, None]) @ roll / spread[:, None]
        space = torch.cat([world[..., :2] @ roll, world[..., 2:]], dim=-1)
        space = space - space.mean(dim=1, keepdim=True)
        space = space / space.square().sum(dim=(1, 2), keepdim=True).div(21).add(1e-8).sqrt()
        x = functional.relu(self.inputs(torch.cat([level, space], dim=-1).flatten(1)))
        for layer in self.hidden:
            x = functional.relu(x + layer(x))
        seen = torch.ones_like(joints[..., :1], dtype=torch.bool)
        hand = self.corrected(self.out(x), where, camera, joints, seen, x)
        return self.predicted(hand, where, camera, hand.new_zeros(len(hand), 0, 1, 1))


class PosedHands(NamedTuple):
    """Hands before cameras, and landmarks as a network finds them."""

    batch: Batch
    landmarks: Tensor
    world: Tensor


def posed_hands(model: HandModel, count: int, size: int, generator: torch.Generator) -> PosedHands:
    """Hands that fill 40 to 100 % of images of so many pixels, half of them gestures."""
    draws = Draws(count, generator, torch.device("cpu"))
    pose = torch.cat([sample_pose(count - count // 2, generator), sample_pose(count // 2, generator, "gesture")])
    hand = model(pose, draws.normal(10).clamp(-2, 2))
    low, high = hand.vertices.amin(dim=1), hand.vertices.amax(dim=1)
    depth = draws.log_uniform(low=0.25, high=6.0)
    focal = (draws.uniform(low=0.4, high=1.0) * size * depth / (high - low)[:, :2].amax(dim=1))[:, None]
    principal = size / 2 + 0.15 * draws.normal(2).clamp(-2, 2) * focal * (depth < 1.5)[:, None]
    target = size * draws.uniform(2, low=0.35, high=0.65)
    middle = torch.cat([(target - principal) / focal, torch.ones_like(focal)], dim=1) * depth[:, None]
    shift = (middle - (low + high) / 2)[:, None]
    vertices, joints = hand.vertices + shift, hand.joints + shift
    camera = ta.PinholeCamera(focal.expand(-1, 2).contiguous(), principal)
    marks = camera.project(joints)
    spread = (marks - marks.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)).div(21).sqrt()[:, None, None]
    level = draws.log_uniform(1, 1, low=NOISE[0], high=NOISE[1])
    noise = draws.normal(21, 2) + 0.7 * draws.normal(1, 2)
    landmarks = marks + level * spread * noise
    # Relative to the line of sight through the wrist: a crop beside the middle looks like one in the middle.
    world = (joints - joints.mean(dim=1, keepdim=True)) @ towards(joints[:, 0] / joints[:, 0, 2:])
    extent = world.square().sum(dim=(1, 2)).div(21).sqrt()[:, None, None]
    level = draws.log_uniform(1, 1, low=WORLD_NOISE[0], high=WORLD_NOISE[1])
    world = world * torch.cat([torch.ones(count, 1, 2), 1 + DEPTH_NOISE * draws.normal(1, 1)], dim=2)
    world = world + level * extent * draws.normal(21, 3)
    nothing = torch.zeros(count, 1, 1, 1)
    batch = Batch(nothing, nothing, nothing, nothing, camera, marks, joints, vertices, torch.arange(count))
    return PosedHands(batch, landmarks, world)


def train_head(head: MeshHead, steps: int = STEPS, hands: int = HANDS, seed: int = 0) -> list[float]:
    """Train on posed hands that are drawn anew in every step, and return the objective by step.

    Args:
        head: untrained.
        steps: in which the rate falls to zero.
        hands: in every step.
        seed: of the hands.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for step in range(steps):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm_cosine(share, 0.05)
        batch, landmarks, world = posed_hands(head.hand, hands, head.image_size, generator)
        said = head(landmarks, world, batch.camera)
        # Wide at first, or hands far from their keypoints would hardly be moved.
        scale = KEYPOINT_SCALE * head.image_size / 128 * 8 ** max(0.0, 1 - 3 * share)
        total = KEYPOINT_WEIGHT * keypoint_loss(said.joints, batch.camera, batch.keypoints, scale)
        total = total + anatomy_loss(head.hand, said.parameters) + 2 * space_error(said, batch)
        optimizer.zero_grad()
        total.mean().backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        values.append(total.mean().item())
    return values


def start_head(keep: Path) -> MeshHead:
    """A head trained on posed hands, made once and kept in a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = MeshHead()
    file = keep / "head.pt"
    if not file.exists():
        train_head(head)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(torch.save, head.state_dict()))
    head.load_state_dict(torch.load(file, weights_only=True))
    return head

"""A small network that turns images into hand meshes, a training step around it, and batches for both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import texalign as ta
from texalign.hand import HandModel, sample_pose

SKIN = torch.tensor([0.8, 0.55, 0.45])[:, None, None]
WALL = torch.tensor([0.2, 0.35, 0.5])[:, None, None]
TINY = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}
DISTANCE = 0.5


class Batch(NamedTuple):
    image: Tensor
    focal: Tensor
    principal: Tensor

    def part(self, first, end):
        return Batch(*(each[first:end] for each in self))


class Host(nn.Module):
    """Image (B, 3, S, S) → vertices (B, 778, 3), metres, camera frame: an open hand before the camera at the start."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 16, 3, stride=4)
        self.head = nn.Linear(16, 48 + 3)
        self.hand = HandModel()
        pose = sample_pose(1, torch.Generator().manual_seed(5), kind="open")[0]
        centre = self.hand(pose[None]).vertices[0].mean(dim=0)
        with torch.no_grad():
            self.head.weight.mul_(0.05)
            self.head.bias.copy_(torch.cat([pose.flatten(), torch.tensor([0.0, 0.0, DISTANCE]) - centre]))

    def features(self, image):
        return functional.silu(self.second(functional.silu(self.first(image))))

    def forward(self, image):
        found = self.head(self.features(image).mean(dim=(2, 3)))
        return self.hand(found[:, :48].unflatten(1, (16, 3))).vertices + found[:, None, 48:]


class Step(nn.Module):
    """Host and loss: what a distributed wrapper or a compiler is given."""

    def __init__(self, host, loss_fn):
        super().__init__()
        self.host, self.loss_fn = host, loss_fn

    def forward(self, batch, **options):
        camera = ta.PinholeCamera(batch.focal, batch.principal)
        return self.loss_fn(self.host(batch.image), camera, batch.image, **options)


def tiny_encoder(surface, seed=0, spread=0.1):
    """Random weights, the head's too (it begins at 0, where every texture is the mean colour)."""
    generator = torch.Generator().manual_seed(seed)
    prior = ta.UVTextureEncoder(surface, **TINY)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return prior.eval()


def tiny_loss(size=32, **settings):
    surface = ta.HandSurface.mano()
    return ta.DenseTextureAlignmentLoss(ta.TexturedHandRenderer(surface, size), tiny_encoder(surface), **settings)


def step_of(size=32, seed=0, **settings):
    torch.manual_seed(seed)
    return Step(Host(), tiny_loss(size, **settings))


def batch_of(count, size=32, seed=0):
    """Skin-coloured hands, open, before a bluish wall; each a few pixels away from where the host begins."""
    generator = torch.Generator().manual_seed(seed)
    host = Host()
    pose = sample_pose(1, torch.Generator().manual_seed(5), kind="open")[0].expand(count, -1, -1)
    vertices = host.hand(pose + 0.1 * torch.randn(pose.shape, generator=generator)).vertices
    away = torch.tensor([0.0, 0.0, DISTANCE]) + torch.tensor([0.01, 0.01, 0.02]) * torch.randn(
        count, 1, 3, generator=generator
    )
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + away
    camera = ta.PinholeCamera(torch.full((count, 2), 2.4 * size), torch.full((count, 2), size / 2))
    drawn = ta.TexturedHandRenderer(ta.HandSurface.mano(), size)(vertices, camera, SKIN.expand(1, 3, 16, 16))
    image = drawn.image + (1 - drawn.coverage) * WALL
    image = (image + 0.03 * torch.randn(image.shape, generator=generator)).clamp(0, 1).contiguous()
    return Batch(image, camera.focal, camera.principal)


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


def relative_difference(found, expected):
    """How far the gradient of any parameter is off, in L2 norm, relative to its own length."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)

"""Priors, losses and measures that the tests of the loss share."""

from __future__ import annotations

import math

import torch
from torch import nn

import texalign as ta
from host_network import tiny_encoder

SKIN = torch.tensor([0.8, 0.55, 0.45])
WALL = torch.tensor([0.2, 0.35, 0.5])
PLAIN = SKIN[None, :, None, None].expand(1, 3, 16, 16)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])
# Batches of another size or mirrored coordinates round otherwise. In a loss: a pixel that changes sides of a threshold,
# of some 300 of a hand and up to 6 in size. In a gradient, relative to its norm: 1e-6, with such a pixel 1e-3, where a
# mistake makes 0.1.
ROUNDING = {"atol": 2e-2, "rtol": 0}
GRADIENT_ROUNDING = 1e-2


class MeanColour(nn.Module):
    """A prior that sees one colour: the mean of the valid observations. Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.seen, self.group = None, None

    def forward(self, observations, group=None):
        self.seen, self.group = observations, group
        return observations.mean_colour()[:, :, None, None].expand(-1, -1, 16, 16)


class Fixed(nn.Module):
    """A prior that knows the texture."""

    def __init__(self, texture):
        super().__init__()
        self.texture = nn.Parameter(texture)

    def forward(self, observations, group=None):
        return self.texture.expand(len(observations.valid), -1, -1, -1)


def encoder(surface, seed=0):
    return tiny_encoder(surface, seed, spread=0.3)


def loss_of(surface, size=48, prior=None, **kwargs):
    draw = ta.TexturedHandRenderer(surface, size, backend="torch")
    return ta.DenseTextureAlignmentLoss(draw, MeanColour() if prior is None else prior, **kwargs)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels_to_metres(camera, pixels, distance=0.5):
    return float(pixels * distance / camera.focal[0, 0])


def gradient_of(loss_fn, vertices, *args, **kwargs):
    """Value or values, and the gradient of their sum."""
    leaf = vertices.clone().requires_grad_()
    value = loss_fn(leaf, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def relative(found, expected):
    """How far off, relative to the L2 norm of what is expected."""
    return float((found - expected).norm() / expected.norm())


def random(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


def close(actual, expected, atol=1e-5):
    """The default is a hundred roundings of a number near 1."""
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


def significantly_positive(values):
    """Of independent hands: the mean is more than four standard errors above 0, whichever hands were sampled."""
    return bool(values.mean() > 4 * values.std() / len(values) ** 0.5)


# Residuals of one's own, as somebody outside the package writes them.
FREEDOM = 3.0


def student_t_cost(residual, scale):
    """Student's t with three degrees of freedom by channel: heavier tails than Laplace's."""
    peak = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * math.log(FREEDOM * math.pi)
    tail = (FREEDOM + 1) / 2 * torch.log1p((residual / scale).square() / FREEDOM)
    return (tail + scale.log() - peak).sum(dim=1, keepdim=True)


def geman_mcclure_cost(residual, scale):
    """r² / (r² + scale²) by channel (Geman and McClure, 1985), not a density: its level is set by hand."""
    square = residual.square()
    return (6 * square / (square + scale.square()) - 2).sum(dim=1, keepdim=True)

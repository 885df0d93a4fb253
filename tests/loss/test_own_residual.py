"""Another distribution of the colours' residual, from outside the package: a function, and nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch

from loss_parts import (
    FREEDOM,
    Fixed,
    encoder,
    geman_mcclure_cost,
    gradient_of,
    loss_of,
    seeded,
    significantly_positive,
    student_t_cost,
)
from texalign.loss import DenseTextureAlignmentLoss, laplace_cost


def test_the_example_is_the_distribution_it_is_named_after():
    residual = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=seeded())
    scale = torch.tensor([0.05, 0.3], dtype=torch.float64).reshape(2, 1, 1, 1)
    exact = -torch.distributions.StudentT(FREEDOM, torch.zeros_like(scale), scale).log_prob(residual)
    torch.testing.assert_close(student_t_cost(residual, scale), exact.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("cost", [student_t_cost, geman_mcclure_cost])
def test_a_residual_of_ones_own(surface, photographs, smooth_texture, cost):
    vertices, camera, image = photographs(12, texture=smooth_texture)
    vertices = vertices + torch.tensor([0.01, 0.0, 0.0])
    loss_fn = loss_of(surface, prior=Fixed(smooth_texture), residual_cost=cost, reduction="none")
    value, gradient = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
    default = loss_of(surface, prior=Fixed(smooth_texture), reduction="none")
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
    assert gradient.flatten(1).any(dim=1).all()
    assert not torch.equal(value, default(vertices, camera, image, generator=seeded()))
    assert significantly_positive(gradient.sum(dim=1)[:, 0])  # it, too, leads home
    vertices[1] = torch.nan
    spoilt, _ = gradient_of(loss_fn, vertices, camera, image, generator=seeded())
    assert spoilt[1] == 0 and torch.isfinite(spoilt).all()


def test_the_default_is_laplaces(surface, photographs):
    vertices, camera, image = photographs(2)
    given, default = (
        gradient_of(loss_of(surface, **options), vertices, camera, image, generator=seeded())
        for options in ({"residual_cost": laplace_cost}, {})
    )
    assert torch.equal(given[0], default[0]) and torch.equal(given[1], default[1])


def test_it_is_pickled_with_the_loss(surface, photographs):
    vertices, camera, image = photographs(1)
    loss_fn: DenseTextureAlignmentLoss = loss_of(surface, prior=encoder(surface), residual_cost=student_t_cost)
    clone = pickle.loads(pickle.dumps(loss_fn))
    values = [each(vertices, camera, image, generator=seeded()) for each in (loss_fn, clone)]
    assert clone.residual_cost is student_t_cost and torch.equal(*values)

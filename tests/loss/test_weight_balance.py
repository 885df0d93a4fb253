from __future__ import annotations

import math

import pytest
import torch

import texalign as ta
from loss_parts import loss_of, seeded


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("reduce", [torch.sum, torch.mean, lambda loss: loss])
def test_gradients_of_known_norms_give_the_known_weight(ratio, reduce):
    at = features(5, 3, 2)
    # The gradients' norms by sample: 1 to 5 and 10 to 50 times that of ones(3, 2).
    size = torch.tensor([1.0, 2, 3, 4, 5])
    texture, others = reduce(size * at.sum(dim=(1, 2))), reduce(10 * size.flip(0) * at.sum(dim=(1, 2)))
    weight = ta.balanced_weight(texture, others, at, ratio)
    torch.testing.assert_close(weight, torch.tensor(10.0 * ratio))
    assert not weight.requires_grad


def test_at_that_weight_the_medians_have_the_ratio():
    at = features(7, 4), features(7, 6, seed=1)
    mixed = torch.cat(at, dim=1) @ features(10, 3, seed=2).detach()
    texture, others = mixed.square().sum(), 3 * mixed.exp().sum()
    weight = ta.balanced_weight(texture, others, at, 0.5)
    norms = [
        torch.cat(torch.autograd.grad(loss, at, retain_graph=True), dim=1).norm(dim=1).median()
        for loss in (weight * texture, others)
    ]
    torch.testing.assert_close(norms[0], 0.5 * norms[1])


def test_the_step_itself_goes_on_afterwards():
    at = features(4, 3)
    pose = at * 2
    texture, others = pose.square().sum(), pose.sum()
    total = others + ta.balanced_weight(texture, others, pose) * texture
    total.backward()
    assert at.grad is not None and at.grad.isfinite().all()


def test_samples_without_a_texture_gradient_are_left_out():
    at = features(5, 3)
    size = torch.tensor([0.0, 2, 2, torch.nan, 2])
    weight = ta.balanced_weight((size * at.sum(dim=1)).sum(), (torch.arange(5) * at.sum(dim=1)).sum(), at, 1.0)
    torch.testing.assert_close(weight, torch.tensor(1.0))  # the median of 1, 2, 4 over 2
    assert ta.balanced_weight(0 * at.sum(), at.sum(), at) == 0
    assert ta.balanced_weight(at.sum(), math.nan * at.sum(), at) == 0


def test_a_tensor_that_only_one_term_depends_on_still_counts():
    pose, camera = features(3, 2), features(3, 2, seed=1)
    weight = ta.balanced_weight(3 * pose.sum() + 4 * camera.sum(), 10 * pose.sum(), (pose, camera), 1.0)
    torch.testing.assert_close(weight, torch.tensor(2.0))


def test_half_precision_features_are_measured_in_float32():
    at = features(4, 300).detach().half().requires_grad_()
    weight = ta.balanced_weight((at.float() * 200).sum(), (at.float() * 400).sum(), at, 1.0)
    torch.testing.assert_close(weight, torch.tensor(2.0))


def test_the_loss_itself_with_a_skipped_sample(surface, photographs):
    vertices, camera, image = photographs(4)
    vertices = vertices.clone().requires_grad_()
    behind = vertices - torch.tensor([9.0, 0, 0, 0])[:, None, None] * torch.tensor([0, 0, 1.0])
    texture, others = loss_of(surface)(behind, camera, image, generator=seeded()), 100 * vertices.sum()
    weight = ta.balanced_weight(texture, others, vertices, 0.5)
    norms = torch.autograd.grad(weight * texture, vertices)[0].flatten(1).norm(dim=1)
    assert norms[0] == 0
    torch.testing.assert_close(norms[1:].median(), torch.tensor(50 * vertices[0].numel() ** 0.5))


def test_what_cannot_be_balanced_is_refused():
    at = features(4, 3)
    wrong = [
        ((at.sum(), at.sum(), at, 0.0), "a finite ratio > 0, got 0.0"),
        ((at.sum(), at.sum(), at, math.inf), "a finite ratio > 0, got inf"),
        ((at.sum(), at.sum(), features(4)), r"at of one batch size \(B, …\), got \[\(4,\)\]"),
        ((at.sum(), at.sum(), ()), "at least one tensor in at"),
        ((at.sum(), at.sum(), (at, features(5, 3))), r"at of one batch size \(B, …\), got \[\(4, 3\), \(5, 3\)\]"),
        ((at.sum(), at.sum(), at.detach()), "at with a gradient"),
        ((at.sum().detach(), at.sum(), at), "texture_loss with a gradient"),
        ((at.sum(), features(4, 3).sum(), at), "other_losses that depends on at"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=f"balanced_weight: expected {message}"):
            ta.balanced_weight(*arguments)

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from texalign import synthetic
from texalign.pretrain import examples
from texalign.pretrain.subject import Subject


@pytest.fixture(scope="module")
def subject():
    return Subject(None, None, 32, torch.device("cpu"))


def test_noise_on_the_mesh_is_as_strong_as_said_and_differs_between_hands():
    count = 4000
    batch = SimpleNamespace(
        pose=torch.ones(count, 16, 3), betas=torch.zeros(count, 10), translation=torch.zeros(count, 3)
    )
    poses, meshes = [], []

    def model(pose, betas):
        poses.append(pose - 1)
        return SimpleNamespace(vertices=torch.zeros(count, 1, 3))

    meshes = examples.perturbed_vertices(model, batch, torch.Generator().manual_seed(0))
    noise = poses[0]
    spread = noise[:, 1:].flatten(1).square().mean(dim=1).sqrt()  # 45 numbers a hand
    # The mean square of 45 normals is 1 ± 0.21: 1.6 in its root is out of reach of 4000 hands.
    assert spread.max() < 1.6 * examples.POSE_NOISE
    assert spread.min() < 0.05 * examples.POSE_NOISE
    # The strength is even in [0, 1]: its square's mean is a third. Over 4000 hands the root varies by 1.1 % at most.
    for values, full in (
        (noise[:, 1:], examples.POSE_NOISE),
        (noise[:, 0], examples.TURN_NOISE),
        (meshes[:, 0] / torch.tensor(examples.SHIFT_NOISE), 1.0),
    ):
        assert values.square().mean().sqrt().item() == pytest.approx(full / math.sqrt(3), rel=0.1)
    # One strength for all of a hand's errors.
    shift = meshes[:, 0].div(torch.tensor(examples.SHIFT_NOISE)).norm(dim=1)
    assert torch.corrcoef(torch.stack([spread, shift]))[0, 1] > 0.5


def test_without_noise_the_perturbed_mesh_is_the_batchs(hand, monkeypatch):
    batch = synthetic.generate(2, 32, torch.Generator().manual_seed(0), left_share=0)
    wrong = examples.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1)
    assert error.min() > 0 and error.mean() < 0.1
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(examples, name, value)
    same = examples.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, batch.vertices, atol=1e-5, rtol=0)


def test_pairs_of_photographs_show_one_hand_where_somebody_said_so():
    hand_id = torch.tensor([5, 5, 9, 5, 9, 2])
    rows, same = examples._draw_pairs(hand_id, 6, 3000, torch.Generator().manual_seed(0))
    first, second = rows.view(-1, 2).unbind(1)
    assert (first != second).all()
    assert torch.equal(same, hand_id[first] == hand_id[second])
    assert torch.equal(same, first != 5), "only the one without a second is paired with a stranger"
    # Every photograph as often, every other one of its hand as often.
    assert first.bincount(minlength=6).float().div(3000).sub(1 / 6).abs().max() < 0.034  # five standard deviations
    beside = second[first == 0].bincount(minlength=6).float() / (first == 0).sum()
    assert beside[[1, 3]].tolist() == pytest.approx([0.5, 0.5], abs=0.12)  # of some 500


def test_without_hand_ids_every_photograph_stands_for_itself():
    rows, same = examples._draw_pairs(None, 4, 500, torch.Generator().manual_seed(0))
    assert not same.any() and (rows.view(-1, 2)[:, 0] != rows.view(-1, 2)[:, 1]).all()
    rows, same = examples._draw_pairs(torch.zeros(1, dtype=torch.int64), 1, 2, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 0, 0, 0] and not same.any()


def test_examples_of_photographs(subject, fitted, monkeypatch):
    monkeypatch.setattr(examples, "recoloured", lambda image, generator: image)
    batch = examples.photographed_examples(subject, fitted, 20, torch.Generator().manual_seed(0))
    stored = fitted.photographs
    row = [int((stored.image == image).flatten(1).all(dim=1).nonzero()) for image in batch.image]
    assert torch.equal(batch.vertices, fitted.vertices[row])
    assert torch.equal(batch.camera.focal, stored.camera.focal[row])
    assert torch.equal(batch.mask, torch.ones_like(batch.mask)) and batch.mask.shape == (40, 1, 32, 32)
    assert (batch.hand[0::2] == batch.hand[1::2]).all() and len(batch.hand.unique()) == 20
    wrong = batch.mistaken(torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1).mean(dim=1)
    # Every mesh is moved, and none by more than the size of a palm; how far in the middle is chance.
    assert error.min() > 1e-6 and error.max() < 0.1
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(examples, name, value)
    torch.testing.assert_close(batch.mistaken(torch.Generator()), batch.vertices, atol=1e-5, rtol=0)


def test_examples_of_photographs_with_masks_and_meshes(subject, meshed):
    batch = examples.photographed_examples(subject, meshed, 6, torch.Generator().manual_seed(0))
    assert len(batch.hand.unique()) == 12, "nobody said whose hands they are"
    row = [int((meshed.vertices == mesh).flatten(1).all(dim=1).nonzero()) for mesh in batch.vertices]
    assert torch.equal(batch.mask, meshed.photographs.mask[row])
    wrong = batch.mistaken(torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1).mean(dim=1)
    # Every mesh is moved, and none by more than the size of a palm; how far in the middle is chance.
    assert error.min() > 1e-6 and error.max() < 0.1


def test_given_meshes_are_moved_as_a_whole(meshed):
    wrong = examples.moved_vertices(meshed.vertices, torch.Generator().manual_seed(0))
    some = list(range(0, 778, 40))
    before, after = (torch.cdist(mesh[:, some], mesh[:, some]) for mesh in (meshed.vertices, wrong))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    shift = (wrong - meshed.vertices).mean(dim=1)
    assert (shift.norm(dim=1) > 1e-5).all() and shift.norm(dim=1).max() < 0.05


def test_both_photographs_of_a_pair_are_recoloured_alike():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(200, -1, -1, -1)
    made = examples.recoloured(image, torch.Generator().manual_seed(1))
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made[0::2], made[1::2])
    gain = made[0::2].mean((2, 3)) / image[0::2].mean((2, 3))
    assert gain.std(dim=0).min() > 0.05 and gain.min() > 0.5 and gain.max() < 1.8
    tint = gain / gain.mean(dim=1, keepdim=True)
    assert tint.std(dim=0).min() > 0.03
    # Brighter stays brighter, in its place.
    order = image[0, 0].flatten().argsort()
    assert (made[:, 0].flatten(1)[:, order].diff(dim=1) >= 0).all()


def test_joined_examples_keep_their_hands_apart(subject, fitted):
    generator = torch.Generator().manual_seed(0)
    parts = [
        examples.synthetic_examples(subject, 2, 32, generator),
        examples.photographed_examples(subject, fitted, 3, generator),
    ]
    batch = examples.joined(parts)
    assert batch.image.shape == (10, 3, 32, 32) and batch.camera.batch_size == 10
    assert torch.equal(batch.image[:4], parts[0].image) and torch.equal(batch.vertices[4:], parts[1].vertices)
    assert (batch.hand[0::2] == batch.hand[1::2]).all() and len(batch.hand.unique()) == 5
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = torch.cat([part.mistaken(first) for part in parts])
    assert torch.equal(batch.mistaken(second), expected)
    assert examples.joined(parts[:1]) is parts[0]

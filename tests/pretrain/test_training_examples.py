from __future__ import annotations

import pytest
import torch

from texalign.pretrain import examples
from texalign.pretrain.subject import Subject


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def subject():
    return Subject(None, None, 32, torch.device("cpu"))


def assert_moved(wrong, vertices):
    """Every mesh is moved, and none by more than the size of a palm; how far in the middle is chance."""
    error = (wrong - vertices).norm(dim=-1).mean(dim=1)
    assert error.min() > 1e-6 and error.max() < 0.1


def test_examples_of_photographs(subject, fitted, monkeypatch):
    monkeypatch.setattr(examples, "recoloured", lambda image, generator: image)
    batch = examples.photographed_examples(subject, fitted, 20, generator())
    stored = fitted.photographs
    row = torch.tensor([int((stored.image == image).flatten(1).all(dim=1).nonzero()) for image in batch.image])
    first, second = row.view(-1, 2).unbind(1)
    one_hand = batch.hand[0::2] == batch.hand[1::2]
    assert (first != second).all() and torch.equal(one_hand, stored.hand_id[first] == stored.hand_id[second])
    assert torch.equal(one_hand, stored.hand_id[first] == 5), "only the hand shown once is paired with another"
    assert torch.equal(batch.vertices, fitted.vertices[row])
    assert torch.equal(batch.camera.focal, stored.camera.focal[row])
    assert torch.equal(batch.mask, torch.ones(40, 1, 32, 32))
    assert_moved(batch.mistaken(generator()), batch.vertices)
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(examples, name, value)
    torch.testing.assert_close(batch.mistaken(generator()), batch.vertices, atol=1e-5, rtol=0)


def test_examples_of_photographs_with_masks_and_meshes(subject, meshed):
    batch = examples.photographed_examples(subject, meshed, 6, generator())
    assert len(batch.hand.unique()) == 12, "nobody said whose hands they are"
    row = [int((meshed.vertices == mesh).flatten(1).all(dim=1).nonzero()) for mesh in batch.vertices]
    assert torch.equal(batch.mask, meshed.photographs.mask[row])
    wrong = batch.mistaken(generator())
    assert_moved(wrong, batch.vertices)
    # Their pose is unknown: they are moved as a whole.
    before, after = (torch.cdist(mesh[:, ::40], mesh[:, ::40]) for mesh in (batch.vertices, wrong))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_both_photographs_of_a_pair_are_recoloured_alike():
    image = torch.rand(1, 3, 8, 8, generator=generator()).expand(200, -1, -1, -1)
    made = examples.recoloured(image, generator(1))
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made[0::2], made[1::2]) and not torch.equal(made[0], made[2])
    # Brighter stays brighter, in its place.
    order = image[0, 0].flatten().argsort()
    assert (made[:, 0].flatten(1)[:, order].diff(dim=1) >= 0).all()


def test_joined_examples_keep_their_hands_apart(subject, fitted):
    source = generator()
    parts = [
        examples.synthetic_examples(subject, 2, 32, source),
        examples.photographed_examples(subject, fitted, 3, source),
    ]
    batch = examples.joined(parts)
    assert batch.image.shape == (10, 3, 32, 32) and batch.camera.batch_size == 10
    assert torch.equal(batch.image[:4], parts[0].image) and torch.equal(batch.vertices[4:], parts[1].vertices)
    assert (batch.hand[0::2] == batch.hand[1::2]).all() and len(batch.hand.unique()) == 5
    first, second = generator(3), generator(3)
    assert torch.equal(batch.mistaken(second), torch.cat([part.mistaken(first) for part in parts]))

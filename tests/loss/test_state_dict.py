"""A frozen prior stays out of checkpoints; one that is trained is in them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import texalign as ta
from host_network import tiny_encoder


class Network(nn.Module):
    """A network that keeps the loss as an attribute, as a LightningModule does."""

    def __init__(self, loss_fn):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.texture = nn.ModuleList([loss_fn])


@pytest.fixture
def networks(surface):
    renderer = ta.TexturedHandRenderer(surface, 32)
    made = {
        trained: Network(ta.DenseTextureAlignmentLoss(renderer, tiny_encoder(surface), train_texture=trained))
        for trained in (False, True)
    }
    with torch.no_grad():
        for parameter in made[True].texture[0].encoder.parameters():
            parameter.add_(0.5)
    return made


def prior(network):
    return copy.deepcopy(network.texture[0].encoder.state_dict())


def test_only_a_trained_prior_is_saved(networks):
    assert set(networks[False].state_dict()) == {"head.weight", "head.bias"}
    assert set(networks[False].texture[0].state_dict()) == set()
    assert prior(networks[True])
    names = {f"texture.0.encoder.{name}" for name in prior(networks[True])}
    assert set(networks[True].state_dict()) == {"head.weight", "head.bias"} | names


def test_a_checkpoint_without_a_prior_leaves_the_frozen_one_as_it_is(networks):
    before = prior(networks[False])
    networks[False].load_state_dict(Network(copy.deepcopy(networks[False].texture[0])).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in prior(networks[False]).items())
    with pytest.raises(RuntimeError, match="Missing key.*texture.0.encoder"):
        networks[True].load_state_dict(networks[False].state_dict())


def test_a_trained_prior_is_loaded_by_both_kinds(networks):
    state = networks[True].state_dict()
    for trained in (True, False):
        networks[trained].load_state_dict(state)
        assert all(torch.equal(value, prior(networks[True])[name]) for name, value in prior(networks[trained]).items())


def test_an_unknown_entry_is_still_refused(networks):
    state = networks[False].state_dict() | {"texture.0.encoder.nothing": torch.zeros(1)}
    with pytest.raises(RuntimeError, match="Unexpected key.*nothing"):
        networks[False].load_state_dict(state)

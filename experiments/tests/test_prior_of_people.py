"""What the prior that has seen people is trained and measured on."""

from __future__ import annotations

from dataclasses import replace

import torch

import texalign as ta
from fits import prior_of_people
from fits.people import generated
from fits.prior import hidden_in_pairs, prior_row
from fits.prior_of_people import hands
from texalign import synthetic

SIZE = 64


def test_photographs_of_a_person_share_a_hand_where_the_skin_looks_alike():
    photographs = generated(6, SIZE, seed=3).photographs
    image = torch.full_like(photographs.image, 0.6)
    image[2] = 0.4
    photographs = replace(photographs, image=image, mask=torch.ones_like(photographs.mask))
    found = hands(photographs, torch.tensor([7, 7, 7, 7, 2, 2]))
    assert found[[0, 1, 3, 4, 5]].tolist() == [7, 7, 7, 2, 2]
    assert found[2] not in (7, 2)


def test_generated_hands_have_natural_skin_and_half_of_the_batches_gestures(monkeypatch):
    asked = []
    monkeypatch.setattr(prior_of_people, "GENERATE", lambda *given, **named: asked.append(named))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        prior_of_people.natural_hands(2, SIZE, generator, views=2)
    gestures = sum(named["gestures"] for named in asked)
    assert 10 < gestures < 30  # three standard deviations of a half of 40
    assert all(named["wild_share"] == 0.1 and named["views"] == 2 for named in asked)


def test_hidden_skin_is_what_the_other_image_alone_shows():
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE, backend="torch")
    batch = synthetic.generate(4, SIZE, torch.Generator().manual_seed(0), left_share=0, views=2)
    prior = ta.UVTextureEncoder.from_pretrained()
    with torch.no_grad():
        itself = hidden_in_pairs(prior, renderer, batch, batch.vertices, torch.arange(4))
        other = hidden_in_pairs(prior, renderer, batch, batch.vertices, torch.tensor([1, 0, 3, 2]))
    # Each image shows what it shows; only its own outline is missing from its own map.
    assert len(itself["prior"]) < len(other["prior"])
    row = prior_row("cluttered, hidden", "bundled", other, other["prior"])
    assert row["against bundled"] == "+0.0% (+0.0% … +0.0%)"

from __future__ import annotations

import pytest
import torch

from texalign._internal import Draws
from texalign.synthetic import generate
from texalign.synthetic.lighting import draw_light
from texalign.synthetic.shadow import SHARE, cast_shadow

SIZE, COUNT = 64, 96


def shadows_of(lamp):
    """Of discs under lamps in a direction, on white walls: what of the light is lost, (B, 1, S, S)."""
    draws = Draws(COUNT, torch.Generator().manual_seed(0), torch.device("cpu"))
    light = draw_light(draws)._replace(towards=torch.tensor(lamp).expand(COUNT, 2, 3))
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    disc = (line.square()[:, None] + line.square() < 12**2).float().expand(COUNT, 1, -1, -1)
    return 1 - cast_shadow(draws, torch.ones(COUNT, 3, SIZE, SIZE), disc, light)


@pytest.fixture(scope="module")
def shadows():
    """Lamps at the right."""
    return shadows_of([0.6, 0.0, -0.8])


def test_the_share_of_the_walls_has_a_shadow_that_is_never_black(shadows):
    deepest = shadows.amax(dim=(1, 2, 3))
    # Three standard deviations of a share among 96.
    assert abs((deepest > 0.1).float().mean() - SHARE) < 3 * (SHARE * (1 - SHARE) / COUNT) ** 0.5
    assert shadows.min() >= -1e-6
    assert deepest.max() <= 0.85 + 1e-6


def test_it_lies_away_from_the_lamp_and_at_its_height(shadows):
    dark = shadows[shadows.amax(dim=(1, 2, 3)) > 0.1][:, 0]
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    total = dark.sum(dim=(1, 2))
    across, down = (dark * line).sum(dim=(1, 2)) / total, (dark * line[:, None]).sum(dim=(1, 2)) / total
    assert (across < 0).all()
    assert down.abs().max() < 0.5


def test_a_lamp_behind_the_wall_casts_no_shadow_on_it():
    assert shadows_of([0.6, 0.0, 0.8]).abs().max() == 0


def test_images_without_a_shadow_are_what_they_are_where_none_is_drawn(monkeypatch):
    with_shadows = generate(16, 32, torch.Generator().manual_seed(0))
    monkeypatch.setattr("texalign.synthetic.generation.cast_shadow", lambda draws, background, *_: background)
    without = generate(16, 32, torch.Generator().manual_seed(0))
    same = (with_shadows.image == without.image).flatten(1).all(dim=1)
    assert torch.equal(with_shadows.mask, without.mask)
    assert torch.equal(with_shadows.texture, without.texture)
    assert 16 > same.sum() >= 8


def test_batches_from_one_generator_have_shadows_of_their_own():
    generator = torch.Generator().manual_seed(0)
    first = Draws(8, generator, torch.device("cpu"))
    assert torch.equal(first.aside().uniform(), first.aside().uniform())
    before = first.aside().uniform()
    first.uniform()
    assert not torch.equal(first.aside().uniform(), before)

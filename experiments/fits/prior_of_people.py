"""A prior that has seen people: the bundled one trained on with photographs of sld and generated hands.

    python experiments/fits/prior_of_people.py --people FOLDER --output PRIOR [--share 0.34] [--steps 500]

Nobody on whom the fits or the demo show anything is trained on. Half of the generated hands show gestures, and natural
skin is more frequent among them than in the bundled prior's training. PRIOR/half gets the mean of the weights before
and after. The same command again resumes the run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import texalign as ta
from fits.across_people import SLD
from fits.people import SLD_SHIFT, moved
from texalign import synthetic
from texalign.photographs import Photographs, fit_photographs, read_photographs
from texalign.pretrain import PretrainSettings, pretrain

SIZE, GENERATE = 128, synthetic.generate
# The demo's photographs, and a test of networks, are of people from here on.
FIRST_UNSEEN = 120
GESTURES, WILD_SHARE = 0.5, 0.1
# Photographs of a person share light if their skin's median colours are no farther apart than this in any channel.
SAME_LIGHT = 0.05


def training_photographs(folder: Path) -> Photographs:
    """Of people to train on, with the masks moved, and `hand_id` equal where person and light are."""
    with np.load(folder / "annotations.npz") as file:
        ids, person = file["ids"], file["person"]
    seen = ~np.isin(person, list(SLD)) & (person < FIRST_UNSEEN)
    photographs = read_photographs(folder, ids[seen], SIZE)
    assert photographs.mask is not None
    photographs = replace(photographs, mask=moved(photographs.mask, *SLD_SHIFT))
    return replace(photographs, hand_id=hands(photographs, torch.from_numpy(person[seen].astype(np.int64))))


def hands(photographs: Photographs, person: Tensor) -> Tensor:
    """(B,): the person, where the skin's colour is near the median of that person's; else a number of its own."""
    assert photographs.mask is not None
    colour = torch.where(photographs.mask > 0.5, photographs.image, torch.nan).flatten(2).nanmedian(dim=2).values
    number = torch.arange(len(person)) + 1 + person.max()
    for who in person.unique():
        rows = (person == who).nonzero()[:, 0]
        near = (colour[rows] - colour[rows].nanmedian(dim=0).values).abs().amax(dim=1) < SAME_LIGHT
        number[rows[near]] = who
    return number


def natural_hands(n: int, image_size: int, generator: torch.Generator, **named: Any) -> synthetic.SyntheticBatch:
    """As `texalign.synthetic.generate` draws them, with gestures in half of the batches, and more natural skin."""
    gestures = torch.rand(1, generator=generator).item() < GESTURES
    return GENERATE(n, image_size, generator, gestures=gestures, wild_share=WILD_SHARE, **named)


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--people", type=Path, required=True, help="folder of `sld`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.34, help="of photographs in a step's images")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, default=2e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photographs = training_photographs(arguments.people / "sld")
    fitted = fit_photographs(photographs, arguments.output / "fits.npz")
    assert photographs.hand_id is not None
    alone = (photographs.hand_id.unique(return_counts=True)[1] == 1).sum()
    print(f"{len(fitted)} photographs, {fitted.left_out} left out, {alone} in a light of their own", flush=True)
    settings = PretrainSettings(arguments.steps, image_size=SIZE, rate=arguments.rate, photograph_share=arguments.share)
    start = ta.UVTextureEncoder.from_pretrained()
    with patch.object(synthetic, "generate", natural_hands):
        encoder = pretrain(arguments.output, settings, start, photographs=fitted, checkpoint_every=100)
    before, after = start.state_dict(), encoder.state_dict()
    encoder.load_state_dict({name: before[name].lerp(after[name], 0.5) for name in before})
    encoder.save_pretrained(arguments.output / "half", encoder.provenance | {"averaged_with": "its start"})


if __name__ == "__main__":
    main()

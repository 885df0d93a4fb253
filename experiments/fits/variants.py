"""What each choice in the loss is worth: fits with one thing changed, on images that nothing is reported on.

    TEXALIGN_REAL_DATA=FOLDER python benchmarks/variants.py [--output FILE.json]

24 photographs of the training part (every twelfth of 3 to 279), and 32 plain and 32 cluttered synthetic images of
another seed than the alignment benchmark's. Choices are made here, so that frames 318 to 397 have no say in them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import real_refinement as real
import synthetic_refinement as synthetic_fits
import torch
from alignment import digest_of
from landscape import Batch
from plain_scenes import plain_scenes
from stand_ins import MeanColour

import texalign as ta
from recording import Store, comparison, environment, table, write_json
from texalign import synthetic
from texalign.loss import dense_texture_alignment_loss as loss
from texalign.loss import photometric
from texalign.photographs import read_photographs

FRAMES, SEED, SIZE = range(3, 291, 12), 777, 128
SYNTHETIC_WEIGHT, REAL_WEIGHT = 2.0, 4.0
# Names of rows: arguments of the loss, and constants of its modules.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "as it is": ({}, {}),
    "no interior": ({}, {"INTERIOR_SHARE": 0.0}),
    "all of the interior": ({}, {"INTERIOR_SHARE": 1.0}),
    "everything explained": ({}, {"unexplained": 0.0}),
    "pyramid of 2": ({"levels": 2}, {}),
    "weighed by certainty": ({"weigh_by_certainty": True}, {}),
    "with structure, 0.5": ({"structure_weight": 0.5}, {}),
}


@contextmanager
def changed(constants: dict[str, float]) -> Iterator[None]:
    """The loss's modules with other constants."""
    cost = photometric.hand_cost
    with ExitStack() as stack:
        for name, value in constants.items():
            if name == "unexplained":
                mixed = partial(cost, unexplained=value)
                stack.enter_context(mock.patch.object(photometric, "hand_cost", mixed))
            else:
                stack.enter_context(mock.patch.object(loss, name, value))
        yield


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, default=Path(__file__).parent / "unfinished", help="of what is done")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "variants.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE, backend="torch")
    encoder = ta.UVTextureEncoder.from_pretrained()
    generator = torch.Generator().manual_seed(SEED)
    scenes: dict[str, Batch] = {
        "plain": plain_scenes(32, generator),
        "cluttered": synthetic.generate(32, SIZE, generator, left_share=0),
    }
    photographs = read_photographs(os.environ["TEXALIGN_REAL_DATA"], FRAMES, SIZE)
    labels, start = real.starts(photographs, real.true_fits(photographs), SEED)
    store = Store(arguments.keep, {"bundled": digest_of(encoder)})

    def fits(loss_fn: torch.nn.Module | None, constants: dict[str, float]) -> dict[str, dict[str, list[float]]]:
        with changed(constants):
            drawn = None if loss_fn is None else synthetic_fits.with_loss(loss_fn, SYNTHETIC_WEIGHT)
            taken = None if loss_fn is None else synthetic_fits.with_loss(loss_fn, REAL_WEIGHT)
            result = {name: synthetic_fits.refined(batch, drawn, renderer, 0) for name, batch in scenes.items()}
            end = real.fitted(photographs, labels, start, taken)
            return {**result, "photographs": real.errors(photographs, end, renderer)}

    results = {"no loss": store.get("variants, no loss", fits, None, {})}
    mean = ta.DenseTextureAlignmentLoss(renderer, MeanColour(), reduction="none")
    results["mean colour for a prior"] = store.get("variants, mean colour", fits, mean, {})
    for name, (options, constants) in VARIANTS.items():
        loss_fn = ta.DenseTextureAlignmentLoss(renderer, encoder, reduction="none", **options)
        results[name] = store.get(f"variants, {name}", fits, loss_fn, constants)
    kinds = ("plain", "cluttered", "photographs")
    tables = {kind: comparison({name: result[kind] for name, result in results.items()}, "no loss") for kind in kinds}
    for name, rows in tables.items():
        print(f"\n{name}\n\n{table(rows)}")
    write_json(arguments.output, {"environment": environment(), "tables": tables})


if __name__ == "__main__":
    main()

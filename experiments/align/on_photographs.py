"""Predictions on photographs, refined by the texture loss alone: ``python experiments/align/on_photographs.py FOLDER``.

FOLDER holds `hgr` and `sld`; TEXALIGN_REAL_DATA is the video's. The photographs are those that the final tables of
`experiments/fits` are of. The predictions are the bundled hand fitted to a detector's keypoints with 3 px of noise at
128 px and 10 % outliers, or to the keypoints as they are, given as MANO parameters to smplx's layer on a file of
`write_mano`; the refinement sees no keypoints.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import smplx
import torch

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "benchmarks")]

import texalign as ta
from fits.across_people import EACH, FRAMES, HGR, SLD
from fits.comparison import comparison
from fits.people import SLD_SHIFT, People, read_frames, read_people
from fits.people_fits import CHUNK, Errors, hand_errors, labels_of, start_of, worse_share
from recording import environment, table, write_json
from texalign.hand import Hand, HandModel, HandParameters, ManoParameters, mano_hand, refine_mano
from texalign.mano import write_mano

BEFORE, AFTER = "prediction", "refined"
# The labels that predictions are fitted to, and the seed of their noise.
LABELS = {"detector": None, "detector + noise": 1}


def mano_of(fit: HandParameters) -> ManoParameters:
    """A fit of the bundled hand, for the layer of its own file."""
    pose = HandModel().pose_from_angles(fit.angles, fit.orientation)
    return ManoParameters(pose[:, :1], pose[:, 1:], fit.betas(), fit.translation)


def measured(layer: Any, people: People, fit: HandParameters, loss: ta.DenseTextureAlignmentLoss) -> dict[str, Errors]:
    """Errors before and after 60 steps."""
    parts: dict[str, list[Hand]] = {BEFORE: [], AFTER: []}
    for rows in torch.arange(len(people)).split(CHUNK):
        some, predicted = people.select(rows), mano_of(fit.select(rows))
        camera, image, generator = some.photographs.camera, some.photographs.image, torch.Generator().manual_seed(0)
        refined = refine_mano(layer, predicted, camera, image, loss, valid=some.valid, generator=generator)
        with torch.no_grad():
            parts[BEFORE].append(Hand(*mano_hand(layer, predicted)))
            parts[AFTER].append(Hand(*mano_hand(layer, refined)))
    whole = {name: Hand(*(torch.cat(each) for each in zip(*some))) for name, some in parts.items()}
    return {name: hand_errors(people, hand, loss.renderer) for name, hand in whole.items()}


def main() -> None:
    """Refine, measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path, metavar="FOLDER")
    parser.add_argument("--keep", type=Path, default=Path(__file__).parents[1] / "unfinished")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "align_photographs.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.keep.mkdir(parents=True, exist_ok=True)
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128, reduction="none")
    renderer = loss.renderer
    with tempfile.TemporaryDirectory() as folder:
        layer = smplx.MANOLayer(str(write_mano(Path(folder) / "MANO_RIGHT.pkl")), is_rhand=True)
    sets = {
        "hgr": read_people(options.people / "hgr", HGR, EACH, renderer, options.keep, padded=True),
        "sld": read_people(options.people / "sld", SLD, 1, renderer, options.keep, shift=SLD_SHIFT),
    }
    if video := os.environ.get("TEXALIGN_REAL_DATA"):
        sets["video"] = read_frames(Path(video), FRAMES, renderer, options.keep)
    tables = {}
    for name, people in sets.items():
        for labels, seed in LABELS.items():
            found = measured(layer, people, start_of(people, labels_of(people, seed)), loss)
            rows = comparison(found, BEFORE, people.person)
            before = torch.tensor(found[BEFORE]["IoU"])
            for row in rows:
                row["worse in IoU"] = worse_share(torch.tensor(found[row["variant"]]["IoU"]), before)
            tables[f"{name}, {labels}"] = rows
            print(f"\n{name}, {labels}, {len(people)} photographs\n{table(rows)}", flush=True)
    write_json(options.output, {"environment": environment(), "tables": tables})


if __name__ == "__main__":
    main()

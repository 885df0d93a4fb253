"""The table of a comparison, from what evaluate_hamer.py left: both arms, and their paired difference.

    python experiments/hamer/score_arms.py results --base baseline --arm texalign --also released authors \
        --freihand FreiHAND_pub_v2_eval [--ho3d FOLDER] --output table.json

The arms are the folders ``baseline-SEED`` and ``texalign-SEED``, as many seeds of each; `--also` names folders of
single checkpoints, for their values alone. FreiHAND and HO3D-v2 are scored where a folder with their
``evaluation_xyz.json`` and ``evaluation_verts.json`` is given.

Intervals hold 95 % of 2,000 draws of seeds and images, both arms with the same draw. An image is drawn with all its
hands; a sequence of HO3D as a whole, since its frames are no independent images.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from freihand_scores import freihand_scores

from recording import table, write_json
from texalign._internal import expect
from texalign.metrics import correct_joints

HINT = {"NEWDAYS": "New Days", "EPICK": "VISOR", "EGO4D": "Ego4D"}
JOINTS = {"ALL": "all", "VIS": "visible", "OCC": "occluded"}
PCK = (0.05, 0.1, 0.15)
ALIGNED = {  # of `freihand_scores`, and their names in the table
    "pa_mpjpe_mm": "PA-MPJPE, mm",
    "pa_mpvpe_mm": "PA-MPVPE, mm",
    "pa_f_5mm": "F@5 mm",
    "pa_f_15mm": "F@15 mm",
    "pa_joint_auc": "AUC of joints",
    "pa_vertex_auc": "AUC of vertices",
}
DRAWS = 2000


@dataclass(frozen=True)
class Scores:
    """What a number is made of. The number: Σ score / Σ known over samples, then the mean over columns.

    Attributes:
        score: (N, J), 0 where not known.
        known: (N, J) 0 or 1.
        drawn_with: (N,) which samples the bootstrap draws together.
    """

    score: np.ndarray
    known: np.ndarray
    drawn_with: np.ndarray


def hint_scores(folder: Path, dataset: str) -> dict[str, Scores]:
    """PCK in per cent by name, held against the mean that eval.py itself wrote.

    Raises:
        ValueError: the data set was not evaluated to its end, or the two disagree.
    """
    kept = _kept(folder, dataset)
    predicted, true, box_size = (torch.from_numpy(kept[name]).double() for name in ("predicted", "true", "box_size"))
    known = torch.from_numpy(kept["known"])
    written = _written(folder, dataset)
    scores = {}
    for threshold in PCK:
        correct = correct_joints(predicted, true, box_size, threshold, known).nan_to_num().numpy()
        found = Scores(100 * correct, known.double().numpy(), kept["imgname"])
        theirs = written[f"kpAvg_pck_{threshold}"]
        # A joint that never occurs makes theirs NaN.
        agree = math.isnan(theirs) or abs(value([found]) - 100 * theirs) < 1e-6
        expect(agree, "score_arms", f"eval.py's PCK@{threshold} {theirs} in {folder}/{dataset}", value([found]))
        scores[f"PCK@{threshold}"] = found
    return scores


@lru_cache(maxsize=4)
def truth(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints (N, 21, 3) and vertices (N, 778, 3) of an evaluation set, metres."""
    joints, vertices = (json.loads((folder / f"evaluation_{name}.json").read_text()) for name in ("xyz", "verts"))
    return torch.tensor(joints), torch.tensor(vertices)


def point_scores(folder: Path, dataset: str, truth_folder: Path) -> dict[str, Scores]:
    """The aligned numbers of FreiHAND's and HO3D's evaluation by name.

    Raises:
        ValueError: the data set was not evaluated to its end, or the truth is of other samples.
    """
    names = _kept(folder, dataset)["imgname"]
    joints, vertices = (torch.tensor(part) for part in json.loads((folder / f"{dataset.lower()}.json").read_text()))
    true_joints, true_vertices = truth(truth_folder)
    counts = [len(names), len(joints), len(true_joints)]
    expect(len(set(counts)) == 1, "score_arms", f"as many samples in {folder} and {truth_folder}", counts)
    parts = (part.split(64) for part in (joints, true_joints, vertices, true_vertices))
    batches = [freihand_scores(*batch) for batch in zip(*parts)]
    # HO3D's frames lie in a folder for each sequence.
    drawn_with = np.array([str(Path(name).parent) for name in names]) if dataset.startswith("HO3D") else names
    scores = {}
    for name, shown in ALIGNED.items():
        column = torch.cat([batch[name] for batch in batches]).double().numpy()[:, None]
        scores[shown] = Scores(column, np.ones_like(column), drawn_with)
    return scores


def value(seeds: list[Scores]) -> float:
    """The number over all seeds."""
    return float(_mean(sum(each.score.sum(0) for each in seeds), sum(each.known.sum(0) for each in seeds)))


def paired_difference(mine: list[Scores], base: list[Scores]) -> tuple[float, float, float]:
    """The difference of two arms, and its 95 % interval by a bootstrap over seeds and images.

    Args:
        mine: by seed.
        base: by seed, of the same samples.

    Raises:
        ValueError: as many seeds of each are needed, and the same samples in all.
    """
    expect(len(mine) == len(base), "paired_difference", f"{len(base)} seeds", len(mine))
    same = all(np.array_equal(each.drawn_with, base[0].drawn_with) for each in (*mine, *base))
    expect(same, "paired_difference", "the same samples in all", "others")
    generator = np.random.default_rng(0)
    groups, group = np.unique(base[0].drawn_with, return_inverse=True)
    seeds = generator.multinomial(len(base), [1 / len(base)] * len(base), DRAWS)  # how often each was drawn
    images = generator.multinomial(len(groups), [1 / len(groups)] * len(groups), DRAWS)

    def drawn(arm: list[Scores]) -> np.ndarray:
        totals = []
        for part in ("score", "known"):
            sums = np.zeros((len(groups), len(arm), base[0].score.shape[1]))
            for seed, each in enumerate(arm):
                np.add.at(sums[:, seed], group, getattr(each, part))
            totals.append(np.einsum("ds,dsj->dj", seeds, np.tensordot(images, sums, axes=1)))
        return _mean(*totals)

    low, high = np.quantile(drawn(mine) - drawn(base), [0.025, 0.975])
    return value(mine) - value(base), float(low), float(high)


def _mean(score: Any, known: Any) -> np.ndarray:
    """The mean over the columns that occur."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.where(known > 0, score / known, np.nan), axis=-1)


def _kept(folder: Path, dataset: str) -> dict[str, np.ndarray]:
    path = folder / f"{dataset.lower()}.npz"
    expect(path.is_file(), "score_arms", f"{dataset} evaluated to its end in {folder}", "no file of it")
    return dict(np.load(path))


def _written(folder: Path, dataset: str) -> dict[str, float]:
    """What eval.py itself appended to its table, the last of each name."""
    with (folder / "eval_regression.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    return {row["metric_name"]: float(row["metric_value"] or "nan") for row in rows}


def arm_folders(results: Path, arm: str) -> dict[str, Path]:
    """The folders ``arm-SEED`` by seed, in order."""
    found = {path.name[len(arm) + 1 :]: path for path in sorted(results.glob(f"{arm}-*")) if path.is_dir()}
    return {seed: path for seed, path in found.items() if seed.isdigit()}


def rows_of(
    results: Path, base: str, arm: str, also: list[str], truths: dict[str, Path], datasets: list[str]
) -> list[dict[str, Any]]:
    """A row for each data set and number.

    Raises:
        ValueError: the arms have not the same seeds, or a result is missing.
    """
    ours, theirs = arm_folders(results, arm), arm_folders(results, base)
    expect(bool(theirs) and list(ours) == list(theirs), "score_arms", f"seeds {list(theirs)} of {arm}", list(ours))
    folders = {base: list(theirs.values()), arm: list(ours.values()), **{name: [results / name] for name in also}}
    rows: list[dict[str, Any]] = []
    for dataset in datasets:
        scores: dict[str, list[dict[str, Scores]]] = {}
        for name, paths in folders.items():
            scores[name] = [
                point_scores(path, dataset, truths[dataset]) if dataset in truths else hint_scores(path, dataset)
                for path in paths
            ]
        for number in scores[base][0]:
            by_arm = {name: [seed[number] for seed in seeds] for name, seeds in scores.items()}
            middle, low, high = paired_difference(by_arm[arm], by_arm[base])
            rows.append(
                {
                    "data set": _named(dataset),
                    "number": number,
                    **{name: f"{value(seeds):.4g}" for name, seeds in by_arm.items()},
                    f"{arm} − {base}": f"{middle:+.3g} ({low:+.3g} … {high:+.3g})",
                }
            )
    return rows


def _named(dataset: str) -> str:
    part, _, joints = dataset.partition("-TEST-")
    return f"HInt {HINT[part]}, {JOINTS[joints]} joints" if joints else dataset.removesuffix("-VAL")


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--base", default="baseline")
    parser.add_argument("--arm", default="texalign")
    parser.add_argument("--also", nargs="*", default=[])
    parser.add_argument("--freihand", type=Path)
    parser.add_argument("--ho3d", type=Path)
    parser.add_argument("--hint", nargs="*", choices=list(HINT), default=list(HINT), help="its parts, all by default")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    truths = {"FREIHAND-VAL": arguments.freihand, "HO3D-VAL": arguments.ho3d}
    given = {dataset: folder for dataset, folder in truths.items() if folder is not None}
    hint = [f"{part}-TEST-{joints}" for part in arguments.hint for joints in JOINTS]
    rows = rows_of(arguments.results, arguments.base, arguments.arm, arguments.also, given, [*given, *hint])
    seeds = list(arm_folders(arguments.results, arguments.base))
    print(table(rows))
    print(f"seeds {', '.join(seeds)}; without a truth, not scored: {', '.join(truths.keys() - given.keys()) or 'none'}")
    if arguments.output:
        write_json(arguments.output, {"seeds": seeds, "rows": rows})


if __name__ == "__main__":
    main()

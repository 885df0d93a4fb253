"""Does training with the loss make a better network?

    python experiments/training real | detections | synthetic [--seeds 0 1 2] [--arms …] [--fine-tuned FOLDER]
    python experiments/training tune --on real --arms … --rates 3e-4 1e-3
    python experiments/training cost | pull | training-error --on real

The networks are shown an image and a detector's keypoints. A table's command trains what is missing, prints the table
and writes it to experiments/results/training_NAME.json. It can be stopped at any time: the same command goes on from
the last epoch that was kept. `--show` takes only what is finished. Photographs are read from the folder named by
TEXALIGN_REAL_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from recording import environment, table, write_json
from training.arms import ARMS, WEAK, WEIGHTS
from training.commands import Data, Experiment, load_priors, usable_arms
from training.overlays import write_overlays
from training.pull import every_other_group, pull_table
from training.real_samples import TRAIN, TUNE_TRAIN, TUNE_VALIDATE, VALIDATE, real_samples
from training.settings import Settings
from training.synthetic_samples import TEST_SEED, TRAIN_SEED, TUNE_SEED, synthetic_samples
from training.train import words_of
from training.training_error import training_error_table

EXPERIMENTS = Path(__file__).resolve().parents[1]
# By kind of images. On generated ones, terms on pixels weigh a third of what they do on photographs: `tune` found so
# for the texture.
SETTINGS = {
    "real": Settings(),
    "synthetic": Settings(
        batch_size=16,
        shifted=False,
        second_epochs=1,
        ramp_epochs=0.2,
        first_rate=6e-4,
        rehearsed=0,
        corrections=5,
        keypoint_scale=6.0,
        texture_weight=2.0,
        plain_weight=10.0,
        silhouette_weight=8.0,
    ),
}
# By table, found by `tune` on training frames, or on generated images of their own. On photographs 1e-4 is better than
# 3e-4 (labels, mask) or level with it (texture, plain difference). On generated images the plain difference was tuned
# at its former weight only, and shared textures take the texture's rate.
RATES = {
    "real": dict.fromkeys(ARMS, 1e-4),
    "detections": dict.fromkeys(ARMS, 1e-4),
    "synthetic": {**dict.fromkeys(ARMS, 3e-4), WEAK: 6e-4},
}
TABLES = ("real", "detections", "synthetic")
# Settings that the command line may change.
CHANGEABLE = {
    "first_epochs": int,
    "second_epochs": int,
    "batch_size": int,
    "start": str,
    "rehearsed": int,
    "first_rate": float,
    "texture_weight": float,
    "plain_weight": float,
    "silhouette_weight": float,
}
# Generated images to rehearse: the first of those that START was trained on.
REHEARSED = 4_000
# Frames of the video that are near duplicates are drawn together in the bootstrap.
FRAMES_A_BLOCK = 5


def experiment(arguments: argparse.Namespace, name: str, tuning: bool = False) -> Experiment:
    """Data, settings and rates of a table."""
    device = arguments.device
    priors = load_priors(arguments.fine_tuned, device)
    kind = "synthetic" if name == "synthetic" else "real"
    settings = SETTINGS[kind]
    changed = {field: value for field, value in vars(arguments).items() if field in CHANGEABLE and value is not None}
    settings = replace(settings, **changed)

    def photographs(seed: int) -> Data:
        folder = Path(os.environ.get("TEXALIGN_REAL_DATA", ""))
        label_seed = None if name == "detections" else seed
        train, unseen = (TUNE_TRAIN, TUNE_VALIDATE) if tuning else (TRAIN, VALIDATE)
        size = settings.image_size
        parts = (real_samples(folder, frames, label_seed, size) for frames in (train, unseen))
        first, second = (part.to(device) for part in parts)
        if not settings.rehearsed:
            return Data(first, second)
        again = synthetic_samples(arguments.keep / "training", REHEARSED, TRAIN_SEED, 0, size)
        return Data(first, second, again.to(device))

    def generated(seed: int) -> Data:
        keep, size, unseen_seed = arguments.keep / "training", settings.image_size, TUNE_SEED if tuning else TEST_SEED
        first = synthetic_samples(keep, arguments.images, TRAIN_SEED, seed, size)
        second = synthetic_samples(keep, arguments.unseen, unseen_seed, seed, size)
        return Data(first.to(device), second.to(device))

    data = photographs if kind == "real" else generated
    folder = f"{name} tuning" if tuning else name
    if kind == "synthetic":
        folder += f", {arguments.images} and {arguments.unseen}"
    block = FRAMES_A_BLOCK if kind == "real" else settings.neighbours
    rates = dict(RATES[name] if arguments.rate is None else dict.fromkeys(ARMS, arguments.rate))
    if arguments.weak_rate is not None:
        rates[WEAK] = arguments.weak_rate
    results = None if tuning else arguments.results
    return Experiment(folder, data, settings, rates, priors, arguments.keep, block, results)


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=(*TABLES, "tune", "cost", "pull", "training-error", "overlays"))
    parser.add_argument("--on", choices=TABLES, default="real", help="the table that the other words are for")
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--against", choices=ARMS, default=WEAK, help="the arm that a table compares with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rate", type=float, help="of every arm, instead of its own")
    parser.add_argument("--weak-rate", type=float, help="of the weak labels, instead of that of the arms beside them")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-5, 1e-4, 3e-4, 1e-3], help="for tune")
    parser.add_argument("--fine-tuned", type=Path, help="a prior trained on the photographs 0 to 297 as well")
    parser.add_argument("--images", type=int, default=20_000, help="synthetic ones to train on")
    parser.add_argument("--unseen", type=int, default=2_000, help="synthetic ones to test on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, default=EXPERIMENTS / "unfinished", help="folder of unfinished things")
    finished = EXPERIMENTS / "results" / "training_runs"
    parser.add_argument("--results", type=Path, default=finished, help="folder of the tables' finished runs")
    parser.add_argument("--output", type=Path, help="of the table; for overlays a folder outside the repository")
    parser.add_argument("--show", action="store_true", help="only what is finished; written if --output is given")
    for name, kind in CHANGEABLE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="see Settings")
    arguments = parser.parse_args(words)
    if arguments.what == "overlays" and arguments.output is None:
        parser.error("overlays need --output FOLDER, outside the repository")
    return arguments


def result_file(name: str, arguments: argparse.Namespace) -> Path:
    """Of a table that is not told where to go: no two kinds of table share one."""
    weights = (field for field in WEIGHTS.values() if field in CHANGEABLE)
    default = arguments_of(["real"])
    changed = ""
    for field in dict.fromkeys(("rate", "weak_rate", *weights, "images", "unseen")):
        value = getattr(arguments, field)
        changed += "" if value == getattr(default, field) else f"_{field}_{value:g}"
    against = "" if arguments.against == default.against else f"_against_{words_of(arguments.against)}"
    return EXPERIMENTS / "results" / f"training_{name}{changed}{against}.json"


def main() -> None:
    """Do what the command line says."""
    arguments = arguments_of()
    torch.set_num_threads(1)
    name = arguments.what if arguments.what in TABLES else arguments.on
    made = experiment(arguments, name, tuning=arguments.what == "tune")
    arms = arguments.arms or (list(ARMS) if arguments.show else usable_arms(made.priors))
    if arguments.what == "cost":
        print(table(made.seconds_per_step(arms)))
        print(f"{len(arguments.seeds)} seeds: {made.hours(arms, len(arguments.seeds)):.1f} CPU hours")
    elif arguments.what == "tune":
        rows = made.tune(arms, arguments.rates, arguments.seeds)
        print(table(rows))
        if arguments.output is not None:
            write_json(arguments.output, {"environment": environment(), "table": rows})
    elif arguments.what == "pull":
        train = made.samples(arguments.seeds[0]).train
        few = train.select(every_other_group(len(train), made.settings.neighbours, most=160))
        rows = pull_table(made.network(WEAK, arguments.seeds[0]), few, made.settings, made.priors)
        print(table(rows))
        output = arguments.output or result_file(f"pull_{name}", arguments)
        write_json(output, {"environment": environment(), "table": rows})
    elif arguments.what == "training-error":
        rows = training_error_table(made, arms, arguments.seeds)
        print(table(rows))
        output = arguments.output or result_file(f"error_{name}", arguments)
        write_json(output, {"environment": environment(), "table": rows})
    elif arguments.what == "overlays":
        write_overlays(made, arms, arguments.seeds[0], arguments.output)
    elif arguments.show:
        made.write(arms, arguments.seeds, arguments.output, arguments.against)
    else:
        made.run_all(arms, arguments.seeds, arguments.output or result_file(name, arguments), arguments.against)


if __name__ == "__main__":
    main()

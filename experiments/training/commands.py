"""What the tables' commands share: runs that are made once and kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import texalign as ta
from recording import digest, environment, table, write_json
from texalign._internal import write_whole
from training.arms import ARMS, OF_FINE_TUNED_PRIOR, WEAK, labels_of
from training.evaluate import errors, joint_offset
from training.network import HandNetwork
from training.samples import Samples
from training.settings import Run, Settings
from training.tables import arm_table, compared, mean_of, narrow, stacked
from training.train import Training, described, named

# Unseen images that the curves are drawn over: the first, or all if there are fewer.
WATCHED = 400
# Training images that the joints' mean offset is taken over, at most: of generated ones every twentieth is enough.
OFFSET_OVER = 1000


class Data(NamedTuple):
    """What one seed trains on and is measured on; and what it rehearses, if it does."""

    train: Samples
    unseen: Samples
    rehearsed: Samples | None = None


class Experiment:
    """Arms on one kind of data.

    Args:
        name: of the table, and of the folder in which its runs are kept.
        data: the samples for a seed.
        settings: of all runs.
        rates: of the arms.
        priors: "bundled" and perhaps "fine-tuned".
        keep: the folder of unfinished things.
        block: neighbouring unseen images that are near duplicates.
        results: a folder of finished runs, a folder for each table: what is in it need not be trained again. By default
            they are kept beside the unfinished ones.
    """

    def __init__(
        self,
        name: str,
        data: Callable[[int], Data],
        settings: Settings,
        rates: dict[str, float],
        priors: dict[str, nn.Module],
        keep: Path,
        block: int,
        results: Path | None = None,
    ) -> None:
        self.name, self.data, self.settings, self.rates = name, data, settings, rates
        self.priors, self.block = priors, block
        self.folder = keep / "training" / name
        self.results = self.folder if results is None else results / name
        self._samples: dict[int, Data] = {}

    def samples(self, seed: int) -> Data:
        """Those of the last seed are kept in memory."""
        if seed not in self._samples:
            self._samples = {seed: self.data(seed)}
        return self._samples[seed]

    def result(self, arm: str, seed: int, rate: float | None = None) -> dict[str, Any]:
        """Train, or go on training, measure, and keep what came out."""
        run = Run(arm, self.rates[arm] if rate is None else rate, seed, self.settings)
        file = self.results / f"{named(run)}.json"
        if not file.exists():
            train, unseen, rehearsed = self.samples(seed)
            watched = unseen.select(torch.arange(min(WATCHED, len(unseen))))
            training = Training(run, train, self.priors, self.folder, watched=watched, rehearsed=rehearsed)
            network = training.finish(report=partial(print, flush=True))
            offset = joint_offset(network, train.select(torch.arange(0, len(train), -(-len(train) // OFFSET_OVER))))
            result = {
                **described(run, training.progress),
                "environment": environment(),
                "source": source(),
                "errors": rounded(errors(network, unseen, offset, self.priors["bundled"])),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda path: path.write_text(json.dumps(result)))
        return dict(json.loads(file.read_text()))

    def network(self, arm: str, seed: int) -> HandNetwork:
        """As trained."""
        run = Run(arm, self.rates[arm], seed, self.settings)
        train, _, rehearsed = self.samples(seed)
        return Training(run, train, self.priors, self.folder, rehearsed=rehearsed).finish()

    def finished(self, arms: Iterable[str], seeds: Iterable[int]) -> dict[str, list[dict[str, Any]]]:
        """What is there already, by arm."""
        found: dict[str, list[dict[str, Any]]] = {}
        for arm in arms:
            files = [self.results / f"{named(Run(arm, self.rates[arm], seed, self.settings))}.json" for seed in seeds]
            runs = [json.loads(file.read_text()) for file in files if file.exists()]
            if runs:
                found[arm] = runs
        return found

    def table(self, arms: Iterable[str], seeds: Iterable[int]) -> list[dict[str, Any]]:
        """Of the finished runs. There is none without a baseline."""
        found = self.finished(arms, seeds)
        return arm_table(found, WEAK, compared(found, WEAK, self.block)) if WEAK in found else []

    def run_all(self, arms: list[str], seeds: list[int], output: Path | None, base: str = WEAK) -> None:
        """All runs, seed by seed, then the table, on the screen and in a file."""
        for seed in seeds:
            for arm in arms:
                self.result(arm, seed)
        self.write(arms, seeds, output, base)

    def write(self, arms: list[str], seeds: list[int], output: Path | None, base: str = WEAK) -> None:
        """The table of what is finished, compared with one of the arms."""
        found = self.finished(arms, seeds)
        if base not in found:
            print(f"no run of the baseline, {base}, is finished")
            return
        changes = compared(found, base, self.block)
        rows = arm_table(found, base, changes)
        for part in narrow(rows):
            print(f"\n{table(part)}")
        cost = {arm: sum(run["seconds"] for run in runs) for arm, runs in found.items()}
        content: dict[str, Any] = {
            "environment": environment(),
            "settings": asdict(self.settings),
            "rates": {arm: self.rates[arm] for arm in found},
            "seeds": {arm: [run["run"]["seed"] for run in runs] for arm, runs in found.items()},
            "commits": sorted({str(run["environment"]["commit"]) for runs in found.values() for run in runs}),
            "sources": sorted({run["source"] for runs in found.values() for run in runs}),
            "CPU seconds": cost,
            "curves": {arm: curve(runs) for arm, runs in found.items()},
            "table": rows,
            "changes": changes,
        }
        if len(content["sources"]) > 1:
            print("These runs were made by different versions of the code.")
        if output is not None:
            write_json(output, content)

    def tune(self, arms: list[str], rates: list[float], seeds: list[int]) -> list[dict[str, Any]]:
        """A row for each arm and rate: the geometric mean of 2D and aligned 3D joint error is what counts."""
        names = ("2D joints, px", "PA-MPJPE, mm")
        rows = []
        for arm in arms:
            for rate in rates:
                found = [self.result(arm, seed, rate)["errors"] for seed in seeds]
                pixels, space = (mean_of(*stacked(found, name)).item() for name in names)
                rows.append({"arm": arm, "rate": rate, "seeds": len(seeds), names[0]: pixels, names[1]: space})
                rows[-1]["IoU"] = mean_of(*stacked(found, "IoU")).item()
                rows[-1]["geometric mean"] = (pixels * space) ** 0.5
        return rows

    def seconds_per_step(self, arms: list[str], steps: int = 6) -> list[dict[str, Any]]:
        """What a step costs in both stages, and a run's minutes."""
        train, _, rehearsed = self.samples(0)
        settings = self.settings
        per_epoch = len(train) // settings.neighbours * settings.neighbours // settings.batch_size
        rows = []
        for arm in arms:
            quick = replace(settings, first_epochs=0, second_epochs=1, ramp_epochs=0)
            run, nowhere = Run(arm, 1e-4, 0, quick), self.folder / "never written"
            training = Training(run, train, self.priors, nowhere, rehearsed=rehearsed)
            batch = torch.arange(settings.batch_size)
            costs = {}
            for stage, part in (("first", -1e-6), ("second", 0.5)):
                training._step(batch, part, (0, 0, 0))
                began = time.process_time()
                for _ in range(steps):
                    training._step(batch, part, (0, 0, 0))
                costs[stage] = (time.process_time() - began) / steps
            rows.append(
                {
                    "arm": arm,
                    "first stage, s/step": costs["first"],
                    "second stage, s/step": costs["second"],
                    "first stage, minutes": per_epoch * settings.first_epochs * costs["first"] / 60,
                    "second stage, minutes": per_epoch * settings.second_epochs * costs["second"] / 60,
                }
            )
        return rows

    def hours(self, arms: list[str], seeds: int) -> float:
        """CPU hours of a table: every kind of labels has one first stage, every arm a second."""
        rows = self.seconds_per_step(arms)
        firsts = {labels_of(row["arm"]): row["first stage, minutes"] for row in rows}
        return float(seeds * (sum(firsts.values()) + sum(row["second stage, minutes"] for row in rows)) / 60)


def curve(runs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Errors on unseen images in the course of training, means over seeds: a point for each epoch that was kept."""
    points = []
    for epoch, numbers in enumerate(zip(*(run["log"] for run in runs)), start=1):
        names = [name for name in numbers[0] if name.startswith("unseen ") and all(name in each for each in numbers)]
        if names:
            means = {name: sum(each[name] for each in numbers) / len(numbers) for name in names}
            points.append({"epoch": epoch, **means})
    return points


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Five digits of every number: files of finished runs lie in the repository."""
    return {
        name: {part: [float(f"{number:.5g}") for number in numbers] for part, numbers in values.items()}
        for name, values in figures.items()
    }


def source() -> str:
    """Stands for the code that runs: the package's modules in use, and these."""
    modules = [
        module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] in ("texalign", "training")
    ]
    return digest(b"".join(Path(module.__file__).read_bytes() for module in modules if module.__file__))


def load_priors(fine_tuned: Path | None, device: str) -> dict[str, nn.Module]:
    """Those there are."""
    surface = ta.HandSurface.mano()
    priors: dict[str, nn.Module] = {"bundled": ta.UVTextureEncoder.from_pretrained(None, surface).to(device)}
    if fine_tuned is not None:
        priors["fine-tuned"] = ta.UVTextureEncoder.from_pretrained(fine_tuned, surface).to(device)
    return priors


def usable_arms(priors: dict[str, nn.Module]) -> list[str]:
    """Without the fine-tuned prior its arms are left out."""
    return [arm for arm in ARMS if arm not in OF_FINE_TUNED_PRIOR or "fine-tuned" in priors]

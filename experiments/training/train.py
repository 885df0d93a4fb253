"""Training a network, resumable to the bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recording import digest
from texalign._internal import write_whole
from training.arms import FULL, label_objective, labels_of, make_term, settings_of
from training.augmentation import augmented
from training.evaluate import mean_joint_errors
from training.network import HandNetwork, Prediction
from training.order import epoch_batches, seeded
from training.samples import Batch, Samples, as_they_are
from training.settings import Run

# Of the first stage: over one share of it the rate rises, over the other the keypoints' scale falls.
WARM_SHARE, ANNEALED_SHARE = 0.1, 0.6
WEIGHT_DECAY, LARGEST_GRADIENT = 1e-3, 5.0


@dataclass
class Progress:
    """Where a training is.

    Attributes:
        epoch: epochs done, of both stages.
        seconds: CPU seconds spent on this arm, the shared first stage included.
        log: for each epoch the means of what was minimised.
    """

    epoch: int
    seconds: float
    log: list[dict[str, float]]


class Training:
    """A run, from its last checkpoint if there is one.

    Everything random is drawn from generators that follow from seed, epoch and step. A run that was interrupted, and
    runs of other arms, thus see the same images, augmented in the same way, in the same order.

    Args:
        run: what to train.
        samples: the training images.
        priors: see `make_term`.
        folder: keeps checkpoints of all runs on these samples.
        checkpoint_every: epochs.
        watched: unseen images, whose errors go into the log with every checkpoint; nothing is chosen by them.
        rehearsed: generated images with full labels, if the settings ask for any.
    """

    def __init__(
        self,
        run: Run,
        samples: Samples,
        priors: dict[str, nn.Module],
        folder: Path,
        checkpoint_every: int = 5,
        watched: Samples | None = None,
        rehearsed: Samples | None = None,
    ) -> None:
        if run.settings.rehearsed and rehearsed is None:
            raise ValueError(f"Training: expected images to rehearse {run.settings.rehearsed} in every step, got None")
        self.run, self.samples, self.folder = run, samples, folder
        self.watched, self.rehearsed = watched, rehearsed
        self.checkpoint_every = checkpoint_every
        device = samples.image.device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run.seed)
            settings, guided = run.settings, samples.detections is not None
            network = HandNetwork(settings.image_size, guided, settings.corrections)
        if run.settings.start is not None:
            network.begin_with(torch.load(run.settings.start, map_location="cpu", weights_only=True)["network"])
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
        )
        self.term = make_term(run.arm, run.settings, priors, device)
        self.progress = Progress(0, 0.0, [])

    @property
    def file(self) -> Path:
        """The run's own checkpoint."""
        return self.folder / f"{named(self.run)}.pt"

    @property
    def shared_file(self) -> Path:
        """The checkpoint of the first stage, which other arms and rates share."""
        settings = replace(self.run.settings, second_epochs=0, ramp_epochs=0, loss_size=0, token_count=0)
        first = Run(labels_of(self.run.arm), 0.0, self.run.seed, settings)
        return self.folder / f"{named(first)} first stage.pt"

    def resume(self) -> None:
        """Load the newest checkpoint that fits, if any."""
        for file in (self.file, self.shared_file):
            if file.exists():
                state = torch.load(file, map_location=self.samples.image.device, weights_only=True)
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.progress = Progress(**state["progress"])
                return

    def finish(self, stop_after: int | None = None, report: Callable[[str], None] = print) -> HandNetwork:
        """Train to the end, or for so many epochs more, and return the network."""
        self.resume()
        settings, done = self.run.settings, 0
        last = settings.first_epochs + settings.second_epochs
        while self.progress.epoch < last and (stop_after is None or done < stop_after):
            began = time.process_time()
            numbers = self._epoch()
            self.progress.seconds += time.process_time() - began
            self.progress.epoch += 1
            self.progress.log.append(numbers)
            done += 1
            epoch = self.progress.epoch
            if epoch in (settings.first_epochs, last) or epoch % self.checkpoint_every == 0:
                if self.watched is not None:
                    numbers |= {f"unseen {k}": v for k, v in mean_joint_errors(self.network, self.watched).items()}
                self._save(self.shared_file if epoch <= settings.first_epochs else self.file)
                shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
                report(f"{named(self.run)}: epoch {epoch} of {last}, {self.progress.seconds:.0f} s, {shown}")
        return self.network

    def _save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        write_whole(file, partial(torch.save, state))

    def _epoch(self) -> dict[str, float]:
        settings, epoch, seed = self.run.settings, self.progress.epoch, self.run.seed
        batches = epoch_batches(
            len(self.samples), settings.batch_size, settings.neighbours, settings.shifted, seed, epoch
        )
        sums: dict[str, float] = {}
        for step, rows in enumerate(batches):
            part = epoch + step / len(batches)
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(self.run, part)
            for name, value in self._step(rows, part, (seed, epoch, step)).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(batches)
        return sums

    def _predict(self, samples: Samples, rows: Tensor, generator: torch.Generator) -> tuple[Batch, Prediction]:
        """Rows of samples, augmented, and what the network says of them."""
        settings, device = self.run.settings, samples.image.device
        chosen = as_they_are(samples.select(rows.to(device)))
        group = torch.arange(len(rows), device=device) // settings.neighbours
        with torch.no_grad():
            batch = augmented(replace(chosen, group=group), settings.neighbours, generator)
        image = batch.image.contiguous(memory_format=torch.channels_last)
        return batch, self.network(image, batch.camera, batch.detections)

    def _step(self, rows: Tensor, part: float, number: tuple[int, int, int]) -> dict[str, Tensor]:
        """One step, at a part of the epochs; its number, of seed, epoch and step, is what its draws follow from."""
        settings, device = self.run.settings, self.samples.image.device
        seed, epoch, step = number
        generator = seeded(seed, 2, epoch, step)
        batch, prediction = self._predict(self.samples, rows, generator)
        scale, full = scale_at(self.run, part), self.run.arm == FULL
        total = label_objective(self.network.hand, prediction, batch, scale, settings, full)
        values = {"labels": total.detach()}
        if settings.rehearsed:
            assert self.rehearsed is not None
            draws = seeded(seed, 4, epoch, step)
            # Whole groups, so that the augmentation's own draws by group fit.
            groups = len(self.rehearsed) // settings.neighbours
            which = torch.randint(groups, (settings.rehearsed // settings.neighbours,), generator=draws)
            chosen = (settings.neighbours * which[:, None] + torch.arange(settings.neighbours)).flatten()
            again, said = self._predict(self.rehearsed, chosen, draws)
            rehearsal = label_objective(self.network.hand, said, again, scale, settings, full=True)
            values["rehearsal"] = rehearsal.detach()
            total = total + rehearsal
        strength = strength_at(self.run, part)
        if self.term is not None and strength > 0:
            of_term = torch.Generator(device=device).manual_seed(generator.initial_seed())
            added = self.term(prediction, batch, of_term)
            values["term"] = added.detach()
            total = total + strength * added
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        return values


def rate_at(run: Run, epoch: float) -> float:
    """Constant after a warm-up in the first stage; in the second the arm's own, falling to zero by a cosine."""
    settings = run.settings
    if epoch < settings.first_epochs:
        return settings.first_rate * min(1.0, 0.05 + epoch / (WARM_SHARE * settings.first_epochs))
    share = (epoch - settings.first_epochs) / settings.second_epochs
    return run.rate * 0.5 * (1 + math.cos(math.pi * share))


def scale_at(run: Run, epoch: float) -> float:
    """The keypoints' scale, pixels: from a quarter of the image down to its own, or a far hand would feel no pull."""
    settings = run.settings
    share = min(1.0, max(0.0, epoch) / max(1e-9, ANNEALED_SHARE * settings.first_epochs))
    wide = settings.image_size / 4
    return float(wide * (settings.keypoint_scale / wide) ** share)


def strength_at(run: Run, epoch: float) -> float:
    """0 in the first stage, then rising to 1."""
    settings = run.settings
    return min(1.0, max(0.0, (epoch - settings.first_epochs) / max(1e-9, settings.ramp_epochs)))


def named(run: Run) -> str:
    """A file's name: arm, rate, seed, and a digest of the settings that matter to it."""
    settings = asdict(settings_of(run.arm, run.settings))
    # Wherever that file lies.
    settings["start"] = settings["start"] and Path(settings["start"]).name
    return f"{words_of(run.arm)} rate {run.rate:g} seed {run.seed} {digest(json.dumps(settings).encode())[:8]}"


def words_of(arm: str) -> str:
    """An arm as part of a file's name."""
    return arm.replace("+ ", "").replace(",", "").replace(" ", "_")


def described(run: Run, progress: Progress) -> dict[str, Any]:
    """For a result's file."""
    return {"run": asdict(run), "seconds": progress.seconds, "log": progress.log}

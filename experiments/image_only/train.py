"""Training a tail and a head on photographs, arm by arm."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

import texalign as ta
from image_only.evaluate import without_offset
from image_only.examples import NEIGHBOURS, Examples, FrozenViews
from image_only.network import Network, Said, Shown, Views
from texalign.hand import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss
from training.arms import (
    FULL,
    GROUPED,
    MAP_WEIGHT,
    PLAIN,
    SILHOUETTE,
    TEXTURE,
    WEAK,
    make_term,
    map_loss,
    space_error,
)
from training.network import Prediction
from training.order import epoch_batches, seeded, warm_cosine
from training.samples import Batch
from training.settings import Settings as TermSettings

START, CLEAN = "START, untrained", "clean keypoints"
FEW, FEW_TEXTURE = "a tenth labelled", "a tenth labelled, + texture loss"
FREE, FREE_ALONE = "no labels, + texture loss", "no labels, own predictions alone"
ARMS = (WEAK, TEXTURE, GROUPED, PLAIN, SILHOUETTE, CLEAN, FULL)
FEW_ARMS = (FEW, FEW_TEXTURE)
FREE_ARMS = (FREE_ALONE, FREE)
# What an arm adds to its labels, by the name that `make_term` knows.
ADDED = {
    TEXTURE: TEXTURE,
    GROUPED: GROUPED,
    PLAIN: PLAIN,
    SILHOUETTE: SILHOUETTE,
    FEW_TEXTURE: TEXTURE,
    FREE: TEXTURE,
}
# One photograph in so many is labelled.
LABELLED = 10
# Metres: a distance of world landmarks, or of depth, from the untrained network's that counts one.
WORLD_UNIT = 0.01
# Batches that a weight is measured on.
MEASURED = 8
# Photographs at a time, where nothing is trained.
CHUNK = 32
LARGEST_GRADIENT = 5.0
# What an arm adds, unweighted: a scalar.
Term = Callable[[Prediction, Batch, torch.Generator], Tensor]


@dataclass(frozen=True)
class Settings:
    """The same for all arms.

    Attributes:
        epochs: over the photographs.
        rate, head_rate: of the tail and of the head, falling to zero by a cosine.
        batch_size: photographs a step.
        ratio: of an added term's gradient to that of weak labels, at pose and camera.
        world_anchor: weight of the world landmarks' squared distance from the untrained tail's.
        depth_anchor: the same of the joints' depth behind the wrist, from the untrained network's.
        keypoint_scale: pixels, of the robust keypoint loss.
        late: share of the steps before an added term begins; until then arms of the same labels are one training.
    """

    epochs: int = 3
    rate: float = 1e-4
    head_rate: float = 1e-4
    batch_size: int = 8
    ratio: float = 0.5
    world_anchor: float = 0.1
    depth_anchor: float = 0.5
    keypoint_scale: float = 4.0
    late: float = 0.0


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    seed: int
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, eq=False)
class Labels:
    """What the photographs' objective is made of.

    Attributes:
        keypoints: (N, 21, 2) pixels, NaN where there are none.
        full: (N,) bool, where true joints are learned from too.
    """

    keypoints: Tensor
    full: Tensor


def labels_of(arm: str, examples: Examples, clean: Tensor, weak: Tensor, start: Tensor) -> Labels:
    """An arm's labels.

    Args:
        arm: of those above.
        examples: to train on.
        clean: (N, 21, 2) keypoints.
        weak: (N, 21, 2) noisy keypoints.
        start: (N, 21, 2) joints of the untrained network, which unlabelled photographs are anchored to, or NaN.
    """
    nowhere = torch.zeros(len(examples), dtype=torch.bool)
    if arm == FULL:
        known = examples.joints.isfinite().all(dim=(1, 2))
        true = examples.camera.project(examples.joints)
        return Labels(torch.where(known[:, None, None], true, clean), known)
    if arm == CLEAN:
        return Labels(clean, nowhere)
    if arm in FREE_ARMS:
        return Labels(start, nowhere)
    if arm in FEW_ARMS:
        # Whole groups, spread over all sets.
        labelled = torch.arange(len(examples)) // NEIGHBOURS % LABELLED == 0
        return Labels(torch.where(labelled[:, None, None], weak, start), nowhere)
    return Labels(weak, nowhere)


def labels_name(arm: str) -> str:
    """The arm that has the same labels and adds nothing to them."""
    if arm in FEW_ARMS:
        return FEW
    if arm in FREE_ARMS:
        return FREE_ALONE
    return arm if arm in (CLEAN, FULL) else WEAK


@dataclass(frozen=True, eq=False)
class Begun:
    """A training of labels alone, up to where an added term begins."""

    network: Network
    optimizer: torch.optim.Optimizer
    seconds: float


class Trainer:
    """Trains arms on the same photographs, from the same network.

    Args:
        start: the untrained network.
        examples: photographs in groups of `NEIGHBOURS`.
        views: of them.
        prior: of the texture.
        offset: (21, 2), the untrained network's `mean_offset` on training photographs: a detector's keypoints are moved
            by it to where the mesh has its joints, or fingers shrink to where a detector sees their tips.
        rehearsal: what is minimised in every step beside the photographs' objective, or None.
    """

    def __init__(
        self,
        start: Network,
        examples: Examples,
        views: Views,
        prior: nn.Module,
        offset: Tensor,
        rehearsal: Callable[[Network, torch.Generator], Tensor] | None = None,
    ) -> None:
        self.start, self.examples, self.views, self.prior = start, examples, views, prior
        self.rehearsal = rehearsal
        self.clean = without_offset(examples.detections, examples.detections, -offset)
        self._begun: dict[tuple[str, int, Settings], Begun] = {}

    @cached_property
    def depth(self) -> Tensor:
        """(K, N, 21) metres, of the untrained network's joints behind its wrist, by view."""
        assert isinstance(self.views, FrozenViews)
        count, found = len(self.examples), []
        for view in range(len(self.views.maps)):
            for rows in torch.arange(count).split(CHUNK):
                shown = self.views.of(torch.full_like(rows, view), rows)
                with torch.no_grad():
                    said = self.start(shown.image, shown.crop, self.examples.camera[rows]).prediction
                found.append(behind_wrist(said))
        return torch.cat(found).unflatten(0, (-1, count))

    def train(
        self, run: Run, weak: Tensor, start_joints: Tensor, weight: float, report: Callable[[str], None] = print
    ) -> tuple[Network, float]:
        """The trained network, and CPU seconds.

        Args:
            run: what to train.
            weak: (N, 21, 2) noisy keypoints.
            start_joints: (N, 21, 2) of the untrained network.
            weight: of the arm's term, from `weight_of`.
            report: called with a line an epoch.
        """
        labels = labels_of(run.arm, self.examples, self.clean, weak, start_joints)
        begun = copy.deepcopy(self.begun(run, labels, report))
        began, term = time.process_time(), self.term(run.arm)
        added = None if term is None else (term, weight)
        last = run.settings.epochs * len(self.batches(run, 0))
        self._steps(begun, run, labels, self.first_step(run), last, added, report)
        return begun.network, begun.seconds + time.process_time() - began

    def first_step(self, run: Run) -> int:
        """In which an added term begins; without labels there is nothing to wait for."""
        if run.arm in FREE_ARMS:
            return 0
        return math.ceil(run.settings.late * run.settings.epochs * len(self.batches(run, 0)))

    def begun(self, run: Run, labels: Labels, report: Callable[[str], None] = print) -> Begun:
        """Trained on labels alone up to the `first_step`, made once for all arms of the same labels."""
        key = (labels_name(run.arm), run.seed, run.settings)
        if key not in self._begun:
            began, network = time.process_time(), copy.deepcopy(self.start)
            groups = network.groups(run.settings)
            optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=1e-4)
            self._steps(Begun(network, optimizer, 0.0), run, labels, 0, self.first_step(run), None, report)
            self._begun[key] = Begun(network, optimizer, time.process_time() - began)
        return self._begun[key]

    def _steps(
        self,
        begun: Begun,
        run: Run,
        labels: Labels,
        first: int,
        last: int,
        added: tuple[Term, float] | None,
        report: Callable[[str], None],
    ) -> None:
        """Steps of these numbers, with an added term and its weight or none."""
        network, optimizer, settings = begun.network, begun.optimizer, run.settings
        sums, batches = torch.zeros(3), self.batches(run, 0)
        for number in range(first, last):
            epoch, step = divmod(number, len(batches))
            if step == 0 or number == first:
                batches = self.batches(run, epoch)
            share = number / len(batches) / settings.epochs
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * warm_cosine(share, 0.1)
            generator = seeded(run.seed, 2, epoch, step)
            term = None if added is None else added[0]
            alone, of_term = self.objectives(network, run, batches[step], labels, term, generator)
            total = alone.mean()
            sums[0] += total.detach()
            if of_term is not None and added is not None:
                sums[1] += of_term.detach()
                total = total + added[1] * of_term
            if self.rehearsal is not None:
                again = self.rehearsal(network, seeded(run.seed, 4, epoch, step))
                sums[2] += again.detach()
                total = total + again
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], LARGEST_GRADIENT)
            optimizer.step()
            if step == len(batches) - 1:
                means = [f"{name} {value:.4g}" for name, value in zip(("labels", "term", "again"), sums / len(batches))]
                report(f"{run.arm}, seed {run.seed}: epoch {epoch + 1}, {', '.join(means)}")
                sums.zero_()

    def batches(self, run: Run, epoch: int) -> list[Tensor]:
        """Rows of an epoch, the same for all arms."""
        return epoch_batches(len(self.examples), run.settings.batch_size, NEIGHBOURS, False, run.seed, epoch)

    def term(self, arm: str) -> Term | None:
        """What an arm adds, unweighted."""
        added = ADDED.get(arm)
        if added is None:
            return None
        one = TermSettings(texture_weight=1.0, plain_weight=1.0, silhouette_weight=1.0)
        return make_term(added, one, {"bundled": self.prior}, torch.device("cpu"))

    def weight_of(self, run: Run, weak: Tensor) -> float:
        """The weight of an arm's term: `balanced_weight` beside weak labels, mean over the first batches.

        It is measured on the network that the term is added to: START, or what weak labels have made of it.
        """
        term = self.term(run.arm)
        if term is None:
            return 0.0
        labels = Labels(weak, torch.zeros(len(weak), dtype=torch.bool))
        network = self.begun(replace(run, arm=WEAK), labels).network
        weights = []
        for step, rows in enumerate(self.batches(run, 0)[:MEASURED]):
            found: list[Prediction] = []
            generator = seeded(run.seed, 2, 0, step)
            alone, added = self.objectives(network, run, rows, labels, term, generator, found)
            assert added is not None
            parameters = found[0].parameters
            at = (parameters.angles, parameters.orientation, parameters.translation)
            weights.append(ta.balanced_weight(added, alone.mean(), at, run.settings.ratio))
        return torch.stack(weights).mean().item()

    def objectives(
        self,
        network: Network,
        run: Run,
        rows: Tensor,
        labels: Labels,
        term: Term | None,
        generator: torch.Generator,
        found: list[Prediction] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Of a batch: labels and anchor (B,), and what is added, a scalar. `found` gets the prediction."""
        settings = run.settings
        shown = self.views.drawn(rows, generator)
        part = self.examples.select(rows)
        whole = network(shown.image, shown.crop, part.camera)
        said = whole.prediction
        if found is not None:
            found.append(said)
        keypoints, full = labels.keypoints[rows], labels.full[rows]
        alone = KEYPOINT_WEIGHT * keypoint_loss(said.joints, part.camera, keypoints, settings.keypoint_scale)
        alone = alone + anatomy_loss(network.head.hand, said.parameters)
        if said.maps.shape[1]:
            alone = alone + MAP_WEIGHT * map_loss(said.maps, shown.crop.shares(keypoints), 1)
        # True joints need no anchor.
        alone = alone + torch.where(full, 0, self.anchor(whole, shown, rows, settings))
        group = torch.arange(len(rows)) // NEIGHBOURS
        # Hands without labels are taken to be where the network sees them.
        keypoints = torch.where(keypoints.isfinite(), keypoints, part.camera.project(said.joints).detach())
        batch = Batch(part.image, part.valid, part.mask, part.valid, part.camera, keypoints, part.joints, None, group)
        if full.any():
            joints = torch.where(full[:, None, None], part.joints, said.joints.detach())
            wrong = space_error(said, replace(batch, joints=joints))
            alone = alone + 2.0 * torch.where(full, wrong, 0)
        if term is None:
            return alone, None
        drawn = torch.Generator().manual_seed(generator.initial_seed())
        return alone, term(said, batch, drawn)

    def anchor(self, whole: Said, shown: Shown, rows: Tensor, settings: Settings) -> Tensor:
        """(B,): how far a network that has world landmarks is from what it said untrained; 0 of others."""
        if whole.world is None or shown.world is None:
            return torch.zeros(len(rows))
        distance = ((whole.world - shown.world) / WORLD_UNIT).square().sum(dim=-1).mean(dim=1)
        deeper = ((behind_wrist(whole.prediction) - self.depth[shown.view, rows]) / WORLD_UNIT).square().mean(dim=1)
        return settings.world_anchor * distance + settings.depth_anchor * deeper


def behind_wrist(said: Prediction) -> Tensor:
    """(B, 21) metres."""
    return said.joints[..., 2] - said.joints[:, :1, 2]

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
from image_only.examples import NEIGHBOURS, Examples, Views
from image_only.network import ImageOnly
from texalign.hand import KEYPOINT_WEIGHT, anatomy_loss, keypoint_loss
from training.arms import FULL, GROUPED, PLAIN, SILHOUETTE, TEXTURE, WEAK, make_term, space_error
from training.network import Prediction
from training.order import epoch_batches, seeded
from training.samples import Batch
from training.settings import Settings as TermSettings

START, CLEAN = "START, untrained", "clean keypoints"
FEW, FEW_TEXTURE = "a tenth labelled", "a tenth labelled, + texture loss"
FREE = "no labels, + texture loss"
ARMS = (WEAK, TEXTURE, GROUPED, PLAIN, SILHOUETTE, CLEAN, FULL)
FEW_ARMS = (FEW, FEW_TEXTURE)
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
        late: share of the steps before an added term begins.
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
        keypoints: (N, 21, 2) pixels.
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
        start: (N, 21, 2) joints of the untrained network, which unlabelled photographs are anchored to.
    """
    nowhere = torch.zeros(len(examples), dtype=torch.bool)
    if arm == FULL:
        known = examples.joints.isfinite().all(dim=(1, 2))
        true = examples.camera.project(examples.joints)
        return Labels(torch.where(known[:, None, None], true, clean), known)
    if arm == CLEAN:
        return Labels(clean, nowhere)
    if arm == FREE:
        return Labels(start, nowhere)
    if arm in FEW_ARMS:
        # Whole groups, spread over all sets.
        labelled = torch.arange(len(examples)) // NEIGHBOURS % LABELLED == 0
        return Labels(torch.where(labelled[:, None, None], weak, start), nowhere)
    return Labels(weak, nowhere)


class Trainer:
    """Trains arms on the same photographs, from the same network.

    Args:
        start: the untrained network.
        examples: photographs in groups of `NEIGHBOURS`.
        views: of them.
        prior: of the texture.
        offset: (21, 2), the untrained network's `mean_offset` on training photographs: a detector's keypoints are moved
            by it to where the mesh has its joints, or fingers shrink to where a detector sees their tips.
    """

    def __init__(self, start: ImageOnly, examples: Examples, views: Views, prior: nn.Module, offset: Tensor) -> None:
        self.start, self.examples, self.views, self.prior = start, examples, views, prior
        self.clean = without_offset(examples.detections, examples.detections, -offset)

    @cached_property
    def depth(self) -> Tensor:
        """(K, N, 21) metres, of the untrained network's joints behind its wrist, by view."""
        count, found = len(self.examples), []
        for view in range(len(self.views.maps)):
            for rows in torch.arange(count).split(CHUNK):
                maps, crop, _ = self.views.of(torch.full_like(rows, view), rows)
                with torch.no_grad():
                    found.append(behind_wrist(self.start(maps, crop, self.examples.camera[rows]).prediction))
        return torch.cat(found).unflatten(0, (-1, count))

    def train(
        self, run: Run, weak: Tensor, start_joints: Tensor, weight: float, report: Callable[[str], None] = print
    ) -> tuple[ImageOnly, float]:
        """The trained network, and CPU seconds.

        Args:
            run: what to train.
            weak: (N, 21, 2) noisy keypoints.
            start_joints: (N, 21, 2) of the untrained network.
            weight: of the arm's term, from `weight_of`.
            report: called with a line an epoch.
        """
        began, settings = time.process_time(), run.settings
        network = copy.deepcopy(self.start)
        groups = [
            {"params": list(network.tail.parameters()), "rate": settings.rate},
            {"params": list(network.head.parameters()), "rate": settings.head_rate},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=1e-4)
        labels, term = labels_of(run.arm, self.examples, self.clean, weak, start_joints), self.term(run.arm)
        for epoch in range(settings.epochs):
            batches = self.batches(run, epoch)
            sums = torch.zeros(2)
            for step, rows in enumerate(batches):
                share = (epoch + step / len(batches)) / settings.epochs
                for group in optimizer.param_groups:
                    group["lr"] = group["rate"] * min(1.0, 0.1 + 10 * share) * 0.5 * (1 + math.cos(math.pi * share))
                generator = seeded(run.seed, 2, epoch, step)
                alone, added = self.objectives(network, run, rows, labels, term, generator)
                total = alone.mean()
                sums[0] += total.detach() / len(batches)
                if added is not None and share >= settings.late:
                    sums[1] += added.detach() / len(batches)
                    total = total + weight * added
                optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimizer.step()
            report(f"{run.arm}, seed {run.seed}: epoch {epoch + 1}, labels {sums[0]:.4g}, term {sums[1]:.4g}")
        return network, time.process_time() - began

    def batches(self, run: Run, epoch: int) -> list[Tensor]:
        """Rows of an epoch, the same for all arms."""
        return epoch_batches(len(self.examples), run.settings.batch_size, NEIGHBOURS, False, run.seed, epoch)

    def term(self, arm: str) -> Callable[[Prediction, Batch, torch.Generator], Tensor] | None:
        """What an arm adds, unweighted."""
        added = ADDED.get(arm)
        if added is None:
            return None
        one = TermSettings(texture_weight=1.0, plain_weight=1.0, silhouette_weight=1.0)
        return make_term(added, one, {"bundled": self.prior}, torch.device("cpu"))

    def weight_of(self, run: Run, weak: Tensor) -> float:
        """The weight of an arm's term: `balanced_weight` beside weak labels, mean over the first batches of START."""
        term = self.term(run.arm)
        if term is None:
            return 0.0
        labels = Labels(weak, torch.zeros(len(weak), dtype=torch.bool))
        weights = []
        for step, rows in enumerate(self.batches(run, 0)[:MEASURED]):
            found: list[Prediction] = []
            generator = seeded(run.seed, 2, 0, step)
            alone, added = self.objectives(self.start, run, rows, labels, term, generator, found)
            assert added is not None
            parameters = found[0].parameters
            at = (parameters.angles, parameters.orientation, parameters.translation)
            weights.append(ta.balanced_weight(added, alone.mean(), at, run.settings.ratio))
        return torch.stack(weights).mean().item()

    def objectives(
        self,
        network: ImageOnly,
        run: Run,
        rows: Tensor,
        labels: Labels,
        term: Callable[[Prediction, Batch, torch.Generator], Tensor] | None,
        generator: torch.Generator,
        found: list[Prediction] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Of a batch: labels and anchor (B,), and what is added, a scalar. `found` gets the prediction."""
        settings = run.settings
        view = torch.randint(len(self.views.maps), (len(rows),), generator=generator)
        maps, crop, frozen = self.views.of(view, rows)
        part = self.examples.select(rows)
        said, world = network(maps, crop, part.camera)
        if found is not None:
            found.append(said)
        keypoints, full = labels.keypoints[rows], labels.full[rows]
        alone = KEYPOINT_WEIGHT * keypoint_loss(said.joints, part.camera, keypoints, settings.keypoint_scale)
        alone = alone + anatomy_loss(network.head.hand, said.parameters)
        distance = ((world - frozen) / WORLD_UNIT).square().sum(dim=-1).mean(dim=1)
        deeper = ((behind_wrist(said) - self.depth[view, rows]) / WORLD_UNIT).square().mean(dim=1)
        # True joints need no anchor.
        alone = alone + torch.where(full, 0, settings.world_anchor * distance + settings.depth_anchor * deeper)
        group = torch.arange(len(rows)) // NEIGHBOURS
        batch = Batch(part.image, part.valid, part.mask, part.valid, part.camera, keypoints, part.joints, None, group)
        if full.any():
            joints = torch.where(full[:, None, None], part.joints, said.joints.detach())
            wrong = space_error(said, replace(batch, joints=joints))
            alone = alone + 2.0 * torch.where(full, wrong, 0)
        if term is None:
            return alone, None
        drawn = torch.Generator().manual_seed(generator.initial_seed())
        return alone, term(said, batch, drawn)


def behind_wrist(said: Prediction) -> Tensor:
    """(B, 21) metres."""
    return said.joints[..., 2] - said.joints[:, :1, 2]

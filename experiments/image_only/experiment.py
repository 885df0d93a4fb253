"""Runs of image-only networks that are made once and kept, and their checkpoints."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import texalign as ta
from image_only.backbone import Backbone
from image_only.encoder import (
    ENCODER,
    REHEARSED_FROM,
    Encoder,
    PhotographViews,
    Rehearsal,
    encoder_start,
)
from image_only.evaluate import errors, mean_offset, seen_joints
from image_only.examples import (
    KINDS,
    NEIGHBOURS,
    TEST,
    TRAIN,
    VIEWS,
    Examples,
    Split,
    generated_examples,
    joined,
    read_folder,
    read_split,
    trained_on,
    tuning_parts,
    views_of,
    weak_labels,
)
from image_only.mesh_head import MeshHead, start_head
from image_only.network import ImageOnly, Network, Views
from image_only.train import (
    ADDED,
    ARMS,
    CLEAN,
    FEW_ARMS,
    FREE,
    FREE_ARMS,
    FULL,
    START,
    Run,
    Settings,
    Trainer,
)
from recording import digest, environment
from texalign._internal import write_whole
from training.arms import GROUPED, PLAIN, SILHOUETTE, TEXTURE, WEAK
from training.synthetic_samples import TEST_SEED, TRAIN_SEED, synthetic_samples
from training.synthetic_samples import VIEWS as VIEWS_OF_A_HAND
from training.train import words_of


class Approach(Protocol):
    """A kind of network: `Landmarks`, `EncoderAlone`.

    Attributes:
        settings: its own.
        arms: in the order in which they are trained.
        split: photographs to train on.
        anchored: whether photographs without labels are held at START's joints beside labelled ones.
    """

    settings: Settings
    arms: tuple[str, ...]
    split: Split
    anchored: bool

    def network(self) -> Network:
        """Weights are to be loaded into it."""

    def start(self, keep: Path) -> Network:
        """Untrained on photographs; what it is made of is kept in a folder."""

    def views(self, examples: Examples, keep: Path | None, views: int = VIEWS) -> Views:
        """Of photographs."""

    def offset(self, start: Network, examples: Examples) -> Tensor | None:
        """The `mean_offset` that labels are moved by; None for that of START as it sees the photographs."""

    def rehearsal(self, keep: Path) -> Rehearsal | None:
        """Of every step."""

    def generated(self, keep: Path) -> Examples | None:
        """To be measured on beside photographs."""


# Generated images to measure on.
GENERATED = 800


class Landmarks:
    """MediaPipe's landmark network, its stem frozen, and a mesh head.

    Args:
        backbone: untrained.
    """

    settings, split, anchored = Settings(), TRAIN, True
    arms: tuple[str, ...] = (START, *ARMS, *FEW_ARMS, FREE)

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone.eval()

    def network(self) -> Network:
        """See `Approach`, as of the others."""
        return ImageOnly(copy.deepcopy(self.backbone.tail), MeshHead())

    def start(self, keep: Path) -> Network:
        """The untrained tail, and the head trained on posed hands."""
        return ImageOnly(self.backbone.tail, start_head(keep))

    def views(self, examples: Examples, keep: Path | None, views: int = VIEWS) -> Views:
        """What the frozen stem sees."""
        return views_of(self.backbone, examples, keep, views)

    def offset(self, start: Network, examples: Examples) -> None:
        """None."""

    def rehearsal(self, keep: Path) -> None:
        """None: it is anchored."""

    def generated(self, keep: Path) -> None:
        """None: it has never seen any."""


class EncoderAlone:
    """An image classifier with maps and a mesh head behind it, trained whole.

    Args:
        classifier: file of its weights, see `image_only.classifier`; `evaluate` needs none.
    """

    # Twice the photographs of the other network: all of its features are trained.
    settings, split, anchored = ENCODER, replace(TRAIN, sld_each=8, hgr_each=64), False
    arms: tuple[str, ...] = (START, WEAK, TEXTURE, CLEAN, FULL, SILHOUETTE, PLAIN, GROUPED, *FEW_ARMS, *FREE_ARMS)

    def __init__(self, classifier: Path | None = None) -> None:
        self.classifier = classifier

    def network(self) -> Network:
        """See `Approach`, as of the others."""
        return Encoder()

    def start(self, keep: Path) -> Network:
        """Trained on generated images."""
        if self.classifier is None:
            raise ValueError("EncoderAlone: expected a file of the classifier's weights to train START from, got None")
        return encoder_start(self.classifier, keep)

    def views(self, examples: Examples, keep: Path | None, views: int = VIEWS) -> Views:
        """Their pixels."""
        return PhotographViews(examples.image)

    def offset(self, start: Network, examples: Examples) -> Tensor:
        """Of the head where it is told the detector's keypoints: what it sees of photographs is too far off."""
        assert isinstance(start, Encoder)
        laid = start.laid_on(examples.detections, examples.image, examples.camera)
        return mean_offset(laid, examples.detections)

    def rehearsal(self, keep: Path) -> Rehearsal:
        """The first of the images that START is trained on."""
        return Rehearsal(synthetic_samples(keep, REHEARSED_FROM, TRAIN_SEED, 0))

    def generated(self, keep: Path) -> Examples:
        """Other hands than START is trained on."""
        return generated_examples(synthetic_samples(keep, GENERATED, TEST_SEED, 0), VIEWS_OF_A_HAND)


@dataclass(frozen=True, eq=False)
class Seen:
    """Photographs, and what a network is shown of them."""

    examples: Examples
    views: Views

    def select(self, rows: Tensor) -> Seen:
        """Some of them."""
        return Seen(self.examples.select(rows), self.views.select(rows))


class ImageOnlyExperiment:
    """Arms on photographs of many people.

    Args:
        approach: the kind of network.
        people: folder of `sld` and `hgr`.
        video: folder of the frames, or None.
        keep: folder of unfinished things and checkpoints.
        tuning: trains and tests on training people only.
    """

    def __init__(self, approach: Approach, people: Path, video: Path | None, keep: Path, tuning: bool = False) -> None:
        self.approach, self.people, self.video, self.keep = approach, people, video, keep
        self.splits, self.tuning = (approach.split, TEST), tuning
        self._trainers: dict[bool, Trainer] = {}
        self.folder = keep / ("tuning" if tuning else "runs")

    @cached_property
    def start(self) -> Network:
        """Before any photograph, made once."""
        return self.approach.start(self.keep)

    @cached_property
    def train(self) -> Seen:
        """Photographs to train on, in groups."""
        seen = self._parts[0] if self.tuning else self._of_training_people
        return seen.select(trained_on(seen.examples))

    @cached_property
    def test(self) -> Seen:
        """Photographs of other people, and other frames; perhaps generated images."""
        return self._parts[1] if self.tuning else self._read(1, 1, self.approach.generated(self.keep))

    @cached_property
    def free(self) -> Seen:
        """The test photographs, in groups, as `FREE` trains on them."""
        return self._read(1, NEIGHBOURS)

    def _read(self, which: int, neighbours: int, others: Examples | None = None) -> Seen:
        examples = read_split(self.splits[which], self.people, self.video, self.keep / "fits", neighbours)
        examples = examples if others is None else joined([examples, others])
        return Seen(examples, self.approach.views(examples, self.keep))

    @cached_property
    def _of_training_people(self) -> Seen:
        return self._read(0, NEIGHBOURS)

    @cached_property
    def _parts(self) -> list[Seen]:
        whole = self._of_training_people
        return [whole.select(rows) for rows in tuning_parts(whole.examples)]

    def file(self, run: Run, suffix: str) -> Path:
        """Of a run."""
        mine = digest(json.dumps(asdict(run.settings)).encode())[:8]
        return self.folder / f"{words_of(run.arm)} seed {run.seed} {mine}.{suffix}"

    def result(self, run: Run) -> dict[str, Any]:
        """Train, measure and keep; or what was kept."""
        file = self.file(run, "json")
        if not file.exists():
            network, seconds, weight = self.trained(run)
            offset = self.offset(network)
            found = errors(network, self.test.examples, self.test.views, offset)
            file.parent.mkdir(parents=True, exist_ok=True)
            state = {"network": network.state_dict(), "offset": offset, "run": asdict(run)}
            write_whole(self.file(run, "pt"), partial(torch.save, state))
            content = {"run": asdict(run), "seconds": seconds, "weight": weight, "environment": environment()}
            content["errors"] = {name: values.tolist() for name, values in found.items()}
            write_whole(file, lambda path: path.write_text(json.dumps(content)))
        return dict(json.loads(file.read_text()))

    def trainer(self, free: bool) -> Trainer:
        """Of the training photographs, or of the test photographs without labels; made once."""
        if free not in self._trainers:
            seen = self.free if free else self.train
            offset = self.approach.offset(self.start, self.train.examples)
            offset = self.offset(self.start) if offset is None else offset
            rehearsal = self.approach.rehearsal(self.keep)
            self._trainers[free] = Trainer(self.start, seen.examples, seen.views, prior(), offset, rehearsal)
        return self._trainers[free]

    def trained(self, run: Run) -> tuple[Network, float, float]:
        """A network, CPU seconds, and the weight of the arm's term."""
        if run.arm == START:
            return self.start, 0.0, 0.0
        trainer = self.trainer(run.arm in FREE_ARMS)
        weight = self.weight(run)
        if self.approach.anchored or run.arm in FREE_ARMS:
            joints = seen_joints(self.start, trainer.examples, trainer.views)
        else:
            joints = torch.full_like(trainer.clean, torch.nan)
        weak = weak_labels(trainer.clean, run.seed)
        network, seconds = trainer.train(run, weak, joints, weight, partial(print, flush=True))
        return network, seconds, weight

    def weight(self, run: Run) -> float:
        """Of an arm's term, always measured beside weak labels on all training photographs."""
        if run.arm not in ADDED:
            return 0.0
        trainer = self.trainer(False)
        return trainer.weight_of(run, weak_labels(trainer.clean, run.seed))

    def network(self, run: Run) -> Network:
        """As trained, from its checkpoint."""
        self.result(run)
        network = self.approach.network()
        network.load_state_dict(torch.load(self.file(run, "pt"), weights_only=True)["network"])
        return network

    def counts(self) -> dict[str, dict[str, int]]:
        """Photographs of each kind that are trained and tested on."""
        return {
            name: {kind: int((seen.examples.kind == number).sum()) for number, kind in enumerate(KINDS)}
            for name, seen in (("train", self.train), ("test", self.test))
        }

    def offset(self, network: Network) -> Tensor:
        """See `mean_offset`, of every third training photograph."""
        some = self.train.select(torch.arange(0, len(self.train.examples), 3))
        return mean_offset(seen_joints(network, some.examples, some.views), some.examples.detections)


def evaluated(
    approach: Approach, checkpoint: Path, folder: Path, keep: Path, padded: bool, shift: tuple[float, float]
) -> dict[str, Any]:
    """Means over all photographs of a folder; what the folder does not tell is left out.

    Args:
        approach: the kind of network.
        checkpoint: a file that `ImageOnlyExperiment.result` kept.
        folder: see `read_folder`, as are `padded` and `shift`.
        keep: folder of unfinished things.
        padded: of `read_folder`.
        shift: of `read_folder`.
    """
    state = torch.load(checkpoint, weights_only=True)
    examples = read_folder(folder, keep / "fits", padded, shift)
    views = approach.views(examples, None, views=1)
    network = approach.network()
    network.load_state_dict(state["network"])
    found = errors(network, examples, views, state["offset"])
    means = {name: values.nanmean().item() for name, values in found.items() if values.isfinite().any()}
    return {"photographs": len(examples), "people": len(examples.person.unique())} | means


def prior() -> ta.UVTextureEncoder:
    """The bundled one."""
    return ta.UVTextureEncoder.from_pretrained(None, ta.HandSurface.mano())

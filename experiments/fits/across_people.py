"""Sections of `python experiments/fits` on photographs of many people: which ratio, final tables, and other noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import texalign as ta
from fits.people import SLD_SHIFT, People, generated, read_frames, read_people
from fits.people_fits import (
    BASE,
    CHUNK,
    Errors,
    Term,
    arm_table,
    errors,
    fitted,
    labels_of,
    mask_term,
    skin_table,
    start_of,
    texture_term,
    weight_at_one,
)
from fits.real_refinement import from_lists, to_lists
from fits.stand_ins import MeanColour, PlainDifference
from fits.store import Store
from recording import digest
from texalign.hand import HandModel, HandParameters, pose_hand
from texalign.viz import contact_sheet, mark, outline, save_png

# The ratio of the final tables, and those that it was chosen from.
RATIO, RATIOS = 1.0, (0.25, 0.5, 1.0, 2.0, 4.0)
# Seeds of the labels' noise.
NOISY = "detector + noise"
LABELS = {NOISY: 1, "detector": None}
BUNDLED, MEAN, PLAIN, MASK = "+ loss, bundled prior", "+ loss, mean colour", "+ plain difference", "+ mask"
# Seeds of the labels' noise, and the arms that they are tried on.
NOISE_SEEDS, NOISE_ARMS = (1, 2), (BUNDLED, MEAN, MASK)
# What the ratio is chosen on, and what the final tables are of: other people, and other frames of the video.
# Of hgr several photographs a person, of sld one.
TUNING_HGR, TUNING_EACH, TUNING_SLD, TUNING_FRAMES, TUNING_SEED = (1, 2), 8, range(1, 21), range(0, 298, 19), 30_000
HGR, EACH, SLD, FRAMES = (0, 3, 4, 5, 6, 7), 6, range(21, 159, 4), range(318, 398, 4)
WORST = 10
Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """Fits of one set to one kind of labels, by arm: what was measured, where the hands are, the weights."""

    people: People
    errors: dict[str, Errors]
    fits: dict[str, HandParameters]
    weights: dict[str, float]


class AcrossPeople:
    """Fits of several sets of photographs, kept in a store.

    Args:
        renderer: 128 pixels.
        priors: by name, "bundled" among them.
        people: folder that holds `sld` and `hgr`.
        video: folder of the video's frames, or None.
        keep: where unfinished work is kept, and the pictures of the worst.
    """

    def __init__(
        self,
        renderer: ta.TexturedHandRenderer,
        priors: Mapping[str, nn.Module],
        people: Path,
        video: Path | None,
        keep: Path,
    ) -> None:
        self.renderer, self.folder, self.video, self.keep = renderer, people, video, keep
        self.store = Store(keep, {"section": "people"})
        self.terms: dict[str, Term] = {}
        self.digests: dict[str, str] = {}

        def add(name: str, term: Term, prior: nn.Module | None = None) -> None:
            self.terms[name], self.digests[name] = term, "" if prior is None else digest_of(prior)

        def loss(prior: nn.Module) -> nn.Module:
            return ta.DenseTextureAlignmentLoss(renderer, prior, reduction="none")

        for name, prior in priors.items():
            add(f"+ loss, {name} prior", texture_term(loss(prior)), prior)
        add(MEAN, texture_term(loss(MeanColour())))
        add(PLAIN, texture_term(PlainDifference(renderer, priors["bundled"])), priors["bundled"])
        add(MASK, mask_term(renderer))

    def settings(self, section: str) -> dict[str, Any]:
        """What a section's tables are of, for the record."""
        tuned = section == "ratios"
        hgr, each, sld, frames = (
            (TUNING_HGR, TUNING_EACH, TUNING_SLD, TUNING_FRAMES) if tuned else (HGR, EACH, SLD, FRAMES)
        )
        chosen = {"hgr": list(hgr), "of each of hgr": each, "sld": list(sld), "frames": list(frames)}
        seeds = list(NOISE_SEEDS) if section == "noise" else LABELS[NOISY]
        return chosen | {"ratios": list(RATIOS) if tuned else [RATIO], "seeds of the labels' noise": seeds}

    def ratio_tables(self) -> Tables:
        """By set: the bundled prior at every ratio, by noisy labels, on the people that it is chosen on."""
        sets = self._sets(TUNING_HGR, TUNING_EACH, TUNING_SLD, TUNING_FRAMES)
        sets["generated"] = generated(CHUNK, self.renderer.height, TUNING_SEED)
        runs = {name: self._run(name, people, LABELS[NOISY], [BUNDLED], RATIOS) for name, people in sets.items()}
        return {f"{name}, {NOISY}": arm_table([run.errors], [run.weights], run.people) for name, run in runs.items()}

    def final_tables(self) -> Tables:
        """All arms at the chosen ratio by set and labels, the bundled prior by skin, and the worst photographs."""
        tables: Tables = {}
        for name, people in self._sets(HGR, EACH, SLD, FRAMES).items():
            runs = {labels: self._run(name, people, seed, list(self.terms), [RATIO]) for labels, seed in LABELS.items()}
            for labels, run in runs.items():
                tables[f"{name}, {labels}"] = arm_table([run.errors], [run.weights], people)
                tables[f"{name}, {labels}, by skin"] = skin_table(run.errors, BUNDLED, people)
            tables[f"{name}, the worst"] = self._worst(name, runs)
        return tables

    def noise_tables(self) -> Tables:
        """Some arms, by noisy labels: the mean over several seeds of the noise, and each by itself."""
        tables: Tables = {}
        for name, people in self._sets(HGR, EACH, SLD, FRAMES).items():
            runs = [self._run(name, people, seed, NOISE_ARMS, [RATIO]) for seed in NOISE_SEEDS]
            for title, some in (("", runs), *((f", seed {seed}", [run]) for seed, run in zip(NOISE_SEEDS, runs))):
                found = arm_table([run.errors for run in some], [run.weights for run in some], people)
                tables[f"{name}, {NOISY}{title}"] = found
        return tables

    def _sets(self, hgr: Iterable[int], each: int, sld: Iterable[int], frames: Iterable[int]) -> dict[str, People]:
        renderer, keep = self.renderer, self.keep
        sets = {
            "hgr": read_people(self.folder / "hgr", hgr, each, renderer, keep, padded=True),
            "sld": read_people(self.folder / "sld", sld, 1, renderer, keep, shift=SLD_SHIFT),
        }
        if self.video is not None:
            sets["video"] = read_frames(self.video, frames, renderer, keep)
        for name, people in sets.items():
            persons = len(people.person.unique())
            print(f"{name}: {len(people)} of {persons} people or blocks, {people.left_out} left out", flush=True)
        return sets

    def _run(self, name: str, people: People, seed: int | None, arms: Sequence[str], ratios: Sequence[float]) -> Run:
        """The labels alone, and every arm at every ratio; `seed` of the labels' noise, None for the detector's."""
        marks = labels_of(people, seed)
        mine = f"{name} {people.photographs.fingerprint()[:8]}, {'detector' if seed is None else f'noise {seed}'}"
        masks = digest(people.mask.numpy().tobytes())[:8]
        rows = torch.arange(len(people)).split(CHUNK)
        start = self._fits(f"{mine}, start", lambda i: start_of(people.select(rows[i]), marks[rows[i]]), len(rows))

        def fits(title: str, term: Term | None, weight: float) -> HandParameters:
            def part(i: int) -> HandParameters:
                return fitted(people.select(rows[i]), marks[rows[i]], start.select(rows[i]), term, weight)

            return self._fits(f"{mine}, {title}", part, len(rows))

        found, weights = {BASE: fits(BASE, None, 0.0)}, {BASE: 0.0}
        for ratio in ratios:
            for arm in arms:
                belongs, term = f"{arm} {masks if arm == MASK else self.digests[arm]}", self.terms[arm]
                one = self.store.get(f"{mine}, {belongs}, weight", weight_at_one, people, marks, start, term)
                title = arm if len(ratios) == 1 else f"{arm}, ratio {ratio:g}"
                weights[title] = ratio * one
                found[title] = fits(f"{belongs}, ratio {ratio:g}", term, weights[title])
        measured = {title: errors(people, fit, self.renderer) for title, fit in found.items()}
        return Run(people, measured, found, weights)

    def _fits(self, name: str, make: Callable[[int], HandParameters], chunks: int) -> HandParameters:
        """Fits of all chunks, from the store where they are there."""
        empty = torch.empty(0)
        parts = [
            from_lists(self.store.get(f"{name}, {i}", lambda i=i: to_lists(empty, make(i))))[1] for i in range(chunks)
        ]
        return HandParameters(*(torch.cat(tensors) for tensors in zip(*(part.tensors() for part in parts))))

    def _worst(self, name: str, runs: dict[str, Run]) -> list[dict[str, Any]]:
        """The photographs that lose most IoU by the loss, in the mean over labels; their pictures go to `keep`."""
        people = next(iter(runs.values())).people
        changes = {
            labels: torch.tensor(run.errors[BUNDLED]["IoU"]) - torch.tensor(run.errors[BASE]["IoU"])
            for labels, run in runs.items()
        }
        index = torch.stack(list(changes.values())).mean(dim=0).argsort()[:WORST]
        self._draw(self.keep / f"worst {name}.png", people, runs, index)
        rows = []
        for i in index.tolist():
            row = {"photograph": people.photographs.ids[i], "person": people.person[i].item()}
            for labels, run in runs.items():
                row[f"IoU, {labels}"] = run.errors[BASE]["IoU"][i]
                row[f"IoU change, {labels}"] = changes[labels][i].item()
            rows.append(row)
        return rows

    def _draw(self, path: Path, people: People, runs: dict[str, Run], index: Tensor) -> None:
        """Keypoints, mask, and the fits without and with the loss, a row for each photograph of `index`."""
        some = people.select(index)
        image, camera, ids = some.photographs.image, some.photographs.camera, some.photographs.ids
        mask = outline(image, some.mask * some.counted, (1.0, 0.3, 0.9), width=1)
        pictures = {"keypoints": mark(image, some.photographs.keypoints), "mask": mask}
        for labels, run in runs.items():
            for arm in (BASE, BUNDLED):
                with torch.no_grad():
                    vertices = pose_hand(HandModel(), run.fits[arm].select(index)).vertices
                    coverage = self.renderer(vertices, camera, torch.ones(1, 3, 8, 8)).coverage
                pictures[f"{labels}: {arm}"] = outline(image, coverage, width=1)
        rows = [list(row) for row in zip(*(pictures.values()))]
        large = [[interpolate(picture[None], scale_factor=2)[0] for picture in row] for row in rows]
        save_png(path, contact_sheet(large, [str(number) for number in ids], list(pictures)))


def test_people(folder: Path, name: str, renderer: ta.TexturedHandRenderer, keep: Path) -> People:
    """The people of the final tables, of sld two photographs of each, so that one can tell what another hides."""
    if name == "hgr":
        return read_people(folder / name, HGR, EACH, renderer, keep, padded=True)
    return read_people(folder / name, SLD, 2, renderer, keep, shift=SLD_SHIFT)


def digest_of(encoder: nn.Module) -> str:
    """Of the weights."""
    return digest(b"".join(tensor.numpy().tobytes() for tensor in encoder.state_dict().values()))

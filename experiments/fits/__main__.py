"""Does the loss pull hands into place? The prior, the landscape, fits to synthetic images and to photographs.

    python experiments/fits [--sections prior landscape synthetic real] [--fine-tuned FOLDER] [--images 64]
    python experiments/fits --sections people ratios noise --people FOLDER [--prior FOLDER]

Prints the tables, writes them to experiments/results/fits.json, and keeps what is finished in a folder: the same
command again goes on where it was interrupted, and processes with other --sections or --seeds can share the work. The
parts on photographs need TEXALIGN_REAL_DATA, the folder of the photographs (frames 318 to 397 are measured on); without
it they are left out. The sections `people`, `ratios` and `noise` have files of their own, fits_people.json and so on
beside the other; their photographs are in the folders `sld` and `hgr` of --people.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import texalign as ta
from fits import real_refinement as real
from fits import synthetic_refinement as synthetic_fits
from fits.across_people import AcrossPeople, digest_of, test_people
from fits.comparison import comparison
from fits.landscape import Batch, landscape, landscape_rows
from fits.plain_scenes import plain_scenes
from fits.prior import Errors, errors_in_chunks, errors_on, hidden_in_pairs, prior_row
from fits.stand_ins import MeanColour, PlainDifference
from fits.store import Store
from fits.synthetic_refinement import Extra, with_loss
from recording import environment, table, write_json
from texalign import synthetic
from texalign.hand import HandModel, pose_hand
from texalign.photographs import Photographs, read_photographs

EXPERIMENTS = Path(__file__).resolve().parents[1]
SIZE, CHUNK, FRAMES_A_CHUNK = 128, 16, 20
SECTIONS = ("prior", "landscape", "synthetic", "real")
PEOPLE_SECTIONS = ("ratios", "people", "noise")
# Images of these seeds are seen by no training, and no choice was made on them.
PLAIN_SEED, CLUTTERED_SEED = 20_001, 20_000


def images(name: str, count: int) -> list[Batch]:
    """`count` unseen synthetic images in chunks: plain scenes, or those of `texalign.synthetic`."""
    generator = torch.Generator().manual_seed(PLAIN_SEED if name == "plain" else CLUTTERED_SEED)
    if name == "plain":
        return [plain_scenes(CHUNK, generator) for _ in range(count // CHUNK)]
    return [synthetic.generate(CHUNK, SIZE, generator, left_share=0) for _ in range(count // CHUNK)]


def merged(chunks: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Lists by name, put end to end."""
    return {name: [value for chunk in chunks for value in chunk[name]] for name in chunks[0]}


class Fits:
    """What the sections share: the priors, the renderer, the photographs, and where results are kept."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.surface = ta.HandSurface.mano()
        self.renderer = ta.TexturedHandRenderer(self.surface, SIZE, backend="torch")
        self.model = HandModel()
        self.priors = {"bundled": ta.UVTextureEncoder.from_pretrained(arguments.prior, self.surface)}
        if arguments.fine_tuned:
            self.priors["fine-tuned"] = ta.UVTextureEncoder.from_pretrained(arguments.fine_tuned, self.surface)
        self.images, self.seeds = arguments.images, arguments.seeds
        root = os.environ.get("TEXALIGN_REAL_DATA")
        self.people: Path | None = arguments.people
        self.photographs: Photographs | None = None
        if root:
            self.photographs = read_photographs(root, range(318, 398, arguments.every), SIZE)
        self.weights = {name: digest_of(prior) for name, prior in self.priors.items()}
        self.store = Store(arguments.keep, {"images": self.images, "every": arguments.every})

    def kept(self, name: str, *arguments: Any) -> Any:
        """A result, see `Store.get`. Those whose name speaks of a prior belong to its weights."""
        belongs = [weights for prior, weights in self.weights.items() if prior in name]
        return self.store.get(" ".join([name, *belongs]), *arguments)

    def loss(self, prior: nn.Module) -> nn.Module:
        """By sample."""
        return ta.DenseTextureAlignmentLoss(self.renderer, prior, reduction="none")

    def prior_table(self) -> list[dict[str, Any]]:
        """Sections a and b of the table."""
        found: dict[str, Errors] = {}
        for name, prior in self.priors.items():
            mine = found[name] = {}
            for scenes in ("plain", "cluttered"):
                result = self.kept(f"{name} prior, {scenes}", self._prior_on_scenes, prior, scenes)
                mine |= {f"{scenes}, {what}": values for what, values in result.items()}
            mine["cluttered, hidden"] = self.kept(f"{name} prior, hidden", self._prior_on_pairs, prior)
            if self.photographs is not None:
                result = self.kept(f"{name} prior, photographs", self._prior_on_photographs, prior)
                mine |= {f"photographs, {what}": values for what, values in result.items()}
            for folder in ("sld", "hgr") if self.people is not None else ():
                result = self.kept(f"{name} prior, {folder}", self._prior_on_people, prior, folder)
                mine |= {f"{folder}, {what}": values for what, values in result.items()}
        return [
            prior_row(what, name, values, found["bundled"][what]["prior"])
            for name, mine in found.items()
            for what, values in mine.items()
        ]

    def _prior_on_scenes(self, prior: ta.UVTextureEncoder, scenes: str) -> Errors:
        return errors_in_chunks(prior, self.renderer, images(scenes, self.images))

    def _prior_on_photographs(self, prior: ta.UVTextureEncoder) -> Errors:
        photographs = real.known(self.photographs)
        with torch.no_grad():
            vertices = pose_hand(self.model, real.true_fits(photographs)).vertices
            # Half the video away, the hand shows another gesture.
            partner = torch.arange(len(vertices)).roll(len(vertices) // 2)
            hidden = hidden_in_pairs(prior, self.renderer, photographs, vertices, partner)
            return errors_on(prior, self.renderer, photographs, vertices) | {"hidden": hidden}

    def _prior_on_pairs(self, prior: ta.UVTextureEncoder) -> dict[str, list[float]]:
        generator, partner = torch.Generator().manual_seed(CLUTTERED_SEED), torch.arange(CHUNK).view(-1, 2).flip(1)
        chunks = []
        for _ in range(self.images // CHUNK):
            batch = synthetic.generate(CHUNK, SIZE, generator, left_share=0, views=2)
            with torch.no_grad():
                chunks.append(hidden_in_pairs(prior, self.renderer, batch, batch.vertices, partner.flatten()))
        return merged(chunks)

    def _prior_on_people(self, prior: ta.UVTextureEncoder, folder: str) -> Errors:
        people = test_people(real.known(self.people), folder, self.renderer, self.store.folder)
        batch = replace(people.photographs, mask=people.mask * people.counted)
        same = people.person[:, None] == people.person
        # Of the same person's photographs, the next one.
        partner = torch.stack([row.nonzero()[:, 0].roll(-1)[row[:i].sum()] for i, row in enumerate(same)])
        with torch.no_grad():
            vertices = pose_hand(self.model, people.reference).vertices
            hidden = hidden_in_pairs(prior, self.renderer, batch, vertices, partner)
            return errors_on(prior, self.renderer, batch, vertices) | {"hidden": hidden}

    def landscape_table(self, scenes: str) -> list[dict[str, Any]]:
        """Section c."""
        losses: dict[str, nn.Module] = {
            "bundled prior": self.loss(self.priors["bundled"]),
            "mean colour": self.loss(MeanColour()),
        }
        if scenes == "plain":
            losses |= {
                "plain, bundled prior": PlainDifference(self.renderer, self.priors["bundled"]),
                "composited, bundled prior": PlainDifference(self.renderer, self.priors["bundled"], composited=True),
                "plain, copied texture": PlainDifference(self.renderer, self.priors["bundled"], copied=True),
            }
        chunks = images(scenes, self.images)
        results = {
            name: [
                self.kept(f"landscape, {scenes}, {name}, {i}", landscape, loss_fn, chunk, self.model)
                for i, chunk in enumerate(chunks)
            ]
            for name, loss_fn in losses.items()
        }
        return landscape_rows(results)

    def synthetic_table(self, scenes: str) -> list[dict[str, Any]]:
        """Section d."""
        bundled = self.loss(self.priors["bundled"])
        variants: dict[str, Extra | None] = {"keypoints only": None}
        variants |= {f"+ loss, bundled prior, weight {w}": with_loss(bundled, w) for w in (2, 1, 4)}
        variants["+ loss, mean colour, weight 2"] = with_loss(self.loss(MeanColour()), 2)
        variants["+ true silhouette"] = synthetic_fits.with_true_silhouette(self.renderer)
        chunks = images(scenes, self.images)
        results = {
            name: merged(
                [
                    self.kept(
                        f"refinement, {scenes}, {name}, {i}", synthetic_fits.refined, chunk, extra, self.renderer, i
                    )
                    for i, chunk in enumerate(chunks)
                ]
            )
            for name, extra in variants.items()
        }
        return comparison(results, "keypoints only")

    def real_tables(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Section e: with noisy labels, and with a detector's."""
        bundled = self.loss(self.priors["bundled"])
        variants: dict[str, Extra | None] = {"labels only": None}
        variants["+ pseudo-mask silhouette"] = real.with_pseudo_mask(self.renderer)
        variants |= {f"+ loss, bundled prior, weight {w}": with_loss(bundled, w) for w in (4, 8, 2)}
        mean = self.loss(MeanColour())
        variants |= {f"+ loss, mean colour, weight {w}": with_loss(mean, w) for w in (4, 2, 8)}
        for weight in (4, 8):
            name = f"+ loss, bundled prior, groups of 4, weight {weight}"
            variants[name] = with_loss(bundled, weight, real.NEIGHBOURS)
        if "fine-tuned" in self.priors:
            variants["+ loss, fine-tuned prior, weight 4"] = with_loss(self.loss(self.priors["fine-tuned"]), 4)
        noisy = {name: [self._fits(name, extra, s) for s in self.seeds] for name, extra in variants.items()}
        few = ("labels only", "+ pseudo-mask silhouette", "+ loss, bundled prior, weight 4")
        detected = {name: [self._fits(name, variants[name], None)] for name in few}
        noisy_rows, detected_rows = (
            comparison({name: real.over_seeds(runs) for name, runs in results.items()}, "labels only")
            for results in (noisy, detected)
        )
        return noisy_rows, detected_rows

    def _fits(self, name: str, extra: Extra | None, seed: int | None) -> dict[str, list[float]]:
        photographs = real.known(self.photographs)
        frames = torch.arange(len(photographs.image)).split(FRAMES_A_CHUNK)

        kind = "detections" if seed is None else f"seed {seed}"

        def part(number: int) -> dict[str, list[float]]:
            chunk = photographs.select(frames[number])
            start = self.kept(f"start, {kind}, {number}", self._start, chunk, seed, number)
            labels, parameters = real.from_lists(start)
            return real.errors(chunk, real.fitted(chunk, labels, parameters, extra), self.renderer)

        return merged([self.kept(f"{name}, {kind}, {i}", part, i) for i in range(len(frames))])

    def _start(self, chunk: Photographs, seed: int | None, number: int) -> dict[str, list[Any]]:
        chunk_seed = None if seed is None else 1000 * seed + number
        return real.to_lists(*real.starts(chunk, real.true_fits(chunk), chunk_seed))


def across_people(arguments: argparse.Namespace, section: str) -> None:
    """Print the tables of a section on photographs of many people, and write them down."""
    surface = ta.HandSurface.mano()
    priors = {"bundled": ta.UVTextureEncoder.from_pretrained(surface=surface)}
    if arguments.prior:
        priors["other"] = ta.UVTextureEncoder.from_pretrained(arguments.prior, surface)
    root = os.environ.get("TEXALIGN_REAL_DATA")
    renderer = ta.TexturedHandRenderer(surface, SIZE, backend="torch")
    fits = AcrossPeople(renderer, priors, arguments.people, Path(root) if root else None, arguments.keep)
    tables = {"ratios": fits.ratio_tables, "people": fits.final_tables, "noise": fits.noise_tables}[section]()
    for name, rows in tables.items():
        print(f"\n{name}\n\n{table(rows)}")
    command = f"python experiments/fits --sections {section} --people FOLDER"
    command += " --prior FOLDER" if arguments.prior else ""
    weights = {name: digest_of(prior) for name, prior in priors.items()}
    content = {"command": command, "environment": environment(), "settings": fits.settings(section)}
    write_json(arguments.output.with_name(f"fits_{section}.json"), content | {"weights": weights, "tables": tables})


def main() -> None:
    """Print the tables and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sections", nargs="+", choices=(*SECTIONS, *PEOPLE_SECTIONS), default=SECTIONS)
    parser.add_argument("--images", type=int, default=64, help="synthetic ones, a multiple of 16")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the labels' noise")
    parser.add_argument("--prior", type=Path, help="other weights: for the bundled ones, in `people` beside them")
    parser.add_argument("--people", type=Path, help="folder of `sld` and `hgr`, photographs of many people")
    parser.add_argument("--fine-tuned", type=Path, help="weights trained on the photographs 0 to 297 as well")
    parser.add_argument("--keep", type=Path, default=EXPERIMENTS / "unfinished", help="folder of what is done")
    parser.add_argument("--output", type=Path, default=EXPERIMENTS / "results" / "fits.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for section in (section for section in PEOPLE_SECTIONS if section in arguments.sections):
        if arguments.people is None:
            parser.error(f"--sections {section} needs --people FOLDER")
        across_people(arguments, section)
    if not set(SECTIONS) & set(arguments.sections):
        return
    fits = Fits(arguments)
    tables: dict[str, list[dict[str, Any]]] = {}
    if "prior" in arguments.sections:
        tables["prior"] = fits.prior_table()
    for scenes in ("plain", "cluttered"):
        if "landscape" in arguments.sections:
            tables[f"landscape, {scenes} images"] = fits.landscape_table(scenes)
        if "synthetic" in arguments.sections:
            tables[f"refinement, {scenes} images"] = fits.synthetic_table(scenes)
    if "real" in arguments.sections and fits.photographs is not None:
        noisy, detected = fits.real_tables()
        tables |= {"fits to photographs, noisy labels": noisy, "fits to photographs, a detector's labels": detected}
    for name, rows in tables.items():
        print(f"\n{name}\n\n{table(rows)}")
    given = {"images": arguments.images, "every": arguments.every, "seeds": arguments.seeds}
    content = {"environment": environment(), "arguments": given, "weights": fits.weights, "tables": tables}
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()

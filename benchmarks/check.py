"""What `texalign.adapters.check` finds, misses and calls by a wrong name, by the mistake, its size and the batch's.

    python benchmarks/check.py [--right 200] [--wrong 40] [--photographs NAME=DIR …] [--output FILE.json]

Batches of one, four and eight hands: generated ones, with the true meshes and with meshes as off as a good network's
(noise of 0.1 radians at every joint, 4 mm across the image, 12 mm in depth), or photographs with the bundled hand
fitted to their keypoints. `right` batches are given as they are; into `wrong` of them every mistake is made. Goes on
where it was interrupted, if the output file is there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import texalign as ta
from recording import environment, table, write_json
from texalign import synthetic
from texalign.adapters import check
from texalign.hand import HandModel
from texalign.loss import LossInputs
from texalign.photographs import fit_photographs, photograph_ids, read_photographs

SIZE = 128
COUNTS = (1, 4, 8)
# Of no test and of no tuning.
FIRST_SEED = 8_000_000
OUTCOMES = ("named", "named second", "wrongly named", "unsure", "nothing")
X, Y, YZ = (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, -1.0, -1.0)


Mistake = Callable[[LossInputs, torch.Generator], LossInputs]


def rotated(degrees: float | None) -> Mistake:
    """Images turned about their middle; None: each by another angle of up to 30 degrees."""

    def make(inputs: LossInputs, generator: torch.Generator) -> LossInputs:
        count = len(inputs.image)
        angle = (60 * torch.rand(count, generator=generator) - 30) if degrees is None else torch.full((count,), degrees)
        cosine, sine = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
        zero = torch.zeros(count)
        back = torch.stack([cosine, sine, zero, -sine, cosine, zero], dim=1).view(count, 2, 3)
        grid = torch.nn.functional.affine_grid(back, list(inputs.image.shape), align_corners=False)
        return inputs._replace(image=torch.nn.functional.grid_sample(inputs.image, grid, align_corners=False))

    return make


def resized(factor: float, about_corner: bool) -> Mistake:
    """The camera of an image so many times as large, or another focal length."""

    def make(inputs: LossInputs, generator: torch.Generator) -> LossInputs:
        camera = inputs.camera
        if about_corner:
            return inputs._replace(camera=ta.PinholeCamera(camera.focal * factor, camera.principal * factor))
        # About the image's middle, where a crop's hand is: principal points of synthetic crops lie far off.
        principal = (camera.principal - SIZE / 2) * factor + SIZE / 2
        return inputs._replace(camera=ta.PinholeCamera(camera.focal * factor, principal))

    return make


def shifted(share: float) -> Mistake:
    """The principal point off by a share of the image's side, anywhere."""

    def make(inputs: LossInputs, generator: torch.Generator) -> LossInputs:
        angle = 2 * math.pi * torch.rand((), generator=generator)
        by = share * SIZE * torch.stack([angle.cos(), angle.sin()])
        return inputs._replace(camera=ta.PinholeCamera(inputs.camera.focal, inputs.camera.principal + by))

    return make


def flipped(signs: tuple[float, float, float], whole: bool) -> Mistake:
    """Vertices with axes negated, about the camera or about the mesh's mean."""

    def make(inputs: LossInputs, generator: torch.Generator) -> LossInputs:
        root = 0 if whole else inputs.vertices.mean(dim=1, keepdim=True)
        return inputs._replace(vertices=(inputs.vertices - root) * torch.tensor(signs) + root)

    return make


def half_mirrored(inputs: LossInputs, generator: torch.Generator) -> LossInputs:
    """The images of every other sample mirrored."""
    image = inputs.image.clone()
    image[::2] = image[::2].flip(-1)
    return inputs._replace(image=image)


# What is done to a right batch, and what a finding must say.
MISTAKES: dict[str, tuple[Mistake, str]] = {
    **{f"images rotated by {angle:g}°": (rotated(angle), "look rotated") for angle in (5.0, 10.0, 20.0, 40.0, 180.0)},
    "images rotated, each by up to 30°": (rotated(None), "each by another angle"),
    "camera for 256 px, image of 224": (resized(8 / 7, True), "camera looks made"),
    "camera for 224 px, image of 256": (resized(7 / 8, True), "camera looks made"),
    "camera for twice the image": (resized(2.0, True), "camera looks made"),
    "hands 1.1 × their size": (resized(1.1, False), "× too large"),
    "hands 1.25 × their size": (resized(1.25, False), "× too large"),
    "hands 0.8 × their size": (resized(0.8, False), "× too small"),
    **{
        f"principal point off by {pixels} px of 256": (shifted(pixels / 256), "principal point")
        for pixels in (6, 12, 24, 48)
    },
    "images mirrored": (lambda i, g: i._replace(image=i.image.flip(-1)), "mirror image"),
    "every other image mirrored": (half_mirrored, "mirror image"),
    "y up": (flipped(Y, True), "y points up"),
    "OpenGL's axes": (flipped(YZ, False), "OpenGL"),
    "left hands' vertices": (flipped(X, False), "left hands"),
    "images of noise": (
        lambda i, g: i._replace(image=torch.rand(i.image.shape, generator=g)),
        "do not look like hands",
    ),
}


def generated(number: int) -> Iterator[tuple[str, LossInputs]]:
    """Eight hands, with true meshes and with a network's."""
    generator = torch.Generator().manual_seed(FIRST_SEED + number)
    batch = synthetic.generate(max(COUNTS), SIZE, generator).canonical()
    yield "true", LossInputs(batch.vertices, batch.camera, batch.image)
    pose = batch.pose + 0.1 * torch.randn(batch.pose.shape, generator=generator)
    place = batch.translation + torch.randn(max(COUNTS), 3, generator=generator) * torch.tensor([0.004, 0.004, 0.012])
    with torch.no_grad():
        vertices = HandModel()(pose, batch.betas).vertices + place[:, None]
    yield "network-like", LossInputs(vertices, batch.camera, batch.image)


def photographed(name: str, folder: Path, count: int, cache: Path) -> list[tuple[str, LossInputs]]:
    """Batches of eight photographs, drawn from all of a folder."""
    ids = torch.tensor(photograph_ids(folder))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[: count * max(COUNTS)]
    fitted = fit_photographs(read_photographs(folder, ids[order].tolist(), SIZE), cache / f"{name}.npz")
    photographs = fitted.photographs
    rows = torch.arange(len(fitted)).split(max(COUNTS))
    return [(name, LossInputs(fitted.vertices[r], photographs.camera[r], photographs.image[r])) for r in rows]


def outcome(inputs: LossInputs, said: str | None, surface: ta.HandSurface) -> str:
    """Of `OUTCOMES`: what the check says to a mistake of which it has to say `said`, or to none."""
    report = check(*inputs, surface=surface)
    # What else would explain it comes second.
    first = [finding.split("Or, almost as well")[0] for finding in report.findings]
    if said is not None and any(said in finding for finding in first):
        return "named"
    if said is not None and any(said in finding for finding in report.findings):
        return "named second"
    if any("agree better" in finding or "inside out" in finding for finding in first):
        return "wrongly named"
    return "nothing" if report.ok else "unsure"


def measure(inputs: LossInputs, number: int, wrong: int) -> Iterator[tuple[str, int, str, float]]:
    """Mistake, batch size, outcome and seconds, of one batch and its parts."""
    surface = ta.HandSurface.mano()
    right: dict[str, tuple[Mistake, str | None]] = {"right": (lambda i, g: i, None)}
    for name, (make, said) in {**right, **MISTAKES}.items():
        if name != "right" and number >= wrong:
            continue
        generator = torch.Generator().manual_seed(number)
        for count in COUNTS:
            if len(inputs.image) >= count:
                part = LossInputs(inputs.vertices[:count], inputs.camera[:count], inputs.image[:count])
                start = time.process_time()
                yield name, count, outcome(make(part, generator), said, surface), time.process_time() - start


def main() -> None:
    """Go on, print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--right", type=int, default=200)
    parser.add_argument("--wrong", type=int, default=40)
    parser.add_argument("--photographs", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--photographed", type=int, default=20, help="batches of eight from each folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "check.json")
    parser.add_argument("--fits", type=Path, default=Path("check-fits"), help="keeps fits to photographs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"right": arguments.right, "wrong": arguments.wrong}
    content: dict[str, Any] = {"environment": environment(), **settings, "done": {}, "counts": {}, "seconds": {}}
    if arguments.output.exists():
        content = json.loads(arguments.output.read_text())
    work: dict[str, Any] = {"generated": (arguments.right, generated)}
    for each in arguments.photographs:
        name, folder = each.split("=", 1)
        batches = photographed(name, Path(folder), arguments.photographed, arguments.fits)
        work[name] = len(batches), lambda number, batches=batches: [batches[number]]
    for source, (total, batch) in work.items():
        for number in range(content["done"].get(source, 0), total):
            for meshes, inputs in batch(number):
                for name, count, what, seconds in measure(inputs, number, arguments.wrong):
                    key = f"{meshes} | {name} | {count}"
                    counts = content["counts"].setdefault(key, dict.fromkeys(OUTCOMES, 0))
                    counts[what] += 1
                    spent = content["seconds"].setdefault(str(count), [0.0, 0])
                    content["seconds"][str(count)] = [spent[0] + seconds, spent[1] + 1]
            content["done"][source] = number + 1
            if (number + 1) % 10 == 0 or number + 1 == total:
                write_json(arguments.output, content)
    rows = []
    for key, counts in content["counts"].items():
        meshes, name, count = key.split(" | ")
        rows.append({"meshes": meshes, "mistake": name, "batch": count, **counts})
    print(table(rows))
    print({count: f"{spent / number:.2f} s a check" for count, (spent, number) in content["seconds"].items()})


if __name__ == "__main__":
    main()

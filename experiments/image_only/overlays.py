"""Outlines of several arms over photographs that no training has seen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import interpolate

import texalign as ta
from image_only.evaluate import predictions
from image_only.examples import KINDS, SIZE
from image_only.experiment import ImageOnlyExperiment
from image_only.train import Run
from texalign.viz import contact_sheet, mark, outline, save_png

EACH = 4


def write_overlays(experiment: ImageOnlyExperiment, runs: list[Run], path: Path) -> None:
    """A picture, which must stay out of the repository: a row for each run, evenly chosen photographs of every set."""
    examples, views = experiment.test.examples, experiment.test.views
    rows = torch.cat(
        [
            some[torch.linspace(0, len(some) - 1, EACH).long()]
            for some in ((examples.kind == kind).nonzero()[:, 0] for kind in range(len(KINDS)))
            if len(some)
        ]
    )
    part = examples.select(rows)
    seen = views.select(rows)
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    mask = outline(part.image, part.mask * part.counted, (1.0, 0.3, 0.9), width=1)
    pictures = {"mask, keypoints": mark(mask, part.detections, (1.0, 0.3, 0.3), 1.0)}
    for run in runs:
        network = experiment.network(run)
        for _, said in predictions(network, part, seen):
            coverage = renderer(said.vertices, part.camera, torch.ones(1, 3, 8, 8)).coverage
            drawn = outline(part.image, coverage, width=1)
            pictures[run.arm] = mark(drawn, part.camera.project(said.joints), (1.0, 1.0, 0.2), 1.0)
    sheet = [list(interpolate(row, scale_factor=1.5)) for row in pictures.values()]
    titles = [f"{KINDS[kind]} {who}" for kind, who in zip(part.kind.tolist(), part.person.tolist())]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, contact_sheet(sheet, list(pictures), titles))
    print(f"written to {path}")

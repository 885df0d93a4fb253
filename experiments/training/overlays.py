"""Outlines and joints of trained networks over unseen images: what the figures do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import texalign as ta
from texalign.viz import contact_sheet, mark, outline, save_png
from training.commands import Experiment
from training.evaluate import predictions

COLUMNS = 8


def write_overlays(experiment: Experiment, arms: list[str], seed: int, folder: Path) -> None:
    """Sheets of evenly chosen images, and of those where the last arm is worst: a column each, a row for every arm.

    Args:
        experiment: whose finished networks are shown.
        arms: of them.
        seed: of them.
        folder: gets ``even.png`` and ``worst.png``; photographs must stay out of the repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unseen = experiment.samples(seed).unseen
    results = {arm: experiment.result(arm, seed) for arm in arms}
    worst = torch.tensor(results[arms[-1]]["errors"]["2D joints, px"]["values"]).argsort(descending=True)
    even = torch.linspace(0, len(unseen) - 1, COLUMNS).long()
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano().to(unseen.image.device), unseen.image.shape[-1])
    networks = {arm: experiment.network(arm, seed) for arm in arms}
    for name, columns in (("even", even), ("worst", worst[:COLUMNS])):
        chosen = unseen.select(columns.to(unseen.image.device))
        rows: list[Any] = [list(chosen.image.float() / 255)]
        for network in networks.values():
            for _, batch, prediction in predictions(network, chosen):
                white = torch.ones(1, 3, 8, 8, device=batch.image.device)
                coverage = renderer(prediction.vertices, batch.camera, white).coverage
                drawn = outline(batch.image, coverage, width=1)
                drawn = mark(drawn, batch.camera.project(batch.joints), (1.0, 0.3, 0.3), 1.0)
                rows.append(list(mark(drawn, batch.camera.project(prediction.joints), (1.0, 1.0, 0.2), 1.0)))
        sheet = contact_sheet(rows, ["image", *arms], [str(int(column)) for column in columns])
        save_png(folder / f"{name}.png", sheet)
    print(f"written to {folder}")

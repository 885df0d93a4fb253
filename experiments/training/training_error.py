"""How trained networks lie on the images they were trained on: what a term does, before what carries over to others."""

from __future__ import annotations

from typing import Any

import torch

import texalign as ta
from training.commands import Experiment
from training.evaluate import LEAST_MASK, errors, predictions
from training.network import HandNetwork
from training.samples import Samples
from training.tables import mean_of, stacked

SHOWN = ("2D joints, px", "PA-MPJPE, mm", "IoU", "boundary F")


def area_over_mask(network: HandNetwork, samples: Samples) -> float:
    """What the meshes cover of what is free, over what the masks do: mean over images whose mask says something."""
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano().to(samples.image.device), samples.image.shape[-1])
    ratios = []
    for _, batch, prediction in predictions(network, samples):
        white = torch.ones(1, 3, 8, 8, device=batch.image.device)
        with torch.no_grad():
            coverage = renderer(prediction.vertices, batch.camera, white).coverage * batch.free
        mine, true = (mask.sum(dim=(1, 2, 3)) for mask in (coverage, batch.mask))
        ratios.append((mine / true)[true >= LEAST_MASK])
    return torch.cat(ratios).mean().item()


def training_error_table(experiment: Experiment, arms: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """A row for each arm: means over every second training image, as it is, and over seeds.

    Args:
        experiment: whose networks are shown; those that are not finished are trained.
        arms: of them.
        seeds: of them.
    """
    rows = []
    for arm in arms:
        figures, areas = [], []
        for seed in seeds:
            train = experiment.samples(seed).train
            half = train.select(torch.arange(0, len(train), 2, device=train.image.device))
            network = experiment.network(arm, seed)
            figures.append(errors(network, half, None, experiment.priors["bundled"]))
            areas.append(area_over_mask(network, half))
        row: dict[str, Any] = {"arm": arm, "seeds": len(seeds)}
        row |= {name: mean_of(*stacked(figures, name)).item() for name in SHOWN}
        rows.append(row | {"area over the mask's": sum(areas) / len(areas)})
    return rows

"""How far trained networks are off, image by image, on images without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

import texalign as ta
from texalign.metrics import (
    boundary_f_score,
    mask_iou,
    pa_mpjpe_mm,
    pa_mpvpe_mm,
    pck,
    point_error,
    psnr_db,
    root_relative_mpjpe_mm,
    root_relative_mpvpe_mm,
)
from training.network import HandNetwork, Prediction
from training.samples import Batch, Samples, as_they_are

CHUNK = 40
# PCK: a joint is right if it is off by no more than this share of the longer side of the true joints' box.
PCK_SHARE = 0.05
# Pixels. A mask that shows less says nothing.
LEAST_MASK = 16


# By image: a figure, and what the image counts: the number of joints of a kind, or 1.
Figure = tuple[Tensor, Tensor]


def predictions(network: HandNetwork, samples: Samples) -> Iterator[tuple[Samples, Batch, Prediction]]:
    """Chunk by chunk."""
    for rows in torch.arange(len(samples), device=samples.image.device).split(CHUNK):
        part = samples.select(rows)
        batch = as_they_are(part)
        with torch.no_grad():
            prediction = network(batch.image, batch.camera, batch.detections)
        yield part, batch, prediction


def joint_offset(network: HandNetwork, samples: Samples) -> Tensor:
    """(21, 2) pixels: predicted minus true joints, mean over images. Other definitions of joints show up here."""
    offsets = [
        batch.camera.project(prediction.joints) - batch.camera.project(batch.joints)
        for _, batch, prediction in predictions(network, samples)
    ]
    return torch.cat(offsets).mean(dim=0)


def errors(network: HandNetwork, samples: Samples, offset: Tensor | None, prior: nn.Module) -> dict[str, Any]:
    """All figures by name, each with "values" and "weights" by image, (N,).

    Args:
        network: trained.
        samples: unseen.
        offset: (21, 2) pixels, as `joint_offset` gives it for training images, or None.
        prior: draws the hand for the figure on realism.
    """
    device, size = samples.image.device, samples.image.shape[-1]
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano().to(device), size)
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, prior, reduction="none")
    parts: list[dict[str, Figure]] = []
    for part, batch, prediction in predictions(network, samples):
        figures = dict(of_joints(batch, prediction, offset))
        if part.vertices is not None:
            figures |= of_vertices(part.vertices, batch, prediction)
        if part.hidden is not None:
            figures |= of_hidden_joints(part.hidden, batch, prediction)
        figures |= of_image(batch, prediction, loss_fn)
        parts.append(figures)
    return {
        name: {
            "values": torch.cat([figures[name][0] for figures in parts]).tolist(),
            "weights": torch.cat([figures[name][1] for figures in parts]).tolist(),
        }
        for name in parts[0]
    }


def mean_joint_errors(network: HandNetwork, samples: Samples) -> dict[str, float]:
    """Mean of 2D joint error and PA-MPJPE over all images: a point of a curve."""
    chunks = [of_joints(batch, prediction, None) for _, batch, prediction in predictions(network, samples)]
    names = ("2D joints, px", "PA-MPJPE, mm")
    return {name: torch.cat([chunk[name][0] for chunk in chunks]).mean().item() for name in names}


def counted(values: Tensor, weights: Tensor | None = None) -> Figure:
    """What there was nothing to measure of (NaN) counts nothing."""
    known = values.isfinite()
    weights = torch.ones_like(values) if weights is None else weights
    return torch.where(known, values, 0), weights * known


def of_joints(batch: Batch, prediction: Prediction, offset: Tensor | None) -> dict[str, Figure]:
    """In the image and in space."""
    seen, true_seen = batch.camera.project(prediction.joints), batch.camera.project(batch.joints)
    figures = {
        "2D joints, px": counted(point_error(seen, true_seen)),
        "PA-MPJPE, mm": counted(pa_mpjpe_mm(prediction.joints, batch.joints)),
        "MPJPE, mm": counted(root_relative_mpjpe_mm(prediction.joints, batch.joints)),
    }
    if offset is not None:
        figures["2D joints less mean offset, px"] = counted(point_error(seen - offset, true_seen))
    return figures


def of_vertices(vertices: Tensor, batch: Batch, prediction: Prediction) -> dict[str, Figure]:
    """In space, aligned and relative to the wrist."""
    roots = (prediction.joints[:, 0], batch.joints[:, 0])
    return {
        "PA-MPVPE, mm": counted(pa_mpvpe_mm(prediction.vertices, vertices)),
        "MPVPE, mm": counted(root_relative_mpvpe_mm(prediction.vertices, vertices, *roots)),
    }


def of_hidden_joints(hidden: Tensor, batch: Batch, prediction: Prediction) -> dict[str, Figure]:
    """PCK in percent, of visible and of hidden joints apart; every joint counts the same."""
    seen, true_seen = batch.camera.project(prediction.joints), batch.camera.project(batch.joints)
    box = (true_seen.amax(dim=1) - true_seen.amin(dim=1)).amax(dim=1)
    return {
        f"PCK@{PCK_SHARE}, {name}": counted(
            100 * pck(seen, true_seen, box, PCK_SHARE, which), which.sum(dim=1).to(seen.dtype)
        )
        for name, which in (("visible", ~hidden), ("occluded", hidden))
    }


def of_image(batch: Batch, prediction: Prediction, loss_fn: ta.DenseTextureAlignmentLoss) -> dict[str, Figure]:
    """Overlap with the visible hand, and how much the hand drawn with the prior's texture looks like it."""
    generator = torch.Generator(device=batch.image.device).manual_seed(0)
    with torch.no_grad():
        _, details = loss_fn(prediction.vertices, batch.camera, batch.image, generator=generator, return_details=True)
        # Black where the mesh leaves the hand uncovered.
        drawn = details.fitted.clamp(0, 1) * details.coverage
        seen = (batch.mask.sum(dim=(1, 2, 3)) >= LEAST_MASK).to(drawn.dtype)
        covered = details.coverage * batch.free
        return {
            "IoU": counted(mask_iou(covered, batch.mask), seen),
            "boundary F": counted(boundary_f_score(covered, batch.mask), seen),
            "PSNR in the mask, dB": counted(psnr_db(drawn, batch.image, batch.mask), seen),
            "SSIM in the mask": counted(ssim_in(batch.mask, drawn, batch.image), seen),
        }


def ssim_in(mask: Tensor, drawn: Tensor, image: Tensor) -> Tensor:
    """(B,) mean over the mask of the structural similarity of images (B, 3, H, W), taken as equal outside of it."""
    inside = mask > 0.5
    _, similarity = structural_similarity_index_measure(
        torch.where(inside, drawn, image), image, data_range=1.0, reduction="none", return_full_image=True
    )
    return (similarity * inside).sum(dim=(1, 2, 3)) / (image.shape[1] * inside.sum(dim=(1, 2, 3)))

"""Does the loss pull real hands into place? Fits to noisy 2D labels, alone and with the loss, against true joints.

    TEXALIGN_REAL_DATA=FOLDER python benchmarks/alignment.py [--every 2] [--seeds 1] [--output FILE.json]

Frames 318 to 397 at 128 pixels. Labels are the true 2D joints plus 3 px of noise with 10 % outliers of 10 px, under a
robust keypoint term; the start is the true fit turned by 0.15 rad and refitted to the labels. Every variant then takes
80 Adam steps from the same start. The pseudo mask serves the IoU and the upper bound only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import texalign as ta
from fitting import HandParameters, fit_to_joints, keypoint_loss, pa_mpjpe, pose_hand, prior_loss, refine
from photographs import Photographs, folder, load
from recording import environment, table, write_json
from texalign.hand import Hand, HandModel
from texalign.photometric import beyond_wrist
from texalign.pretrain import read_texture

SIZE, STEPS, RATE = 128, 80, 0.02
LABEL_NOISE, OUTLIER, OUTLIER_SHARE, POSE_NOISE = 3.0, 10.0, 0.1, 0.15
Extra = Callable[[Hand], Tensor]


class MeanColour(nn.Module):
    """In the prior's place: one colour, the mean of what is seen."""

    def forward(self, observations: ta.UVObservations) -> Tensor:
        """(B, 3, 8, 8)."""
        total = observations.valid.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (observations.rgb * observations.valid[..., None]).sum(dim=1) / total
        return mean[:, :, None, None].expand(-1, -1, 8, 8)


def noisy_labels(photographs: Photographs, generator: torch.Generator) -> Tensor:
    """(B, 21, 2) pixels."""
    true = photographs.joints_image
    noise = LABEL_NOISE * torch.randn(true.shape, generator=generator)
    far = torch.nn.functional.normalize(torch.randn(true.shape, generator=generator), dim=-1) * OUTLIER
    outlier = torch.rand(true.shape[:2], generator=generator)[..., None] < OUTLIER_SHARE
    return true + torch.where(outlier, far, noise)


def labels_objective(
    model: HandModel, photographs: Photographs, labels: Tensor, extra: Extra | None
) -> Callable[[HandParameters, Hand], Tensor]:
    """Robust keypoints and anatomy, and whatever is added."""

    def objective(parameters: HandParameters, hand: Hand) -> Tensor:
        value = 10 * keypoint_loss(hand.joints, photographs.camera, labels, 4.0) + prior_loss(model, parameters)
        return value if extra is None else value + extra(hand)

    return objective


def disturbed(fit: HandParameters, generator: torch.Generator) -> HandParameters:
    """The true fit with a wrong pose and the mean shape."""
    axes = torch.tensor([1.0, 0.3, 0.3])
    angles = fit.angles + POSE_NOISE * axes * torch.randn(fit.angles.shape, generator=generator)
    orientation = fit.orientation + POSE_NOISE * torch.randn(fit.orientation.shape, generator=generator)
    return HandParameters(angles, orientation, fit.translation, torch.zeros_like(fit.shape))


def measure(
    model: HandModel, renderer: ta.TexturedHandRenderer, parameters: HandParameters, photographs: Photographs
) -> dict[str, Tensor]:
    """Per frame: 2D joint error (px of the 128 px frame), PA-MPJPE (mm), IoU with the pseudo mask."""
    with torch.no_grad():
        hand = pose_hand(model, parameters)
        offset = photographs.camera.project(hand.joints) - photographs.joints_image
        covered = renderer(hand.vertices, photographs.camera, torch.ones(1, 3, 8, 8)).coverage > 0.5
        mask = photographs.mask > 0.5
        both, either = (covered & mask).sum(dim=(1, 2, 3)), (covered | mask).sum(dim=(1, 2, 3))
        return {
            "joints_px": offset.norm(dim=-1).mean(dim=1),
            "pa_mpjpe_mm": 1000 * pa_mpjpe(hand.joints, photographs.joints),
            "iou": both / either,
        }


def interval(values: Tensor, draws: int = 2000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over images."""
    index = torch.randint(0, len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    means = values[index].mean(dim=1)
    return values.mean().item(), means.quantile(0.025).item(), means.quantile(0.975).item()


def prior_on_photographs(
    encoder: ta.UVTextureEncoder, renderer: ta.TexturedHandRenderer, vertices: Tensor, photographs: Photographs
) -> dict[str, float]:
    """L1 of visible pixels under the true fit: the prior (seeing 384 of them) and the image's mean colour."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        camera, image = photographs.camera, photographs.image
        target = renderer.observe(vertices, camera, image, photographs.mask, 1024, generator)
        seen = renderer.observe(vertices, camera, image, count=384, generator=generator)
        weight = target.valid / target.valid.sum()
        read = read_texture(encoder(seen), target.uv, renderer.surface)
        total = target.valid.sum(dim=1)[:, None, None]
        mean = (target.rgb * target.valid[..., None]).sum(dim=1, keepdim=True) / total
        prior = ((read - target.rgb).abs().mean(dim=-1) * weight).sum().item()
        colour = ((mean - target.rgb).abs().mean(dim=-1) * weight).sum().item()
    return {"prior_l1": prior, "mean_colour_l1": colour, "ratio": prior / colour}


def main() -> None:
    """Print the tables and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prior", type=Path, help="weights other than the bundled ones")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "alignment.json")
    arguments = parser.parse_args()
    root = folder()
    if root is None:
        raise SystemExit("set TEXALIGN_REAL_DATA to the folder with annotations.npz, images and pseudo_masks")
    torch.set_num_threads(1)
    model, surface = HandModel(), ta.HandSurface.mano()
    renderer = ta.TexturedHandRenderer(surface, SIZE, backend="torch")
    encoder = ta.UVTextureEncoder.from_pretrained(arguments.prior, surface)
    photographs = load(root, range(318, 398, arguments.every), SIZE)
    true_fit = fit_to_joints(model, photographs.joints, 300)
    with torch.no_grad():
        vertices = pose_hand(model, true_fit).vertices
    print(table([prior_on_photographs(encoder, renderer, vertices, photographs)]))
    wrist = torch.tensor(surface.boundary_loops[0])

    def texture(prior: nn.Module, weight: float) -> Extra:
        loss_fn = ta.DenseTextureAlignmentLoss(renderer, prior, reduction="none")
        generator = torch.Generator().manual_seed(0)
        camera, image = photographs.camera, photographs.image
        return lambda hand: weight * loss_fn(hand.vertices, camera, image, generator=generator)

    def silhouette(hand: Hand) -> Tensor:
        coverage = renderer(hand.vertices, photographs.camera, torch.ones(1, 3, 8, 8)).coverage
        pixels = photographs.camera.project(hand.vertices).detach()
        care = 1 - beyond_wrist(pixels[:, wrist], pixels.mean(dim=1), SIZE, SIZE)
        return 8 * ((coverage - photographs.mask).square() * care).sum(dim=(1, 2, 3)) / photographs.mask.sum((1, 2, 3))

    variants: dict[str, Extra | None] = {"labels only": None}
    variants |= {f"+ loss, mean colour, weight {w}": texture(MeanColour(), w) for w in (2, 4)}
    variants |= {f"+ loss, prior, weight {w}": texture(encoder, w) for w in (1, 2, 4)}
    variants["+ pseudo-mask silhouette"] = silhouette
    results: dict[str, list[dict[str, Tensor]]] = {name: [] for name in variants}
    began = time.time()
    for seed in range(arguments.seeds):
        generator = torch.Generator().manual_seed(seed)
        labels = noisy_labels(photographs, generator)
        plain = labels_objective(model, photographs, labels, None)
        start = refine(model, disturbed(true_fit, generator), plain, 200, RATE)
        for name, extra in variants.items():
            fit = refine(model, start, labels_objective(model, photographs, labels, extra), STEPS, RATE)
            results[name].append(measure(model, renderer, fit, photographs))
            print(f"seed {seed}: {name} ({time.time() - began:.0f} s)", flush=True)
    rows: list[dict[str, Any]] = []
    for name, runs in results.items():
        row: dict[str, Any] = {"variant": name}
        for key in runs[0]:
            # Seeds of one frame are averaged first: the interval is over frames.
            mine = torch.stack([run[key] for run in runs]).mean(dim=0)
            base = torch.stack([run[key] for run in results["labels only"]]).mean(dim=0)
            _, low, high = interval(mine - base)
            row[key] = mine.mean().item()
            row[f"{key} change, 95 %"] = f"{low:+.3f} … {high:+.3f}"
        rows.append(row)
    print(table(rows))
    content = {"frames": len(photographs.image), "seeds": arguments.seeds, "seconds": time.time() - began, "rows": rows}
    write_json(arguments.output, {"environment": environment(), "prior": encoder.provenance, **content})


if __name__ == "__main__":
    main()

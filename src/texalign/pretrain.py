"""Training the texture prior: what some pixels of a hand say about the others. No ground-truth textures are used."""

from __future__ import annotations

import json
import math
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from texalign import synthetic
from texalign.encoder import UVTextureEncoder
from texalign.hand import HandModel
from texalign.observations import UVObservations
from texalign.renderer import TexturedHandRenderer
from texalign.surface import HandSurface

# Noise on the mesh through which the prior observes, at full strength: radians on every joint, on the whole hand, and
# metres of translation. The prior meets such meshes in training a network.
POSE_NOISE, TURN_NOISE, SHIFT_NOISE = 0.12, 0.06, (0.004, 0.004, 0.012)


@dataclass(frozen=True)
class PretrainSettings:
    """What a run depends on. Two runs with equal settings on one machine give the same weights.

    Attributes:
        steps: optimiser steps in all.
        batch_size: synthetic images a step.
        image_size: pixels.
        token_count: observations the prior sees of each image.
        target_count: observations it must reproduce.
        rate: peak learning rate; warms up over a fiftieth of the steps, then decays by a cosine to a hundredth.
        seed: of weights and images.
    """

    steps: int = 4000
    batch_size: int = 12
    image_size: int = 128
    token_count: int = 384
    target_count: int = 1024
    rate: float = 6e-4
    seed: int = 0


def perturbed_vertices(model: HandModel, batch: synthetic.SyntheticBatch, generator: torch.Generator) -> Tensor:
    """The batch's right hands with a wrong pose and place, by a strength between 0 and 1 drawn for each."""
    count = len(batch.pose)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, device=batch.pose.device)

    strength = torch.rand(count, 1, 1, generator=generator, device=batch.pose.device)
    noise = torch.full((16, 1), POSE_NOISE, device=batch.pose.device)
    noise[0] = TURN_NOISE
    pose = batch.pose + strength * noise * normal(16, 3)
    shift = strength[:, 0] * normal(3) * batch.pose.new_tensor(SHIFT_NOISE)
    return model(pose, batch.betas).vertices + (batch.translation + shift)[:, None]


def drop_a_side(observations: UVObservations, generator: torch.Generator) -> UVObservations:
    """In half of the samples forget the observations on one side of a random line through the atlas.

    What is left must then predict what lies far from it, not only what lies between.
    """
    uv = observations.uv
    batch = len(uv)
    angle = 2 * math.pi * torch.rand(batch, 1, generator=generator, device=uv.device)
    keep_all = torch.rand(batch, 1, generator=generator, device=uv.device) < 0.5
    along = uv[..., 0] * angle.cos() + uv[..., 1] * angle.sin()
    share = torch.rand(batch, 1, generator=generator, device=uv.device)
    low = torch.where(observations.valid, along, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(observations.valid, along, -torch.inf).amax(dim=1, keepdim=True)
    kept = observations.valid & (keep_all | (along <= torch.lerp(low, high, 0.2 + 0.7 * share)))
    return UVObservations(uv, observations.rgb, kept)


def read_texture(texture: Tensor, uv: Tensor, surface: HandSurface) -> Tensor:
    """Texture (B, C, T, T) at uv (B, N, 2) → (B, N, C), as the renderer reads it."""
    grid = 2 * uv[:, None] - 1
    values = functional.grid_sample(surface.dilated(texture), grid, padding_mode="border", align_corners=False)
    return values[:, :, 0].transpose(1, 2)


def prior_loss(
    texture: Tensor, log_variance: Tensor, targets: UVObservations, surface: HandSurface
) -> tuple[Tensor, Tensor]:
    """Mean absolute error at the targets, and their negative log likelihood under a Laplace law of its scale."""
    read = read_texture(torch.cat([texture, log_variance], dim=1), targets.uv, surface)
    error = (read[..., :3] - targets.rgb).abs().mean(dim=-1)
    scale = (0.5 * read[..., 3]).exp()
    weight = targets.valid / targets.valid.sum().clamp(min=1)
    return (error * weight).sum(), ((error.detach() / scale + scale.log()) * weight).sum()


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Randomness of one step, whatever came before: a resumed run continues as if it had never stopped."""
    return torch.Generator(device).manual_seed((1_000_003 * seed + step) % 2**63)


def evaluate(encoder: UVTextureEncoder, settings: PretrainSettings, count: int = 96) -> dict[str, float]:
    """On unseen synthetic images: L1 at visible pixels and over the mean colour's, with a true and a wrong mesh."""
    device = next(encoder.parameters()).device
    surface, model = HandSurface.mano().to(device), HandModel().to(device)
    renderer = TexturedHandRenderer(surface, settings.image_size)
    sums: dict[str, float] = {"prior": 0.0, "prior_misaligned": 0.0, "mean_colour": 0.0}
    weight = 0.0
    encoder.eval()
    for chunk in range(math.ceil(count / settings.batch_size)):
        generator = step_generator(settings.seed + 7919, chunk, device)
        batch = synthetic.generate(settings.batch_size, settings.image_size, generator, left_share=0)
        with torch.no_grad():
            targets = renderer.observe(
                batch.vertices, batch.camera, batch.image, batch.mask, settings.target_count, generator
            )
            wrong = perturbed_vertices(model, batch, generator)
            for name, vertices in (("prior", batch.vertices), ("prior_misaligned", wrong)):
                seen = renderer.observe(
                    vertices, batch.camera, batch.image, count=settings.token_count, generator=generator
                )
                read = read_texture(encoder(seen), targets.uv, surface)
                sums[name] += float(((read - targets.rgb).abs().mean(-1) * targets.valid).sum())
            total = targets.valid.sum(dim=1, keepdim=True).clamp(min=1)
            mean = (targets.rgb * targets.valid[..., None]).sum(dim=1) / total
            error = (mean[:, None] - targets.rgb).abs().mean(-1) * targets.valid
            sums["mean_colour"] += float(error.sum())
            weight += float(targets.valid.sum())
    return {
        "visible_l1": sums["prior"] / weight,
        "visible_l1_over_mean_colour": sums["prior"] / sums["mean_colour"],
        "misaligned_l1_over_mean_colour": sums["prior_misaligned"] / sums["mean_colour"],
    }


def pretrain(
    folder: str | Path,
    settings: PretrainSettings,
    device: str = "cpu",
    checkpoint_every: int = 250,
    progress: Any = None,
) -> UVTextureEncoder:
    """Train a prior on synthetic images, or go on with the training that `folder` holds.

    Args:
        folder: gets ``checkpoint.pt`` (written whole, the only file needed to resume), ``log.jsonl`` (a line a
            checkpoint) and, in the end, the weights as `UVTextureEncoder.save_pretrained` writes them.
        settings: must equal those of the checkpoint when resuming.
        device: where to train.
        checkpoint_every: steps.
        progress: called with (step, dict of numbers) after every step, or None.

    Raises:
        ValueError: the folder holds a run with other settings, or a checkpoint that is not one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    surface, model = HandSurface.mano().to(where), HandModel().to(where)
    renderer = TexturedHandRenderer(surface, settings.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        encoder = UVTextureEncoder(surface.cpu()).to(where)
    surface = surface.to(where)
    decayed = [p for p in encoder.parameters() if p.dim() > 1]
    plain = [p for p in encoder.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    average = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
    step, hours = 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = _read_checkpoint(checkpoint, where)
        if state["settings"] != asdict(settings):
            raise ValueError(
                f"pretrain: expected the settings of {checkpoint}, {state['settings']}, got {asdict(settings)}"
            )
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, hours = state["average"], state["step"], state["hours"]
    began = time.time()
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _schedule(step, settings.steps)
        numbers = _train_step(encoder, optimizer, renderer, model, settings, step)
        step += 1
        keep = min(0.998, step / (step + 10))
        for name, tensor in encoder.state_dict().items():
            average[name].lerp_(tensor, 1 - keep) if tensor.is_floating_point() else average[name].copy_(tensor)
        if progress is not None:
            progress(step, numbers)
        if step % checkpoint_every == 0 or step == settings.steps:
            spent = hours + (time.time() - began) / 3600
            state = {
                "settings": asdict(settings),
                "encoder": encoder.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step,
                "hours": spent,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "hours": round(spent, 4), **numbers}) + "\n")
    encoder.load_state_dict(average)
    metrics = evaluate(encoder, settings)
    provenance = {
        "settings": asdict(settings),
        "hours": round(hours + (time.time() - began) / 3600, 3),
        "metrics": metrics,
    }
    encoder.save_pretrained(folder, provenance)
    return encoder.eval()


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"pretrain: expected a checkpoint in {path}, got a damaged file: {reason}") from error
    names = {"settings", "encoder", "optimizer", "average", "step", "hours"}
    if not isinstance(state, dict) or not names <= set(state):
        raise ValueError(f"pretrain: expected a checkpoint of pretrain in {path}, got something else")
    return state


def _train_step(
    encoder: UVTextureEncoder,
    optimizer: torch.optim.Optimizer,
    renderer: TexturedHandRenderer,
    model: HandModel,
    settings: PretrainSettings,
    step: int,
) -> dict[str, float]:
    generator = step_generator(settings.seed, step, next(encoder.parameters()).device)
    with torch.no_grad():
        batch = synthetic.generate(settings.batch_size, settings.image_size, generator, left_share=0)
        targets = renderer.observe(
            batch.vertices, batch.camera, batch.image, batch.mask, settings.target_count, generator
        )
        vertices = perturbed_vertices(model, batch, generator)
        seen = renderer.observe(vertices, batch.camera, batch.image, count=settings.token_count, generator=generator)
        seen = drop_a_side(seen, generator)
    encoder.train()
    texture, log_variance = encoder(seen, return_log_variance=True)
    error, likelihood = prior_loss(texture, log_variance, targets, renderer.surface)
    optimizer.zero_grad()
    (error + 0.02 * likelihood).backward()
    torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    optimizer.step()
    return {"l1": float(error.detach()), "likelihood": float(likelihood.detach())}


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

"""Training the texture prior: what some pixels of a hand say about the others. No ground-truth textures are used."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from texalign import synthetic
from texalign._internal import expect, write_whole
from texalign.hand import HandModel
from texalign.photographs import FittedPhotographs
from texalign.pretrain.examples import VIEWS, joined, perturbed_vertices, photographed_examples, synthetic_examples
from texalign.pretrain.provenance import trained_on, versions
from texalign.prior import UVTextureEncoder
from texalign.render import TexturedHandRenderer, UVObservations
from texalign.surface import HandSurface

# What an error in the other image counts. There the light falls differently, and a loss reads its own image first.
OTHER_VIEW_SHARE = 0.3
# How often the images of a hand share one texture, as with the encoder's `group`, and how often a sample shows nothing.
GROUP_SHARE, EMPTY_SHARE = 0.25, 0.025
# On the way: how many checkpoints pass from one look at held-out images to the next, and how many images that takes.
HELD_OUT_EVERY, HELD_OUT_COUNT = 4, 24


@dataclass(frozen=True)
class PretrainSettings:
    """What a run depends on. Two runs with equal settings on one machine give the same weights.

    Attributes:
        steps: optimiser steps in all.
        batch_size: images a step, two of every hand: an even number.
        image_size: pixels.
        token_count: observations the prior sees of each image.
        target_count: observations it must reproduce.
        rate: peak learning rate; warms up over a fiftieth of the steps, then decays by a cosine to a hundredth.
        seed: of weights and images.
        photograph_share: how much of a step's images are photographs, in [0, 1]; rounded to whole pairs.

    Raises:
        ValueError: a value out of range.
    """

    steps: int = 4000
    batch_size: int = 12
    image_size: int = 128
    token_count: int = 384
    target_count: int = 1024
    rate: float = 6e-4
    seed: int = 0
    photograph_share: float = 0.0

    def __post_init__(self) -> None:
        who = "PretrainSettings"
        for name, least in {"steps": 1, "image_size": 16, "token_count": 1, "target_count": 1}.items():
            value = getattr(self, name)
            expect(isinstance(value, int) and value >= least, who, f"{name} >= {least}", value)
        size, share = self.batch_size, self.photograph_share
        even = isinstance(size, int) and size > 0 and size % VIEWS == 0
        expect(even, who, f"batch_size to be a multiple of {VIEWS}, the images of a hand", size)
        expect(0 < self.rate < math.inf, who, "rate > 0", self.rate)
        expect(isinstance(self.seed, int) and 0 <= self.seed < 2**63, who, "seed in [0, 2**63)", self.seed)
        expect(0 <= share <= 1, who, "photograph_share in [0, 1]", share)
        some = share == 0 or self.photographed_pairs > 0
        expect(some, who, f"a photograph_share that makes at least one pair of {size} images", share)

    @property
    def photographed_pairs(self) -> int:
        """How many of a step's pairs are photographs."""
        return math.floor(self.photograph_share * self.batch_size / VIEWS + 0.5)


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


def forget_some(observations: UVObservations, share: float, generator: torch.Generator) -> UVObservations:
    """In a `share` of the samples forget all observations: the prior must have an answer when nothing is visible."""
    uv = observations.uv
    kept = torch.rand(len(uv), 1, generator=generator, device=uv.device) >= share
    return UVObservations(uv, observations.rgb, observations.valid & kept)


def partners(count: int, device: torch.device) -> Tensor:
    """(B,) int64: for each image the row of its pair's other image."""
    return torch.arange(count, device=device).view(-1, VIEWS).flip(1).flatten()


def with_other_view(targets: UVObservations, hand: Tensor) -> tuple[UVObservations, Tensor]:
    """Every sample's targets followed by those of its pair's other image, and what each counts (B, 2 N).

    The other image counts only where both show the same `hand` (B,).
    """
    where = targets.valid.device
    partner = partners(len(targets.valid), where)
    hand = hand.to(where)

    def beside(values: Tensor) -> Tensor:
        return torch.cat([values, values[partner]], dim=1)

    both = UVObservations(beside(targets.uv), beside(targets.rgb), beside(targets.valid))
    own = torch.ones_like(targets.rgb[..., 0])
    other = torch.where(hand == hand[partner], OTHER_VIEW_SHARE, 0.0)[:, None] * own
    return both, torch.cat([own, other], dim=1)


def read_texture(texture: Tensor, uv: Tensor, surface: HandSurface) -> Tensor:
    """Texture (B, C, T, T) at uv (B, N, 2) → (B, N, C), as the renderer reads it."""
    grid = 2 * uv[:, None] - 1
    values = functional.grid_sample(surface.dilated(texture), grid, padding_mode="border", align_corners=False)
    return values[:, :, 0].transpose(1, 2)


def prior_loss(
    texture: Tensor, log_variance: Tensor, targets: UVObservations, counts: Tensor, surface: HandSurface
) -> tuple[Tensor, Tensor]:
    """Mean absolute error at the targets, and their negative log likelihood under a Laplace law of its scale.

    Args:
        texture: (B, 3, T, T).
        log_variance: (B, 1, T, T).
        targets: N a sample.
        counts: (B, N) weights of the targets in the means.
        surface: whose atlas it is.
    """
    read = read_texture(torch.cat([texture, log_variance], dim=1), targets.uv, surface)
    error = (read[..., :3] - targets.rgb).abs().mean(dim=-1)
    scale = (0.5 * read[..., 3]).exp()
    weight = targets.valid * counts
    weight = weight / weight.sum().clamp(min=1)
    return (error * weight).sum(), ((error.detach() / scale + scale.log()) * weight).sum()


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Randomness of one step, whatever came before: a resumed run continues as if it had never stopped."""
    return torch.Generator(device).manual_seed((1_000_003 * seed + step) % 2**63)


def evaluate(encoder: UVTextureEncoder, settings: PretrainSettings, count: int = 96) -> dict[str, float]:
    """Mean absolute errors on unseen synthetic images, and over that of the mean colour of the pixels shown.

    ``visible``: at visible pixels of the very image; ``misaligned``: the same, observed through a wrong mesh;
    ``hidden``: where another image of the hand shows texels that this one does not.
    """
    device = next(encoder.parameters()).device
    surface, model = HandSurface.mano().to(device), HandModel().to(device)
    renderer = TexturedHandRenderer(surface, settings.image_size)
    sums = {f"{name}_{by}": 0.0 for name in ("visible", "misaligned", "hidden") for by in ("prior", "mean", "weight")}
    encoder.eval()
    partner = partners(settings.batch_size, device)
    for chunk in range(math.ceil(count / settings.batch_size)):
        generator = step_generator(settings.seed + 7919, chunk, device)
        with torch.no_grad():
            batch = synthetic.generate(settings.batch_size, settings.image_size, generator, left_share=0, views=VIEWS)
            camera, image = batch.camera, batch.image
            targets = renderer.observe(batch.vertices, camera, image, batch.mask, settings.target_count, generator)
            others = UVObservations(targets.uv[partner], targets.rgb[partner], targets.valid[partner])
            _, shown = renderer.unwrap(batch.vertices, camera, image, batch.mask, texture_size=64)
            at_others = functional.grid_sample(shown, 2 * others.uv[:, None] - 1, align_corners=False)[:, 0, 0]
            hidden = others.valid & (at_others == 0)
            wrong = perturbed_vertices(model, batch, generator)
            seen = renderer.observe(batch.vertices, camera, image, None, settings.token_count, generator)
            seen_wrong = renderer.observe(wrong, camera, image, None, settings.token_count, generator)
            weight = targets.valid[..., None]
            mean = (targets.rgb * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
            texture = encoder(seen)
            for name, drawn, what, valid in (
                ("visible", texture, targets, targets.valid),
                ("misaligned", encoder(seen_wrong), targets, targets.valid),
                ("hidden", texture, others, hidden),
            ):
                read = read_texture(drawn, what.uv, surface)
                sums[f"{name}_prior"] += float(((read - what.rgb).abs().mean(dim=-1) * valid).sum())
                sums[f"{name}_mean"] += float(((mean - what.rgb).abs().mean(dim=-1) * valid).sum())
                sums[f"{name}_weight"] += float(valid.sum())
    result = {"visible_l1": sums["visible_prior"] / max(sums["visible_weight"], 1)}
    for name in ("visible", "misaligned", "hidden"):
        result[f"{name}_l1_over_mean_colour"] = sums[f"{name}_prior"] / max(sums[f"{name}_mean"], 1e-9)
    return result


def pretrain(
    folder: str | Path,
    settings: PretrainSettings,
    start: UVTextureEncoder | None = None,
    device: str = "cpu",
    checkpoint_every: int = 250,
    progress: Any = None,
    photographs: FittedPhotographs | None = None,
) -> UVTextureEncoder:
    """Train a prior on synthetic images, and photographs if there are any, or go on with the training in `folder`.

    Args:
        folder: gets ``checkpoint.pt`` (written whole, the only file needed to resume), ``log.jsonl`` (a line a
            checkpoint, with errors on a few held-out synthetic images now and then) and, in the end, the weights as
            `UVTextureEncoder.save_pretrained` writes them.
        settings: must equal those of the checkpoint when resuming.
        start: an encoder to begin with, left as it is; None begins with random weights. When resuming, None or the
            same as before.
        device: where to train.
        checkpoint_every: steps.
        progress: called with (step, dict of numbers) after every step, or None.
        photographs: as `fit_photographs` gives them, of `settings.image_size`; when resuming, the same as before.

    Raises:
        ValueError: the folder holds a run with other settings, another start or other photographs, or a checkpoint
            that is not one; or photographs without a share of the images, or of another size.
    """
    sized = photographs is None or photographs.photographs.image.shape[-1] == settings.image_size
    expect(sized, "pretrain", f"photographs of {settings.image_size} pixels", "others")
    given = "photographs" if photographs is not None else "none"
    wanted = "photographs for photograph_share above 0, none for 0"
    share = settings.photograph_share
    expect((photographs is None) == (share == 0), "pretrain", wanted, f"{given} for {share}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    surface, model = HandSurface.mano().to(where), HandModel().to(where)
    renderer = TexturedHandRenderer(surface, settings.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        encoder = UVTextureEncoder(surface.cpu()).to(where) if start is None else copy.deepcopy(start).to(where)
    surface = surface.to(where)
    decayed = [p for p in encoder.parameters() if p.dim() > 1]
    plain = [p for p in encoder.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    average = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
    fixed: dict[str, Any] = {
        "settings": asdict(settings),
        "started_from": None if start is None else start.provenance,
        "photographs": None if photographs is None else _described(photographs),
    }
    step, hours = 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = _read_checkpoint(checkpoint, where)
        if start is None:
            fixed["started_from"] = state["started_from"]
        for name, text in (("settings", "settings"), ("started_from", "start"), ("photographs", "photographs")):
            expected = f"the {text} of {checkpoint}, {state[name]}"
            expect(state[name] == fixed[name], "pretrain", expected, fixed[name])
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, hours = state["average"], state["step"], state["hours"]
    made_by, began = versions(), time.time()
    seen = None if photographs is None else photographs.to(where)
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _schedule(step, settings.steps)
        numbers = _train_step(encoder, optimizer, renderer, model, settings, step, seen)
        step += 1
        keep = min(0.998, step / (step + 10))
        for name, tensor in encoder.state_dict().items():
            average[name].lerp_(tensor, 1 - keep) if tensor.is_floating_point() else average[name].copy_(tensor)
        if progress is not None:
            progress(step, numbers)
        if step % checkpoint_every == 0 or step == settings.steps:
            spent = hours + (time.time() - began) / 3600
            weights = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            state = {**fixed, **weights, "step": step, "hours": spent}
            write_whole(checkpoint, partial(torch.save, state))
            line: dict[str, Any] = {"step": step, "hours": round(spent, 4), **numbers}
            if step % (HELD_OUT_EVERY * checkpoint_every) == 0:
                averaged = copy.deepcopy(encoder)
                averaged.load_state_dict(average)
                line["held_out"] = evaluate(averaged, settings, HELD_OUT_COUNT)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
    encoder.load_state_dict(average)
    provenance = {
        "trained_on": trained_on(
            settings.photographed_pairs * VIEWS < settings.batch_size,
            0 if photographs is None else len(photographs),
            fixed["started_from"],
        ),
        **{name: value for name, value in fixed.items() if value is not None},
        "hours": round(hours + (time.time() - began) / 3600, 3),
        "metrics": evaluate(encoder, settings),
        **made_by,
    }
    encoder.save_pretrained(folder, provenance)
    return encoder.eval()


def _described(photographs: FittedPhotographs) -> dict[str, Any]:
    return {
        "used": len(photographs),
        "left_out": photographs.left_out,
        "fitted": photographs.parameters is not None,
        "fingerprint": photographs.fingerprint,
    }


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"pretrain: expected a checkpoint in {path}, got a damaged file: {reason}") from error
    names = {"settings", "started_from", "photographs", "encoder", "optimizer", "average", "step", "hours"}
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
    photographs: FittedPhotographs | None,
) -> dict[str, float]:
    device = next(encoder.parameters()).device
    generator = step_generator(settings.seed, step, device)
    pairs, photographed = settings.batch_size // VIEWS, settings.photographed_pairs
    with torch.no_grad():
        parts = []
        if photographed < pairs:
            parts.append(synthetic_examples(model, pairs - photographed, settings.image_size, generator))
        if photographs is not None:
            parts.append(photographed_examples(model, photographs, photographed, generator))
        batch = joined(parts)
        camera, image = batch.camera, batch.image
        targets = renderer.observe(batch.vertices, camera, image, batch.mask, settings.target_count, generator)
        vertices = batch.mistaken(generator)
        seen = renderer.observe(vertices, camera, image, count=settings.token_count, generator=generator)
        seen = forget_some(drop_a_side(seen, generator), EMPTY_SHARE, generator)
        targets, counts = with_other_view(targets, batch.hand)
        together = torch.rand(1, generator=generator, device=device).item() < GROUP_SHARE
    encoder.train()
    texture, log_variance = encoder(seen, group=batch.hand if together else None, return_log_variance=True)
    error, likelihood = prior_loss(texture, log_variance, targets, counts, renderer.surface)
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

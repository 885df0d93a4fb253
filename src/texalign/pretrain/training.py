from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texalign._internal import expect, write_whole
from texalign.photographs import FittedPhotographs
from texalign.pretrain.checkpoint import expect_same_run, read_checkpoint
from texalign.pretrain.evaluation import evaluate
from texalign.pretrain.examples import joined, photographed_examples, synthetic_examples
from texalign.pretrain.objective import drop_a_side, forget_some, prior_loss, with_other_view
from texalign.pretrain.provenance import trained_on, versions
from texalign.pretrain.settings import VIEWS, PretrainSettings, step_generator
from texalign.pretrain.subject import Subject
from texalign.prior import UVTextureEncoder
from texalign.surface import HandSurface, same_atlas

# How often the images of a hand share one texture, as with the encoder's `group`, and how often a sample shows nothing.
GROUP_SHARE, EMPTY_SHARE = 0.25, 0.025
# During a run: checkpoints between two evaluations on held-out images, and the number of those images.
HELD_OUT_EVERY, HELD_OUT_COUNT = 2, 24


def pretrain(
    folder: str | Path,
    settings: PretrainSettings,
    start: UVTextureEncoder | None = None,
    device: str = "cpu",
    checkpoint_every: int = 250,
    progress: Callable[[int, dict[str, float]], object] | None = None,
    photographs: FittedPhotographs | None = None,
    surface: HandSurface | None = None,
    vertices_of: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[int, UVTextureEncoder], object] | None = None,
) -> UVTextureEncoder:
    """Train a prior on synthetic images and photographs, or resume the training in `folder`.

    Args:
        folder: gets ``checkpoint.pt`` (written atomically, the only file needed to resume), ``log.jsonl`` (a line a
            checkpoint, with errors on a few held-out synthetic images now and then) and, in the end, the weights as
            `UVTextureEncoder.save_pretrained` writes them.
        settings: must equal those of the checkpoint when resuming, but for more steps: the rate then goes on where the
            longer schedule has it.
        start: an encoder to begin with, not changed; None begins with random weights. When resuming, None or the same
            as before.
        device: where to train.
        checkpoint_every: steps.
        progress: called with (step, dict of numbers) after every step, or None. The numbers are NaN, and null in the
            log, if no image of the step showed any of its hand. KeyboardInterrupt from it leaves a checkpoint.
        photographs: as `fit_photographs` gives them, of `settings.image_size`; when resuming, the same as before.
            Given meshes (``photographs.parameters`` is None) have the surface's vertices; fitted ones are those of the
            bundled hand and go through `vertices_of`.
        surface: the right hand's surface whose textures the prior predicts; None is `HandSurface.mano()`.
        vertices_of: maps vertices of the bundled hand (B, 778, 3) on `device` to those of the surface (B, V, 3), in
            the same frame: a subdivision, points attached by barycentric coordinates, a subset. None for a surface on
            the bundled hand's own vertices. Synthetic images always show the bundled hand.
        watch: called with (step, a copy of the averaged encoder) at every second checkpoint and in the end, or None.

    Returns:
        The averaged encoder, in evaluation mode, on `device`.

    Raises:
        TypeError: `surface` is not a HandSurface.
        ValueError: a run with other settings, another surface, start or photographs in the folder, or a checkpoint that
            is not one; a start for another atlas; photographs of another image size or with other vertices, or without
            a share of the images; `vertices_of` missing for a surface of another vertex count, or giving one. All are
            refused before any training.

    Example:
        >>> encoder = pretrain("my-prior", PretrainSettings(steps=2000))  # doctest: +SKIP
    """
    where = torch.device(device)
    subject = Subject(surface, vertices_of, settings.image_size, where)
    atlas_id = subject.surface.atlas_id
    if start is not None:
        wanted = f"start, an encoder for the surface's atlas {atlas_id}"
        expect(same_atlas(start.atlas_id, atlas_id), "pretrain", wanted, f"one for atlas {start.atlas_id}")
    _check_photographs(photographs, settings, subject)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = _begun(subject.surface, settings.seed, where) if start is None else copy.deepcopy(start).to(where)
    optimizer = _optimizer(encoder, settings.rate)
    average = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
    fixed: dict[str, Any] = {
        "settings": asdict(settings),
        "atlas_id": atlas_id,
        "started_from": None if start is None else start.provenance,
        "photographs": None if photographs is None else _described(photographs),
    }
    step, hours, targets = 0, 0.0, [settings.steps]
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = read_checkpoint(checkpoint, where)
        if start is None:
            fixed["started_from"] = state["started_from"]
        expect_same_run(checkpoint, state, fixed)
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, hours = state["average"], state["step"], state["hours"]
        targets = sorted({*state.get("step_targets", [state["settings"]["steps"]]), settings.steps})
    made_by, began = versions(), time.time()

    def spent() -> float:
        return hours + (time.time() - began) / 3600

    def keep() -> None:
        weights = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
        state = {**fixed, **weights, "step": step, "hours": spent(), "step_targets": targets}
        write_whole(checkpoint, partial(torch.save, state))

    def averaged() -> UVTextureEncoder:
        copied = copy.deepcopy(encoder)
        copied.load_state_dict(average)
        return copied.eval()

    seen = None if photographs is None else photographs.to(where)
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate_factor(step, settings.steps)
        numbers = train_step(encoder, optimizer, subject, settings, step, seen)
        step += 1
        share = min(0.998, step / (step + 10))
        for name, tensor in encoder.state_dict().items():
            average[name].lerp_(tensor, 1 - share) if tensor.is_floating_point() else average[name].copy_(tensor)
        if progress is not None:
            try:
                progress(step, numbers)
            except KeyboardInterrupt:
                keep()
                raise
        if step % checkpoint_every == 0 or step == settings.steps:
            keep()
            told = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            line: dict[str, Any] = {"step": step, "hours": round(spent(), 4), **told}
            if step % (HELD_OUT_EVERY * checkpoint_every) == 0:
                line["held_out"] = evaluate(averaged(), settings, subject, HELD_OUT_COUNT)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            if watch is not None and "held_out" in line and step < settings.steps:
                watch(step, averaged())
    encoder.load_state_dict(average)
    provenance = {
        "trained_on": trained_on(
            settings.photographed_pairs * VIEWS < settings.batch_size,
            0 if photographs is None else len(photographs),
            fixed["started_from"],
        ),
        # The atlas stands beside the provenance in the weights' own configuration.
        **{name: value for name, value in fixed.items() if value is not None and name != "atlas_id"},
        **({"step_targets": targets} if len(targets) > 1 else {}),
        "hours": round(spent(), 3),
        "metrics": evaluate(encoder, settings, subject),
        **made_by,
    }
    encoder.save_pretrained(folder, provenance)
    if watch is not None:
        watch(step, averaged())
    return encoder.eval()


def _check_photographs(photographs: FittedPhotographs | None, settings: PretrainSettings, subject: Subject) -> None:
    sized = photographs is None or photographs.photographs.image.shape[-1] == settings.image_size
    expect(sized, "pretrain", f"photographs of {settings.image_size} pixels", "others")
    given = "photographs" if photographs is not None else "none"
    wanted = "photographs for photograph_share above 0, none for 0"
    share = settings.photograph_share
    expect((photographs is None) == (share == 0), "pretrain", wanted, f"{given} for {share}")
    if photographs is not None:
        subject.check(photographs)


def _begun(surface: HandSurface, seed: int, device: torch.device) -> UVTextureEncoder:
    """An encoder with random weights, which depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return UVTextureEncoder(copy.deepcopy(surface).cpu()).to(device)


def _optimizer(encoder: UVTextureEncoder, rate: float) -> torch.optim.AdamW:
    decayed = [p for p in encoder.parameters() if p.dim() > 1]
    plain = [p for p in encoder.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def _described(photographs: FittedPhotographs) -> dict[str, Any]:
    return {
        "used": len(photographs),
        "left_out": photographs.left_out,
        "fitted": photographs.parameters is not None,
        "fingerprint": photographs.fingerprint,
    }


def train_step(
    encoder: UVTextureEncoder,
    optimizer: torch.optim.Optimizer,
    subject: Subject,
    settings: PretrainSettings,
    step: int,
    photographs: FittedPhotographs | None,
) -> dict[str, float]:
    """One step of the optimiser on the images of this step, and its losses; NaN if there was nothing to learn."""
    renderer, device = subject.renderer, next(encoder.parameters()).device
    generator = step_generator(settings.seed, step, device)
    pairs, photographed = settings.batch_size // VIEWS, settings.photographed_pairs
    with torch.no_grad():
        parts = []
        if photographed < pairs:
            parts.append(synthetic_examples(subject, pairs - photographed, settings.image_size, generator))
        if photographs is not None:
            parts.append(photographed_examples(subject, photographs, photographed, generator))
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
    if not targets.valid.any():
        return {"l1": math.nan, "likelihood": math.nan}
    return {"l1": float(error.detach()), "likelihood": float(likelihood.detach())}


def rate_factor(step: int, steps: int) -> float:
    """The learning rate's factor in (0, 1]: a linear warm-up, then a cosine to a hundredth."""
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

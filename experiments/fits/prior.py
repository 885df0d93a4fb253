"""How well the prior predicts colours, over the mean colour of what it was shown. Part of `python experiments/fits`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

import texalign as ta
from fits.comparison import relative_change
from fits.landscape import Batch
from fits.plain_scenes import Scenes
from texalign.hand import KnownShape, disturbed, parameters_of_pose, pose_hand
from texalign.photographs import Photographs
from texalign.pretrain import read_texture

TOKENS, TARGETS = 384, 1024
Errors = dict[str, dict[str, list[float]]]


def per_image(read: Tensor, mean: Tensor, rgb: Tensor, valid: Tensor) -> dict[str, list[float]]:
    """Mean absolute errors (B,) of what was read and of the mean colour where something is valid."""
    some = valid.any(dim=1)
    weight = valid / valid.sum(dim=1, keepdim=True).clamp(min=1)
    errors = {"prior": (read - rgb).abs().mean(dim=-1), "mean": (mean - rgb).abs().mean(dim=-1)}
    return {name: (error * weight).sum(dim=1)[some].tolist() for name, error in errors.items()}


def errors_on(
    encoder: ta.UVTextureEncoder,
    renderer: ta.TexturedHandRenderer,
    batch: Batch | Photographs,
    vertices: Tensor,
    wrong: Tensor | None = None,
) -> Errors:
    """By image: at visible pixels, observed through the true mesh and through a wrong one; and at hidden texels.

    Hidden texels are known where the scene's texture has the light in it; others have no such row.
    """
    generator = torch.Generator().manual_seed(0)
    camera, image, surface = batch.camera, batch.image, renderer.surface
    targets = renderer.observe(vertices, camera, image, batch.mask, TARGETS, generator)
    mean = targets.mean_colour()[:, None]
    result = {}
    for name, mesh in (("visible", vertices), ("visible, mesh off", wrong)):
        if mesh is None:
            continue
        seen = renderer.observe(mesh, camera, image, count=TOKENS, generator=generator)
        read = read_texture(encoder(seen), targets.uv, surface)
        result[name] = per_image(read, mean, targets.rgb, targets.valid)
    if isinstance(batch, Scenes):
        seen = renderer.observe(vertices, camera, image, count=TOKENS, generator=generator)
        texture = encoder(seen)
        size = texture.shape[-1]
        _, shown = renderer.unwrap(vertices, camera, image, texture_size=size)
        hidden = (shown == 0) & (surface.texel_map(size).face_index >= 0)
        flat = [values.flatten(2).transpose(1, 2) for values in (texture, batch.texture)]
        result["hidden"] = per_image(flat[0], mean, flat[1], hidden.flatten(1))
    return result


def hidden_in_pairs(
    encoder: ta.UVTextureEncoder,
    renderer: ta.TexturedHandRenderer,
    batch: Batch | Photographs,
    vertices: Tensor,
    partner: Tensor,
) -> dict[str, list[float]]:
    """By image: at what it hides of the hand and the image `partner` (B,) of the same hand in the same light shows."""
    generator = torch.Generator().manual_seed(0)
    camera, image = batch.camera, batch.image
    targets = renderer.observe(vertices, camera, image, batch.mask, TARGETS, generator)
    _, shown = renderer.unwrap(vertices, camera, image, batch.mask, texture_size=64)
    uv, rgb = targets.uv[partner], targets.rgb[partner]
    hidden = targets.valid[partner] & (grid_sample(shown, 2 * uv[:, None] - 1, align_corners=False)[:, 0, 0] == 0)
    texture = encoder(renderer.observe(vertices, camera, image, count=TOKENS, generator=generator))
    read = read_texture(texture, uv, renderer.surface)
    # Of a few texels at an outline the mean says nothing.
    enough = hidden.sum(dim=1, keepdim=True) >= TARGETS // 50
    return per_image(read, targets.mean_colour()[:, None], rgb, hidden & enough)


def misplaced(batch: Batch, generator: torch.Generator) -> Tensor:
    """(B, 778, 3): the hands off by `texalign.hand.disturbed`, as the refinements of this experiment start."""
    model = KnownShape(batch.betas)
    wrong = disturbed(parameters_of_pose(model, batch.pose, batch.translation), generator)
    return pose_hand(model, wrong).vertices


def errors_in_chunks(encoder: ta.UVTextureEncoder, renderer: ta.TexturedHandRenderer, batches: list[Batch]) -> Errors:
    """The same over several batches."""
    merged: Errors = {}
    with torch.no_grad():
        for number, batch in enumerate(batches):
            wrong = misplaced(batch, torch.Generator().manual_seed(number))
            for name, values in errors_on(encoder, renderer, batch, batch.vertices, wrong).items():
                for by, numbers in values.items():
                    merged.setdefault(name, {}).setdefault(by, []).extend(numbers)
    return merged


def prior_row(where: str, prior: str, values: dict[str, list[float]], bundled: list[float]) -> dict[str, Any]:
    """A row of the table, also against the errors of the bundled prior on the same images."""
    error, mean = torch.tensor(values["prior"]), torch.tensor(values["mean"])
    change, low, high = relative_change(error, mean)
    return {
        "prior": prior,
        "images and pixels": where,
        "n": len(error),
        "L1": error.mean().item(),
        "mean colour's": mean.mean().item(),
        "ratio": 1 + change,
        "95 %": f"{1 + low:.2f} … {1 + high:.2f}",
        "against bundled": "{:+.1%} ({:+.1%} … {:+.1%})".format(*relative_change(error, torch.tensor(bundled))),
    }

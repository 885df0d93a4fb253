from __future__ import annotations

import math

import torch
from torch.nn import functional

from texalign import synthetic
from texalign.pretrain.examples import perturbed_vertices
from texalign.pretrain.objective import partners, read_texture
from texalign.pretrain.settings import VIEWS, PretrainSettings, step_generator
from texalign.pretrain.subject import Subject
from texalign.prior import UVTextureEncoder
from texalign.render import UVObservations


def evaluate(
    encoder: UVTextureEncoder, settings: PretrainSettings, subject: Subject, count: int = 96
) -> dict[str, float | None]:
    """Mean absolute errors on held-out synthetic images, and their ratio to the error of the visible mean colour.

    ``visible``: at visible pixels of the same image; ``misaligned``: the same, observed through a wrong mesh;
    ``hidden``: at texels that this image hides and the pair's other image shows. None where no pixel was measured.
    """
    device = next(encoder.parameters()).device
    renderer = subject.renderer
    sums = {f"{name}_{by}": 0.0 for name in ("visible", "misaligned", "hidden") for by in ("prior", "mean", "weight")}
    encoder.eval()
    partner = partners(settings.batch_size, device)
    for chunk in range(math.ceil(count / settings.batch_size)):
        generator = step_generator(settings.seed + 7919, chunk, device)
        with torch.no_grad():
            batch = synthetic.generate(settings.batch_size, settings.image_size, generator, left_share=0, views=VIEWS)
            camera, image, vertices = batch.camera, batch.image, subject.vertices_of(batch.vertices)
            targets = renderer.observe(vertices, camera, image, batch.mask, settings.target_count, generator)
            others = UVObservations(targets.uv[partner], targets.rgb[partner], targets.valid[partner])
            _, shown = renderer.unwrap(vertices, camera, image, batch.mask, texture_size=64)
            at_others = functional.grid_sample(shown, 2 * others.uv[:, None] - 1, align_corners=False)[:, 0, 0]
            hidden = others.valid & (at_others == 0)
            wrong = subject.vertices_of(perturbed_vertices(subject.model, batch, generator))
            seen = renderer.observe(vertices, camera, image, None, settings.token_count, generator)
            seen_wrong = renderer.observe(wrong, camera, image, None, settings.token_count, generator)
            weight = targets.valid[..., None]
            mean = (targets.rgb * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
            texture = encoder(seen)
            for name, drawn, what, valid in (
                ("visible", texture, targets, targets.valid),
                ("misaligned", encoder(seen_wrong), targets, targets.valid),
                ("hidden", texture, others, hidden),
            ):
                read = read_texture(drawn, what.uv, subject.surface)
                sums[f"{name}_prior"] += float(((read - what.rgb).abs().mean(dim=-1) * valid).sum())
                sums[f"{name}_mean"] += float(((mean - what.rgb).abs().mean(dim=-1) * valid).sum())
                sums[f"{name}_weight"] += float(valid.sum())

    def ratio(above: str, below: str) -> float | None:
        return sums[above] / sums[below] if sums[below] > 0 else None

    result = {"visible_l1": ratio("visible_prior", "visible_weight")}
    for name in ("visible", "misaligned", "hidden"):
        result[f"{name}_l1_over_mean_colour"] = ratio(f"{name}_prior", f"{name}_mean")
    return result

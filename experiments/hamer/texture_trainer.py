"""What ``configs/texture_exp`` puts into HaMeR's training: a trainer that attaches the loss."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch

import texalign as ta
from texalign._internal import expect
from texalign.adapters import hamer
from texalign.lightning import TextureAlignmentLogger

NETWORK = ("backbone", "mano_head")  # what HaMeR's first optimiser trains, and all that predicts a hand


class TextureTrainer(pl.Trainer):
    """Lightning's trainer, which begins a fit with given weights and fits with the texture's loss.

    Args:
        *arguments: of `pytorch_lightning.Trainer`, like all others.
        start_from: a checkpoint for `load_weights`. Where a run is resumed, its own weights replace them.
        texture: arguments of `attached`. None: without the loss.
        **settings: of `pytorch_lightning.Trainer`.
    """

    def __init__(
        self,
        *arguments: Any,
        start_from: str | None = None,
        texture: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.start_from, self.texture = start_from, texture

    def fit(self, model: Any, *arguments: Any, **settings: Any) -> None:
        """As `pytorch_lightning.Trainer.fit`; HaMeR is left as it came."""
        if self.start_from is not None:
            said = load_weights(model, self.start_from)
            if self.is_global_zero:
                print(said, flush=True)
        if self.texture is None:
            super().fit(model, *arguments, **settings)
            return
        handle, pictures = attached(model, **self.texture)
        callbacks = self.callbacks  # type: ignore[has-type]
        self.callbacks = [*pictures, *callbacks]
        if self.is_global_zero:
            print(f"texalign: loss attached, {dict(self.texture)}", flush=True)
        try:
            super().fit(model, *arguments, **settings)
        finally:
            self.callbacks = callbacks
            handle.detach()


def attached(
    model: Any,
    weight: float | Literal["auto"] = "auto",
    warm_up: int = 0,
    image_size: int = 256,
    train_texture: bool = False,
    recompute_vertices: bool = False,
    pictures_every: int = 500,
) -> tuple[hamer.HamerAttachment, list[TextureAlignmentLogger]]:
    """HaMeR with the loss and the bundled prior attached, and the callback that draws pictures.

    Args:
        model: a `hamer.models.HAMER`.
        weight: of the texture's loss, see `texalign.adapters.hamer.attach`.
        warm_up: batches over which a given weight rises from 0, or before which an automatic one is 0.
        image_size: pixels of the renderer: the model's 256, or an integer fraction of it.
        train_texture: whether the prior goes on learning.
        recompute_vertices: run the hand layer once more, in float32.
        pictures_every: batches between pictures; 0: none.
    """
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size)
    encoder = ta.UVTextureEncoder.from_pretrained()
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, encoder, train_texture=train_texture)
    handle = hamer.attach(model, loss_fn, weight=weight, warm_up=warm_up, recompute_vertices=recompute_vertices)
    return handle, [TextureAlignmentLogger(loss_fn, pictures_every)] if pictures_every else []


def load_weights(model: Any, path: str | os.PathLike[str]) -> str:
    """Load a checkpoint of HaMeR's, all of the network or nothing accepted, and say what was loaded.

    HaMeR's own way to load (``strict=False``) takes a file that fits in nothing without a word. Here every entry of
    ``backbone`` and ``mano_head`` must be in the file, and no other. The rest, MANO's buffers and the discriminator, is
    loaded where it is there, and otherwise stays as it was.

    Raises:
        ValueError: an entry of the network is missing or unknown.
        RuntimeError: an entry has another shape.
    """
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in (*missing, *unexpected) if name.partition(".")[0] in NETWORK]
    expect(
        not wrong, "load_weights", f"{path} to hold all of {' and '.join(NETWORK)}", f"{len(wrong)} others: {wrong[:3]}"
    )
    taken = Counter(name.partition(".")[0] for name in state.keys() - set(unexpected))
    said = ", ".join(f"{part} ({count} entries)" for part, count in sorted(taken.items()))
    for about, names in (("not in the file, left as they were", missing), ("in the file, not used", unexpected)):
        if names:
            said += f"; {about}: " + ", ".join(sorted({name.partition(".")[0] for name in names}))
    return f"texalign: loaded {path}: {said}"

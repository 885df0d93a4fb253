"""Pictures of what the loss sees, during a run of Lightning. Needs lightning or pytorch_lightning, and pillow."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor

from texalign._internal import MissingExtraError, expect
from texalign.loss import DenseTextureAlignmentLoss, LossWatch, Sighting
from texalign.viz import alignment_sheet, contact_sheet, save_png, to_uint8

LIGHTNING_EXTRA_MISSING = 'texalign.lightning needs lightning and pillow: pip install "texalign[lightning]"'


def _callback_base() -> Any:
    """Lightning is published under two names with a Callback each, and a trainer knows its own: be both."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError(LIGHTNING_EXTRA_MISSING)
    bases = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            bases.append(importlib.import_module(name).Callback)
        except ImportError:
            continue
    if not bases:
        raise MissingExtraError(LIGHTNING_EXTRA_MISSING)
    return type("Callback", tuple(bases), {})


_Callback: Any = _callback_base()


class TextureAlignmentLogger(_Callback):
    """Writes, every so many training batches, what the loss saw of the first hands to the loggers of the trainer.

    Two pictures: `texalign.viz.alignment_sheet`, one row a hand, as ``NAME/alignment``; and the prior's textures in
    full as ``NAME/texture``. They show the training step itself, not a second look: no randomness is used up, no
    module changes its mode, and other processes of a distributed run do not wait. Only rank zero draws.

    Each logger gets them in its own way: TensorBoard as images; a logger with a method `log_image` (Weights & Biases)
    through that. Others (CSV), and a trainer without a logger, get files: ``NAME/alignment-00000500.png`` in the folder
    of the logger, or of the trainer.

    Works with the trainers of `lightning` and `pytorch_lightning`, with automatic and with manual optimisation.

    Args:
        loss_fn: the loss to watch. None: every `DenseTextureAlignmentLoss` inside the LightningModule; the names of
            their pictures then differ, if there are several. A loss that is kept outside the module must be named.
        every_n_batches: the first batch is drawn, and each so many batches later. Batches are counted, not
            optimiser steps, and over the whole run, resumed or not. Where the loss is not called, or on an empty
            batch, the next batch that has something to show is taken.
        count: how many hands to show, the first of the batch.
        name: NAME above.

    Raises:
        ValueError: `every_n_batches` or `count` not positive; at the start of the fit, no loss to watch.
        MissingExtraError: on import, if a package is missing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TextureAlignmentLogger(every_n_batches=500)])
    """

    def __init__(
        self,
        loss_fn: DenseTextureAlignmentLoss | None = None,
        every_n_batches: int = 500,
        count: int = 4,
        name: str = "texture_alignment",
    ) -> None:
        super().__init__()
        who = "TextureAlignmentLogger"
        if loss_fn is not None and not isinstance(loss_fn, DenseTextureAlignmentLoss):
            raise TypeError(f"{who}: expected loss_fn to be a DenseTextureAlignmentLoss, got {type(loss_fn).__name__}")
        expect(every_n_batches > 0, who, "every_n_batches > 0", every_n_batches)
        expect(count > 0, who, "count > 0", count)
        self.loss_fn = loss_fn
        self.every_n_batches, self.count = every_n_batches, count
        self.name = name
        self._watched: dict[str, tuple[DenseTextureAlignmentLoss, LossWatch]] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the losses and begin to watch them, on rank zero."""
        self._detach()
        losses = self._losses(pl_module)
        if not trainer.is_global_zero:
            return
        for name, loss_fn in losses.items():
            watch = LossWatch(self.count)
            watch.attach(loss_fn)
            self._watched[name] = loss_fn, watch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Say whether this batch is to be remembered."""
        if trainer.fit_loop.total_batch_idx % self.every_n_batches == 0:
            for _, watch in self._watched.values():
                watch.wanted = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Draw what was remembered."""
        for name, (loss_fn, watch) in self._watched.items():
            if watch.sighting is not None:
                sighting, watch.sighting, watch.wanted = watch.sighting, None, False
                for key, picture in _pictures(loss_fn, sighting).items():
                    _write(trainer, f"{name}/{key}", picture, trainer.fit_loop.total_batch_idx)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the losses as they were."""
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the losses as they were."""
        self._detach()

    def _losses(self, pl_module: Any) -> dict[str, DenseTextureAlignmentLoss]:
        """The losses to watch, by the name of their pictures."""
        if self.loss_fn is not None:
            return {self.name: self.loss_fn}
        found = {path: it for path, it in pl_module.named_modules() if isinstance(it, DenseTextureAlignmentLoss)}
        where = f"a DenseTextureAlignmentLoss inside {type(pl_module).__name__}, or one given as loss_fn"
        expect(bool(found), "TextureAlignmentLogger", where, "none")
        if len(found) == 1:
            return dict(zip([self.name], found.values()))
        return {f"{self.name}/{path}": loss_fn for path, loss_fn in found.items()}

    def _detach(self) -> None:
        for _, watch in self._watched.values():
            watch.detach()
        self._watched = {}


def _pictures(loss_fn: DenseTextureAlignmentLoss, sighting: Sighting) -> dict[str, Tensor]:
    sheet = alignment_sheet(sighting.image, sighting.details, sighting.is_right, loss_fn.renderer.surface)
    return {"alignment": sheet, "texture": contact_sheet([list(sighting.details.texture)])}


def _write(trainer: Any, tag: str, picture: Tensor, batch: int) -> None:
    """Give a picture to each logger that shows pictures, and write one file for each folder of those that do not."""
    folders: dict[Path, None] = {}
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if callable(getattr(logger, "log_image", None)):
            logger.log_image(key=tag, images=[to_uint8(picture)], step=batch)
        elif callable(getattr(experiment, "add_image", None)):
            experiment.add_image(tag, to_uint8(picture), global_step=batch, dataformats="HWC")
        else:
            folder = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
            folders[Path(folder)] = None
    if not trainer.loggers:
        # Not trainer.log_dir, which waits for the other processes.
        folders[Path(trainer.default_root_dir)] = None
    for folder in folders:
        path = folder / f"{tag}-{batch:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, picture)

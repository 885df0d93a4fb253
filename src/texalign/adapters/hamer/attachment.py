"""HaMeR, and what shares its code: WiLoR, and 4D-Humans with a surface of its own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from texalign._internal import expect, write_whole
from texalign.adapters.hamer.inputs import loss_inputs, shrunk
from texalign.adapters.hamer.measured_weight import MeasuredWeight
from texalign.adapters.hamer.prior_training import PriorTraining
from texalign.adapters.hamer.wrapped_method import WrappedMethod
from texalign.adapters.inputs import IMAGENET_MEAN, IMAGENET_STD
from texalign.loss import DenseTextureAlignmentLoss, LossDetails, LossInputs

SUFFIX = ".texalign.pt"


def attach(
    model: Any,
    loss_fn: DenseTextureAlignmentLoss,
    weight: float | Literal["auto"] = "auto",
    warm_up: int = 0,
    pixel_offset: float = 0.5,
    recompute_vertices: bool = False,
    texture_optimizer: Optimizer | None = None,
    ratio: float = 0.5,
) -> HamerAttachment:
    """Add the texture's loss to a HaMeR model's own, until the handle's `detach()`.

    `model.compute_loss` is replaced on this instance; `training_step` and `validation_step` call it as before, under
    Lightning or in a plain loop. What it returns is the model's own loss plus weight · Σ texture loss over the batch
    (the model's own terms are sums too), and ``output["losses"]``, which the model logs, gains ``loss_texture`` (that
    sum), ``texture_residual`` (mean absolute colour difference over the hands, in [0, 1]), ``texture_skipped`` (samples
    that contributed nothing) and ``texture_weight``.

    Nothing of it is part of the model: no parameter, buffer, checkpoint entry, copy or pickle. Under Lightning a file
    ``<checkpoint>.texalign.pt`` with what the handle itself has to remember is written beside each checkpoint, removed
    with it, and read when training resumes from it; in a plain loop call `save` and `load`.

    Args:
        model: a `hamer.models.HAMER`, WiLoR's model, or 4D-Humans' with a `loss_fn` for SMPL's surface: anything with
            ``compute_loss(batch, output, train)`` and their ``cfg``.
        loss_fn: its renderer's size is the model's image size or an integer fraction of it, for speed. Its `reduction`
            plays no part here. Its ``train_texture=True`` also trains the prior, by an optimiser of its own.
        weight: of the texture's loss. ``"auto"``: the median of `balanced_weight` over the first 20 batches after
            `warm_up`, the same on every process, saved with the checkpoint and fixed from then on.
        warm_up: batches over which a given weight rises from 0, or before which an automatic one is 0, by the handle's
            own count (HaMeR's `global_step` advances twice a batch).
        pixel_offset: added to the principal point, pixels of the model's image: 0.5 where annotations' integer
            coordinates are pixel centres, as in HaMeR's crops; 0 where they are pixel corners.
        recompute_vertices: run the hand layer again in float32, from the predicted pose and shape. Under bfloat16
            autocast the model's own vertices are rounded by up to a millimetre.
        texture_optimizer: of the prior's parameters, for ``train_texture=True``; the default is AdamW at 1e-4.
        ratio: for ``weight="auto"``: of the texture's gradient to that of the model's own loss, at the predicted pose,
            shape and camera.

    Raises:
        TypeError: `loss_fn` is not a `DenseTextureAlignmentLoss`.
        ValueError: the model lacks something, is attached already, or has another image size.

    Example:
        >>> handle = attach(model, DenseTextureAlignmentLoss.from_pretrained(image_size=256), warm_up=1000)
        >>> handle.weight  # train as ever: it is measured after the warm-up
        0.0
        >>> handle.detach()
    """
    return HamerAttachment(model, loss_fn, weight, warm_up, pixel_offset, recompute_vertices, texture_optimizer, ratio)


class HamerAttachment:
    """The handle that `attach` returns.

    Attributes:
        loss_fn: the loss; moved to the device of the model's output when it is first called.
        weight: of the texture's loss, after warm-up; an automatic one is 0 until its first batch. May be changed at any
            time, an automatic one once it is fixed.
        batches: training batches seen.
    """

    def __init__(
        self,
        model: Any,
        loss_fn: DenseTextureAlignmentLoss,
        weight: float | Literal["auto"],
        warm_up: int,
        pixel_offset: float,
        recompute_vertices: bool,
        texture_optimizer: Optimizer | None,
        ratio: float,
    ) -> None:
        if not isinstance(loss_fn, DenseTextureAlignmentLoss):
            kind = type(loss_fn).__name__
            raise TypeError(f"attach: expected loss_fn to be a DenseTextureAlignmentLoss, got {kind}")
        expect(callable(getattr(model, "compute_loss", None)), "attach", "a model with compute_loss", _named(model))
        expect(not isinstance(model.compute_loss, WrappedMethod), "attach", "a model without a texture loss", "one")
        cfg = getattr(model, "cfg", None)
        focal, size = _setting(cfg, "EXTRA", "FOCAL_LENGTH"), _setting(cfg, "MODEL", "IMAGE_SIZE")
        expect(focal and size, "attach", "a model with cfg.EXTRA.FOCAL_LENGTH and cfg.MODEL.IMAGE_SIZE", _named(model))
        drawn = (loss_fn.renderer.height, loss_fn.renderer.width)
        fits = drawn[0] == drawn[1] and size % drawn[0] == 0
        expect(fits, "attach", f"a renderer of size {size}, or an integer fraction of it", drawn)
        usable = weight == "auto" or (not isinstance(weight, str) and math.isfinite(weight) and weight >= 0)
        expect(usable, "attach", 'a finite weight >= 0, or "auto"', weight)
        expect(math.isfinite(ratio) and ratio > 0, "attach", "a finite ratio > 0", ratio)
        expect(warm_up >= 0, "attach", "warm_up >= 0", warm_up)
        if recompute_vertices:
            expect(_layer(model) is not None, "attach", "a model with mano or smpl, for recompute_vertices", "neither")
        expect(
            texture_optimizer is None or loss_fn.train_texture, "attach", "train_texture=True, with an optimiser", False
        )
        self.loss_fn = loss_fn
        self._measured = MeasuredWeight(ratio) if weight == "auto" else None
        self.weight = 0.0 if weight == "auto" else float(weight)
        self.warm_up = int(warm_up)
        self.batches = 0
        self._model = model
        self._focal, self._image_size = float(focal), int(size)
        mean, std = (_setting(cfg, "MODEL", name) for name in ("IMAGE_MEAN", "IMAGE_STD"))
        self._mean, self._std = mean or IMAGENET_MEAN, std or IMAGENET_STD
        self._pixel_offset, self._recompute_vertices = pixel_offset, recompute_vertices
        self._prior = PriorTraining(loss_fn.encoder, texture_optimizer) if loss_fn.train_texture else None
        self._skipped: Tensor | None = None
        self._generator: torch.Generator | None = None
        self._draw_state: Tensor | None = None
        self._trainer: Any = None
        self._wrapped = [WrappedMethod(model, "compute_loss", self._compute_loss)]

    @property
    def skipped(self) -> int:
        """Samples of training batches that contributed nothing so far. Reading it waits for the device."""
        return 0 if self._skipped is None else int(self._skipped)

    def loss_inputs(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> LossInputs:
        """What the loss is called with for a batch and the model's output, at the renderer's size."""
        vertices = self._recomputed(output) if self._recompute_vertices else None
        inputs = loss_inputs(
            batch, output, focal=self._focal, mean=self._mean, std=self._std, pixel_offset=self._pixel_offset,
            vertices=vertices,
        )  # fmt: skip
        size = inputs.image.shape[-1]
        expect(size == self._image_size, "loss_inputs", f"batch['img'] of size {self._image_size}", size)
        return shrunk(inputs, size // self.loss_fn.renderer.height)

    def detach(self) -> None:
        """Leave the model exactly as it was before `attach`. The prior keeps what it has learned."""
        if self._prior is not None:
            self._prior.step()
        while self._wrapped:
            self._wrapped[-1].undo()
            self._wrapped.pop()

    def state_dict(self) -> dict[str, Any]:
        """The count of batches, the state of the draw, a measured weight, a trained prior and its optimiser."""
        draw = self._draw_state if self._generator is None else self._generator.get_state()
        state: dict[str, Any] = {"batches": self.batches, "skipped": self.skipped, "draw": draw}
        if self._measured is not None:
            state["weight"], state["measured"] = self.weight, list(self._measured.values)
        if self._prior is not None:
            state["optimizer"] = self._prior.state_dict()
            state["encoder"] = self.loss_fn.encoder.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: one of the two trains its prior and the other does not.
        """
        trained = "encoder" in state
        expect(
            trained == (self._prior is not None),
            "load_state_dict",
            f"a state with train_texture={not trained}",
            trained,
        )
        self.batches = int(state["batches"])
        self._skipped = torch.tensor(int(state["skipped"]))
        self._draw_state = state["draw"]
        self._generator = None
        if self._measured is not None and "measured" in state:  # a weight that was given now comes before a saved one
            self.weight, self._measured.values = float(state["weight"]), list(state["measured"])
        if self._prior is not None:
            self.loss_fn.encoder.load_state_dict(state["encoder"])
            self._prior.load_state_dict(state["optimizer"])

    def save(self, path: str | PathLike[str]) -> None:
        """Write the `state_dict` to a file, whole or not at all."""
        write_whole(Path(path), lambda temporary: torch.save(self.state_dict(), temporary))

    def load(self, path: str | PathLike[str]) -> None:
        """Read a file that `save` wrote. Holds tensors and numbers only; no code in it is run."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _compute_loss(
        self,
        original: Callable[..., Tensor],
        batch: Mapping[str, Any],
        output: dict[str, Any],
        train: bool = True,
    ) -> Tensor:
        inputs = self.loss_inputs(batch, output)
        device = inputs.vertices.device
        self._move(device)
        self._follow_trainer()
        if self._prior is not None:
            self._prior.step()
        own = original(batch, output, train)
        _, details = self.loss_fn(*inputs, generator=self._drawing_on(device), return_details=True)
        texture = details.per_sample.sum()
        if train:
            self.batches += 1
        if self._measured is not None and train and self.batches > self.warm_up and not self._measured.finished:
            self.weight = self._measured.measure(texture, own, output) or 0.0
        # After the measurement, whose gradients are not the step's.
        if train and self._prior is not None and texture.requires_grad:
            self._prior.follow(texture)
        weight = self.weight
        if self._measured is None and self.warm_up:
            weight *= min(1.0, self.batches / self.warm_up)
        total = own + weight * texture
        skipped = details.skipped.sum()
        if train:
            self._skipped = skipped if self._skipped is None else self._skipped.to(device) + skipped
        losses = output.setdefault("losses", {})
        losses["loss"] = total.detach()
        losses["loss_texture"] = texture.detach()
        losses["texture_residual"] = _mean_residual(details)
        losses["texture_skipped"] = skipped.float()
        losses["texture_weight"] = texture.new_full((), weight)
        return total

    def _move(self, device: torch.device) -> None:
        """The loss to where the model is. It is no part of the model, so nobody else moves it."""
        if device != self.loss_fn.renderer.surface.faces.device:
            self.loss_fn.to(device)
            if self._prior is not None:
                self._prior.load_state_dict(self._prior.state_dict())  # which moves what the optimiser remembers

    def _drawing_on(self, device: torch.device) -> torch.Generator:
        """A generator of its own, so that the model's random numbers are those it had without the loss."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
            self._generator.manual_seed(0)
            if self._draw_state is not None:
                self._generator.set_state(self._draw_state)
                self._draw_state = None
        return self._generator

    def _recomputed(self, output: Mapping[str, Any]) -> Tensor:
        """The vertices of the predicted pose and shape, in float32 from there on."""
        names = [name for name in ("pred_mano_params", "pred_smpl_params") if name in output]
        expect(bool(names), "recompute_vertices", "output with 'pred_mano_params'", sorted(map(str, output)))
        parameters = {name: value.float() for name, value in output[names[0]].items()}
        with torch.autocast(output["pred_vertices"].device.type, enabled=False):
            vertices: Tensor = _layer(self._model)(**parameters, pose2rot=False).vertices
        return vertices.reshape(output["pred_vertices"].shape)

    def _follow_trainer(self) -> None:
        """Once a trainer has the model: write beside its checkpoints, and go on from beside the one it resumed from."""
        trainer = getattr(self._model, "_trainer", None)
        if trainer is None or trainer is self._trainer:
            return
        self._trainer = trainer
        self._wrapped.append(WrappedMethod(trainer, "save_checkpoint", self._save_checkpoint))
        if hasattr(getattr(trainer, "strategy", None), "remove_checkpoint"):
            self._wrapped.append(WrappedMethod(trainer.strategy, "remove_checkpoint", self._remove_checkpoint))
        resumed = getattr(trainer, "ckpt_path", None)
        if resumed is None:
            return
        beside = Path(f"{resumed}{SUFFIX}")
        if beside.is_file():
            self.load(beside)
        else:
            warnings.warn(f"texalign: resumed from {resumed}, but no {beside.name} lies beside it", stacklevel=2)

    def _save_checkpoint(self, original: Callable[..., Any], filepath: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(filepath, *args, **kwargs)
        if self._prior is not None:
            self._prior.step()  # on every process: gradients are averaged
        if self._trainer.is_global_zero and "://" not in str(filepath):
            self.save(f"{filepath}{SUFFIX}")
        return result

    def _remove_checkpoint(self, original: Callable[..., Any], filepath: Any) -> None:
        original(filepath)
        if self._trainer.is_global_zero and "://" not in str(filepath):
            Path(f"{filepath}{SUFFIX}").unlink(missing_ok=True)


def _mean_residual(details: LossDetails) -> Tensor:
    inside = (details.coverage > 0.5) * ~details.skipped[:, None, None, None]
    return (details.residual.mean(dim=1, keepdim=True) * inside).sum() / inside.sum().clamp(min=1)


def _layer(model: Any) -> Any:
    layer = getattr(model, "mano", None)
    return getattr(model, "smpl", None) if layer is None else layer


def _setting(cfg: Any, section: str, name: str) -> Any:
    """``cfg.SECTION.NAME``, or None."""
    return getattr(getattr(cfg, section, None), name, None)


def _named(model: Any) -> str:
    return f"{type(model).__name__}; if it is wrapped (DistributedDataParallel, compiled), pass what is inside"

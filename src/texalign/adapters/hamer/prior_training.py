"""The texture prior, trained beside a network that does not know of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from texalign._internal import expect


class PriorTraining:
    """Steps the prior's own optimiser, with gradients that the network's backward pass leaves in the prior.

    Whatever factor the caller put on the loss (weight, warm-up, a gradient scaler's scale) is taken out again, so the
    prior learns alike under all of them. Under `torch.distributed` gradients are averaged over the processes; a process
    without any takes part with zeros. A step with a non-finite gradient is one with a gradient of zero.

    The step for one loss is taken when the next loss is about to be computed, or the state is asked for: nobody tells
    this class when the backward pass is over, and nothing reads the prior in between.
    """

    def __init__(self, encoder: torch.nn.Module, optimizer: Optimizer | None = None) -> None:
        self.parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        expect(len(self.parameters) > 0, "attach", "an encoder with trainable parameters, for train_texture", "none")
        self.optimizer = optimizer or torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-4)
        self.factor: Tensor | None = None
        self.waiting = False

    def follow(self, loss: Tensor) -> None:
        """Expect a backward pass through `loss`, a scalar, before the next `step`."""
        self.waiting = True
        loss.register_hook(self._note)

    def _note(self, grad: Tensor) -> None:
        factor = grad.detach().float()
        self.factor = factor if self.factor is None else self.factor + factor

    @torch.no_grad()
    def step(self) -> None:
        """Take the step that is due, if one is."""
        if not self.waiting:
            return
        together = distributed.is_available() and distributed.is_initialized()
        self.waiting = False
        if self.factor is None and not together:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        # A factor of 0 (a weight of 0) leaves gradients of 0 behind, not a direction.
        flat = flat / (1 if self.factor is None else torch.where(self.factor == 0, 1, self.factor))
        if together:
            distributed.all_reduce(flat)
            flat /= distributed.get_world_size()
        flat = torch.where(torch.isfinite(flat).all(), flat, 0)
        for parameter, gradient in zip(self.parameters, flat.split([p.numel() for p in self.parameters])):
            parameter.grad = gradient.reshape(parameter.shape)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.factor = None

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's."""
        self.step()
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; a step that was due is forgotten."""
        self.waiting, self.factor = False, None
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.load_state_dict(state)

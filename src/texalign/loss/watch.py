from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import signature
from typing import Any

from torch import Tensor, nn

from texalign._internal import opaque
from texalign.loss.dense_texture_alignment_loss import DenseTextureAlignmentLoss
from texalign.loss.details import LossDetails


@dataclass(frozen=True, eq=False)
class Sighting:
    """The first samples of one call of a loss, copied and without a graph.

    Attributes:
        image: (count, 3, H, W), as the loss got it.
        details: of these samples.
        is_right: (count,) bool or None, as the loss got it.
    """

    image: Tensor
    details: LossDetails
    is_right: Tensor | None


class LossWatch:
    """Looks over the shoulder of a loss: remembers the details of a call that somebody else makes.

    The loss computes its details anyway; while `wanted`, the watch asks for them on the caller's behalf and hands the
    caller what it had asked for. Nothing is computed twice, nothing is drawn at random, no module changes its mode and
    no process waits for another.

    A copy of the module that is watched (`copy.deepcopy`, `pickle`) carries a watch that never wants anything.

    Args:
        count: how many samples to remember.

    Attributes:
        wanted: whether to remember the next call that has a sample.
        sighting: what was remembered, until it is taken away.

    Example:
        >>> from texalign.synthetic import generate
        >>> hands, loss_fn = generate(2, image_size=64, left_share=0), DenseTextureAlignmentLoss.from_pretrained(64)
        >>> watch = LossWatch(count=1)
        >>> watch.attach(loss_fn)
        >>> watch.wanted = True
        >>> loss = loss_fn(hands.vertices, hands.camera, hands.image)  # a call of somebody else
        >>> watch.sighting.details.texture.shape
        torch.Size([1, 3, 128, 128])
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.wanted = False
        self.sighting: Sighting | None = None
        self._caller_asked = False
        self._handles: list[Any] = []

    def attach(self, loss_fn: DenseTextureAlignmentLoss) -> None:
        """Begin to watch."""
        # Last to change what is asked for, first to see the answer: other hooks notice nothing.
        self._handles = [
            loss_fn.register_forward_pre_hook(self.before, with_kwargs=True),
            loss_fn.register_forward_hook(self.after, with_kwargs=True, prepend=True),
        ]

    def detach(self) -> None:
        """Leave the loss as it was, and forget."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.wanted, self.sighting = False, None

    @opaque
    def before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """The forward pre-hook."""
        if not self.wanted:
            return None
        self._caller_asked = bool(kwargs.get("return_details", False))
        return args, {**kwargs, "return_details": True}

    @opaque
    def after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """The forward hook."""
        if not self.wanted:
            return None
        value, details = output
        given = signature(module.forward).bind(*args, **kwargs).arguments
        if len(details.skipped):
            self.sighting = _first(given, details, self.count)
        return output if self._caller_asked else value

    def __reduce__(self) -> tuple[type[LossWatch], tuple[()]]:
        return LossWatch, ()


def _first(given: Mapping[str, Any], details: LossDetails, count: int) -> Sighting:
    is_right = given.get("is_right")
    return Sighting(
        _copied(given["image"], count), _copied(details, count), None if is_right is None else _copied(is_right, count)
    )


def _copied(value: Any, count: int) -> Any:
    """The first samples of a tensor, or of every tensor in a dataclass. A view would keep the whole batch alive."""
    if isinstance(value, Tensor):
        return value[:count].detach().clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _copied(getattr(value, field.name), count) for field in fields(value)})
    return value

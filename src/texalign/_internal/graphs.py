from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def makes_gradients(function: Function) -> Function:
    """Let a function that needs gradients of its own be called under `no_grad` and `inference_mode` as well.

    Lightning predicts and validates in inference mode, whose tensors no backward pass may keep: they are copied.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*map(_usable, args), **{name: _usable(value) for name, value in kwargs.items()})

    return call  # type: ignore[return-value]


def _usable(value: Any) -> Any:
    """A tensor, or all in a dataclass, that a backward pass may keep."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _usable(getattr(value, field.name)) for field in fields(value)}
        if any(part is not getattr(value, name) for name, part in changed.items()):
            return replace(value, **changed)
    return value

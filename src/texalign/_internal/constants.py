from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def computes_constants(function: Function) -> Function:
    """Let a function that fills a cache compute the same, whoever calls it first.

    Inference mode would make tensors that no later training step may save, autocast would round them, and gradients
    are of no use.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]

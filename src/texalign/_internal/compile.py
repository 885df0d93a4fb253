"""Compilers and code whose shapes depend on data."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def opaque(function: Function) -> Function:
    """One graph break around the function instead of one at each list whose length is known only at run time.

    `torch.compiler.disable` as a decorator would do the same, but it doubles the time of `import texalign`.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = torch.compiler.disable(function) if torch.compiler.is_compiling() else function
        return chosen(*args, **kwargs)

    return call  # type: ignore[return-value]


class Unscriptable:
    """A module that says why `torch.jit.script` cannot compile it."""

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script, since its shapes depend on the data: "
            "use torch.compile, or script the network without it"
        )

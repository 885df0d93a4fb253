"""One method of one object, replaced until further notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from texalign._internal import expect


class WrappedMethod:
    """Stands in for a method on one instance: ``call(original, *args, **kwargs)`` is called in its place.

    A copy or pickle of the instance gets the original method back, bound to the copy, and knows nothing of `call`.

    Args:
        owner: the instance; its class is left alone.
        name: of the method.
        call: what to do instead; its first argument is the original, bound method.
    """

    def __init__(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        self.owner, self.name, self.call = owner, name, call
        self.was_on_instance = name in vars(owner)
        self.original = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The replacement."""
        return self.call(self.original, *args, **kwargs)

    def __reduce__(self) -> Any:
        return _itself, (self.original,)

    def undo(self) -> None:
        """Put the original back.

        Raises:
            ValueError: the method was replaced again since, and that is still in force.
        """
        who = f"{type(self.owner).__name__}.{self.name}"
        expect(vars(self.owner).get(self.name) is self, who, "this replacement undone last in, first out", "another")
        if self.was_on_instance:
            setattr(self.owner, self.name, self.original)
        else:
            delattr(self.owner, self.name)


def _itself(value: Any) -> Any:
    return value

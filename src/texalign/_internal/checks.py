"""One way to say what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor


def expect(condition: bool, who: str, expected: str, got: object) -> None:
    """Raise ``ValueError("who: expected …, got …")`` unless the condition holds."""
    if not condition:
        raise ValueError(f"{who}: expected {expected}, got {got}")


def expect_tensor(value: object, who: str, name: str) -> Tensor:
    """Return `value` as a tensor or raise a TypeError naming it."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{who}: expected {name} to be a torch.Tensor, got {type(value).__name__}")
    return value


def expect_shape(value: object, who: str, name: str, shape: tuple[int | str, ...]) -> Tensor:
    """Check a tensor's shape; letters in `shape` (``"B"``) match any size."""
    tensor = expect_tensor(value, who, name)
    text = "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or want == size for want, size in zip(shape, tensor.shape)
    )
    expect(fits, who, f"{name} {text}", tuple(tensor.shape))
    return tensor


def expect_floating(value: object, who: str, name: str, shape: tuple[int | str, ...]) -> Tensor:
    """Check a floating tensor's dtype and shape, as `expect_shape`."""
    tensor = expect_shape(value, who, name, shape)
    expect(tensor.is_floating_point(), who, f"{name} of a floating dtype", tensor.dtype)
    return tensor


def expect_flags(value: object, who: str, name: str, count: int) -> Tensor:
    """Check a tensor of so many bools."""
    tensor = expect_tensor(value, who, name)
    fits = tuple(tensor.shape) == (count,) and tensor.dtype == torch.bool
    expect(fits, who, f"{name} ({count},) bool", f"{tuple(tensor.shape)} {tensor.dtype}")
    return tensor


def expect_same_device(who: str, **tensors: Tensor | None) -> None:
    """Raise unless all tensors given lie on one device, naming the first two that differ."""
    given = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first_name, first = given[0]
    for name, tensor in given[1:]:
        expect(
            tensor.device == first.device,
            who,
            f"{name} on the device of {first_name} ({first.device})",
            tensor.device,
        )


def finite_samples(values: Tensor) -> Tensor:
    """(B,) bool: samples whose every value is finite. No synchronisation."""
    return torch.isfinite(values).flatten(1).all(dim=1)

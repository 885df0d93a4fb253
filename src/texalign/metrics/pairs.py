"""Pairs of what is predicted and what is true: checked, and in a dtype to compute with."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import expect, expect_same_device, expect_shape


def same_shape(who: str, predicted: Tensor, true: Tensor, shape: tuple[str | int, ...]) -> tuple[Tensor, Tensor]:
    """Both in their common dtype, at least float32, if both have one and the same shape; letters match any size."""
    for name, tensor in (("predicted", predicted), ("true", true)):
        expect_shape(tensor, who, name, shape)
    expect(predicted.shape == true.shape, who, f"predicted {tuple(true.shape)} like true", tuple(predicted.shape))
    expect_same_device(who, predicted=predicted, true=true)
    return computable(predicted, true)


def computable(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common dtype, at least float32."""
    dtype = torch.promote_types(torch.promote_types(predicted.dtype, true.dtype), torch.float32)
    return predicted.to(dtype), true.to(dtype)


def distances(predicted: Tensor, true: Tensor) -> Tensor:
    """(B, N) between points (B, N, D); infinite where the prediction is not finite, NaN where the truth is not."""
    distance = torch.where(predicted.isfinite().all(dim=-1), (predicted - true).norm(dim=-1), torch.inf)
    return torch.where(true.isfinite().all(dim=-1), distance, torch.nan)


def within(distance: Tensor, limit: float | Tensor) -> Tensor:
    """1 where a distance is not above the limit, 0 where it is, NaN where it is NaN."""
    return torch.where(distance.isnan(), torch.nan, (distance <= limit).to(distance.dtype))


def mean_among(who: str, values: Tensor, among: Tensor | None) -> Tensor:
    """(B,) mean of values (B, N) where `among` (B, N) bool is true; NaN where it never is. None: of all."""
    if among is None:
        return values.mean(dim=1)
    check_among(who, values, among)
    return torch.where(among, values, 0.0).sum(dim=1) / among.sum(dim=1)


def check_among(who: str, values: Tensor, among: Tensor) -> None:
    """Raise unless `among` is a bool a value."""
    expect(among.dtype == torch.bool, who, "among of dtype bool", among.dtype)
    expect(among.shape == values.shape, who, f"among {tuple(values.shape)}", tuple(among.shape))
    expect_same_device(who, predicted=values, among=among)

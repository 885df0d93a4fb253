"""Errors of points: of joints and of vertices, as they are, from the root, and after alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign._internal import finite_samples
from texalign.hand import best_rotation
from texalign.metrics.pairs import check_among, distances, mean_among, same_shape


def point_error(predicted: Tensor, true: Tensor, among: Tensor | None = None) -> Tensor:
    """(B,) mean distance of points (B, N, D), in their unit: metres in space, pixels in the image.

    Args:
        predicted: (B, N, D).
        true: (B, N, D).
        among: (B, N) bool: which points count. None: all. NaN for a sample where none does.

    Raises:
        ValueError: a shape, dtype or device does not fit.

    Example:
        >>> point_error(torch.zeros(1, 21, 2), torch.ones(1, 21, 2) * torch.tensor([3.0, 4.0]))
        tensor([5.])
    """
    return mean_among("point_error", distances(*same_shape("point_error", predicted, true, ("B", "N", "D"))), among)


def procrustes_aligned(
    predicted: Tensor, true: Tensor, reflection: bool = False, among: Tensor | None = None
) -> Tensor:
    """Points (B, N, 3) turned, scaled and moved onto others as well as can be (Gower, 1975).

    Args:
        predicted: (B, N, 3).
        true: (B, N, 3).
        reflection: whether a hand may also be mirrored to fit better. HaMeR's evaluation does not allow it; those of
            FreiHAND and HO3D do, and give a smaller error where the mirror image fits better.
        among: (B, N) bool: the points that are fitted; all are moved. None: all.

    Returns:
        (B, N, 3), NaN in samples of which a fitted point is not finite.

    Raises:
        ValueError: a shape or device does not fit.

    Example:
        >>> points = torch.rand(1, 21, 3)
        >>> torch.allclose(procrustes_aligned(2 * points + 0.1, points), points, atol=1e-5)
        True
    """
    predicted, true = same_shape("procrustes_aligned", predicted, true, ("B", "N", 3))
    with torch.autocast(true.device.type, enabled=False):
        if among is not None:
            check_among("procrustes_aligned", predicted[..., 0], among)
        fitted = torch.ones_like(true[..., :1], dtype=torch.bool) if among is None else among[..., None]
        # A singular value decomposition stops at the first value that is not finite.
        finite = finite_samples(torch.where(fitted, predicted, 0)) & finite_samples(torch.where(fitted, true, 0))
        finite = (finite & fitted.any(dim=1)[:, 0])[:, None, None]
        count = fitted.sum(dim=1, keepdim=True).clamp(min=1)
        start, middle = (
            torch.where(fitted, points, 0).sum(dim=1, keepdim=True) / count for points in (predicted, true)
        )
        source = torch.where(finite & fitted, predicted - start, 0.0)
        target = torch.where(finite & fitted, true - middle, 0.0)
        rotation = _best_orthogonal(source, target) if reflection else best_rotation(source, target)
        turned = source @ rotation.transpose(1, 2)
        scale = (turned * target).sum(dim=(1, 2)) / source.square().sum(dim=(1, 2)).clamp(min=1e-12)
        moved = scale[:, None, None] * ((predicted - start) @ rotation.transpose(1, 2)) + middle
        return torch.where(finite, moved, torch.nan)


def mpjpe_mm(predicted: Tensor, true: Tensor, among: Tensor | None = None) -> Tensor:
    """(B,) millimetres: mean distance of joints (B, J, 3), metres, where `among` (B, J) bool is true.

    Example:
        >>> mpjpe_mm(torch.zeros(1, 21, 3), torch.full((1, 21, 3), 0.01))  # metres in, millimetres out
        tensor([17.3205])
    """
    return 1000 * point_error(predicted, true, among)


def root_relative_mpjpe_mm(predicted: Tensor, true: Tensor, root: int = 0, among: Tensor | None = None) -> Tensor:
    """(B,) millimetres: `mpjpe_mm` of joints (B, J, 3), metres, with joint number `root` of both moved onto the origin.

    That joint counts in the mean, with its 0, as in HaMeR's ``mode_mpjpe``.

    Example:
        >>> joints = torch.rand(1, 21, 3)
        >>> bool(root_relative_mpjpe_mm(joints + 0.1, joints) < 1e-3)  # where the hand is does not count
        True
    """
    predicted, true = same_shape("root_relative_mpjpe_mm", predicted, true, ("B", "J", 3))
    return mpjpe_mm(predicted - predicted[:, [root]], true - true[:, [root]], among)


def pa_mpjpe_mm(predicted: Tensor, true: Tensor, among: Tensor | None = None, reflection: bool = False) -> Tensor:
    """(B,) millimetres: `mpjpe_mm` after `procrustes_aligned`, which fits the joints that count.

    HaMeR's ``mode_re``; with `reflection`, FreiHAND's and HO3D's aligned error.

    Example:
        >>> joints = torch.rand(1, 21, 3)
        >>> bool(pa_mpjpe_mm(2 * joints + 0.1, joints) < 1e-3)  # neither place, size nor rotation count
        True
    """
    return mpjpe_mm(procrustes_aligned(predicted, true, reflection, among), _known_samples(true, among), among)


def mpvpe_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """(B,) millimetres: mean distance of vertices (B, V, 3), metres.

    Example:
        >>> mpvpe_mm(torch.zeros(1, 778, 3), torch.full((1, 778, 3), 0.01))
        tensor([17.3205])
    """
    return 1000 * point_error(predicted, true)


def root_relative_mpvpe_mm(predicted: Tensor, true: Tensor, predicted_root: Tensor, true_root: Tensor) -> Tensor:
    """(B,) millimetres: `mpvpe_mm` of vertices (B, V, 3) from the root joints (B, 3) of each, all metres.

    Example:
        >>> vertices, root = torch.rand(1, 778, 3), torch.rand(1, 3)
        >>> bool(root_relative_mpvpe_mm(vertices + 0.1, vertices, root + 0.1, root) < 1e-3)
        True
    """
    predicted, true = same_shape("root_relative_mpvpe_mm", predicted, true, ("B", "V", 3))
    predicted_root, true_root = same_shape("root_relative_mpvpe_mm, roots", predicted_root, true_root, ("B", 3))
    return mpvpe_mm(predicted - predicted_root[:, None], true - true_root[:, None])


def pa_mpvpe_mm(predicted: Tensor, true: Tensor, reflection: bool = False) -> Tensor:
    """(B,) millimetres: `mpvpe_mm` after `procrustes_aligned`, which fits the vertices.

    With `reflection`, FreiHAND's and HO3D's aligned error.

    Example:
        >>> vertices = torch.rand(1, 778, 3)
        >>> bool(pa_mpvpe_mm(2 * vertices + 0.1, vertices) < 1e-3)
        True
    """
    return mpvpe_mm(procrustes_aligned(predicted, true, reflection), _known_samples(true))


def _known_samples(true: Tensor, among: Tensor | None = None) -> Tensor:
    """NaN in samples with a point that counts and is not finite, to which nothing can be aligned."""
    counted = true if among is None else torch.where(among[..., None], true, 0)
    return torch.where(finite_samples(counted)[:, None, None], true, torch.nan)


def _best_orthogonal(source: Tensor, target: Tensor) -> Tensor:
    """(B, 3, 3): like `best_rotation`, but a reflection where that is better."""
    u, _, v = torch.linalg.svd(target.transpose(1, 2) @ source)
    return u @ v

"""Axis-angle vectors to rotation matrices and back, safe for gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotation_matrices(axis_angles: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), radians; smooth everywhere, zero included.

    Rodrigues' formula ``I + a K + b K^2`` with a = sin(t) / t and b = 2 sin(t / 2)^2 / t^2, by their series near zero.

    Example:
        >>> rotation_matrices(torch.zeros(1, 3))
        tensor([[[1., 0., 0.],
                 [0., 1., 0.],
                 [0., 0., 1.]]])
    """
    square = axis_angles.square().sum(-1)[..., None, None]
    small = square < 1e-4
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6 + square.square() / 120, angle.sin() / angle)
    second = torch.where(
        small, 0.5 - square / 24 + square.square() / 720, 2 * (angle / 2).sin().square() / angle.square()
    )
    x, y, z = axis_angles.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=x.dtype, device=x.device)
    # K^2 = v v^T - t^2 I, without a matrix product that autocast would round.
    cross_squared = axis_angles[..., :, None] * axis_angles[..., None, :] - square * identity
    return identity + first * cross + second * cross_squared


def rotation_vectors(matrices: Tensor) -> Tensor:
    """Axis-angle vectors (..., 3), radians, length at most pi, of rotation matrices (..., 3, 3).

    By way of the quaternion, from its largest component (Shepperd's method), so that half turns are safe too.
    Differentiable except at half turns.

    Example:
        >>> rotation_vectors(rotation_matrices(torch.tensor([0.1, 0.2, 0.3])))
        tensor([0.1000, 0.2000, 0.3000])
    """
    m = matrices
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    squares = torch.cat([trace, diagonal * 2 - trace], -1)  # 4 q^2 - 1 of w, x, y, z
    w = torch.stack([1 + squares[..., 0], m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0],
                     m[..., 1, 0] - m[..., 0, 1]], -1)  # fmt: skip
    x = torch.stack([w[..., 1], 1 + squares[..., 1], m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0]], -1)
    y = torch.stack([w[..., 2], x[..., 2], 1 + squares[..., 2], m[..., 1, 2] + m[..., 2, 1]], -1)
    z = torch.stack([w[..., 3], x[..., 3], y[..., 3], 1 + squares[..., 3]], -1)
    rows = torch.stack([w, x, y, z], -2)
    largest = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = nn.functional.normalize(rows.gather(-2, largest).squeeze(-2), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    small = sine < 1e-6
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(small, 2 * torch.ones_like(sine), angle / sine.clamp_min(1e-6))


def turned_leaned_rolled(around: Tensor, lean: Tensor, roll: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3): first about y, then about x, then about z, by angles (B,) in radians.

    Example:
        >>> turned_leaned_rolled(around=torch.zeros(2), lean=torch.zeros(2), roll=torch.ones(2)).shape
        torch.Size([2, 3, 3])
    """
    zero = torch.zeros_like(around)
    turn = rotation_matrices(torch.stack([zero, around, zero], 1))
    tilt = rotation_matrices(torch.stack([lean, zero, zero], 1))
    in_image = rotation_matrices(torch.stack([zero, zero, roll], 1))
    with torch.autocast(around.device.type, enabled=False):
        return in_image @ tilt @ turn


def best_rotation(source: Tensor, target: Tensor) -> Tensor:
    """Rotations (B, 3, 3) that align centred points (B, N, 3) with others in the least-squares sense (Kabsch, 1976).

    Example:
        >>> points, turn = torch.randn(1, 21, 3), rotation_matrices(torch.tensor([[0.1, 0.2, 0.3]]))
        >>> torch.allclose(best_rotation(points, points @ turn.transpose(1, 2)), turn, atol=1e-5)
        True
    """
    u, _, v = torch.linalg.svd(target.transpose(1, 2) @ source)
    sign = torch.ones_like(u[..., 0])
    sign[:, 2] = torch.linalg.det(u @ v)
    return u @ torch.diag_embed(sign) @ v

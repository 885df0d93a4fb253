"""Meshes in homogeneous pixels for tests of rasterizers."""

from __future__ import annotations

import torch

from texalign.surface import twin_edges


def random_mesh(seed: int, face_count: int = 12, height: int = 20, width: int = 28, behind: float = 0.0):
    """Points (1, V, 3) around the frame, a share of them behind the camera, and faces that cross each other."""
    generator = torch.Generator().manual_seed(seed)
    vertex_count = face_count + 2
    pixel = torch.rand(vertex_count, 2, generator=generator) * torch.tensor([width, height]) * 1.6
    pixel = pixel - 0.3 * torch.tensor([width, height])
    depth = 0.5 + torch.rand(vertex_count, 1, generator=generator)
    depth = torch.where(torch.rand(vertex_count, 1, generator=generator) < behind, -0.7 * depth, depth)
    faces = torch.stack([torch.randperm(vertex_count, generator=generator)[:3] for _ in range(face_count)])
    return torch.cat([pixel * depth, depth], dim=1)[None], faces


def grid_mesh(columns: int, rows: int, width: float, height: float, seed: int = 0):
    """A wavy sheet over the whole frame with shared vertices."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, height, rows + 1), torch.linspace(0, width, columns + 1), indexing="ij")
    depth = 1 + 0.3 * torch.rand(rows + 1, columns + 1, generator=generator)
    points = torch.stack([x * depth, y * depth, depth], dim=-1).reshape(1, -1, 3)
    index = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, d, b], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    return points, faces


def twins_of(faces: torch.Tensor) -> torch.Tensor:
    """The same edge seen from the face across it, as `HandSurface.twins`."""
    return torch.from_numpy(twin_edges(faces.numpy()))


def two_sheets():
    """Points (3, V, 3) of a small sheet in front of a large one, past which a border of the frame is seen; and faces.

    A near plane at 0.7 cuts the front sheet of the first sample. Some vertices of the second lie behind the camera. The
    third is the first from farther away. No pixel centre lies on an edge.
    """
    back, faces = grid_mesh(5, 4, 22.7, 16.9, seed=1)
    front, small = grid_mesh(2, 2, 11.3, 9.1, seed=2)
    front = 0.6 * (front + front[..., 2:] * torch.tensor([6.37, 4.19, 0.0]))
    points = torch.cat([back + back[..., 2:] * torch.tensor([2.13, 1.41, 0.0]), front], dim=1)
    behind = points.clone()
    behind[:, [0, 1, 6], 2] *= -0.2
    return torch.cat([points, behind, 1.5 * points]), torch.cat([faces, small + back.shape[1]])

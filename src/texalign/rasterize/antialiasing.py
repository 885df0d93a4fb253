"""Antialiasing, shared by all backends, so that coverage and its gradient are the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

from texalign.rasterize.backend import Rasterization
from texalign.rasterize.functions import Blend
from texalign.rasterize.silhouettes import crossing, project, silhouette_pairs


def antialias(image: Tensor, rasterization: Rasterization, points: Tensor, faces: Tensor, twins: Tensor) -> Tensor:
    """Blend pixels across silhouettes by where the silhouette crosses between their centres.

    For each pair of 4-neighbours separated by a silhouette edge of the nearer surface, crossed at a distance d (in
    pixels) from the nearer pixel's centre, the pixel in which the crossing lies moves towards the other's colour by
    |1/2 − d|: for the coverage image the exact area of a straight edge. This is the only gradient that a silhouette
    gives. Method: Laine et al., "Modular primitives for high-performance differentiable rendering" (2020), section 3.6,
    except that the silhouette is searched for by walking over the mesh and not in the pixel's own face only.

    Arguments and result are those of `Backend.antialias`.

    Example:
        >>> from texalign.rasterize import select_backend
        >>> backend, faces = select_backend("torch", torch.device("cpu")), torch.tensor([[0, 1, 2]])
        >>> points = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 8.7, 1.0], [8.3, 8.7, 1.0]]], requires_grad=True)
        >>> found = backend.rasterize(points, faces, 16, 16, near=0.1)
        >>> covered = (found.face_index >= 0).float()[..., None]
        >>> antialias(covered, found, points, faces, twins=torch.full_like(faces, -1)).sum().backward()
    """
    with torch.no_grad():
        pairs = silhouette_pairs(points.detach(), faces, twins, rasterization.face_index, rasterization.nearness)
    screen = project(points)
    distance = crossing(*(pairs.steps.place(screen, vertex) for vertex in (pairs.start, pairs.end)))
    # Beyond the segment is rounding: clamp the value, keep the slope.
    distance = distance + (distance.clamp(0, 1) - distance).detach()
    # Crossed before the border between the pixels, at 1/2: the nearer one is partly free. Beyond: the other one is
    # partly covered. Either way (other − target) is weighted by how far the crossing lies from that border.
    nearer_changes = distance < 0.5
    target = torch.where(nearer_changes, pairs.own, pairs.other)
    source = torch.where(nearer_changes, pairs.other, pairs.own)
    weight = torch.where(nearer_changes, 0.5 - distance, distance - 0.5)
    # By channel, each contiguous: as the torch backend has them.
    channels = image.permute(3, 0, 1, 2)
    blended: Tensor = Blend.apply(channels.reshape(len(channels), -1), weight, target, source)
    return blended.reshape(channels.shape).permute(1, 2, 3, 0)

"""A backend of one's own in plain torch: every face at every pixel, gradients by autograd."""

from types import SimpleNamespace

import torch

from texalign.rasterize import antialias

__all__ = ["antialias", "interpolate", "name", "rasterize", "sample_texture"]

name = "brute force"


def edge_functions(corners, x, y):
    """Homogeneous edge functions (…, 3) of corners (…, 3, 3): divided by their sum, they are barycentrics."""
    a, b = corners[..., 0] - x * corners[..., 2], corners[..., 1] - y * corners[..., 2]
    return a[..., [1, 2, 0]] * b[..., [2, 0, 1]] - b[..., [1, 2, 0]] * a[..., [2, 0, 1]]


def nearest(corners, x, y, near):
    """Nearness and index of the nearest of the faces (F, 3, 3) at every pixel (H, W)."""
    line = torch.linalg.cross(corners[:, [1, 2, 0]], corners[:, [2, 0, 1]])
    inward = line[..., :2] * (line[:, :1] * corners[:, :1]).sum(dim=-1, keepdim=True).sign()
    left_or_top = (inward[..., 0] > 0) | ((inward[..., 0] == 0) & (inward[..., 1] > 0))
    edges = edge_functions(corners, x[..., None, None], y[..., None, None])
    weights = edges / edges.sum(dim=-1, keepdim=True)
    depth = (weights * corners[..., 2]).sum(dim=-1)
    inside = ((weights > 0) | ((weights == 0) & left_or_top)).all(dim=-1) & (depth >= near)
    return torch.where(inside, 1 / depth, 0).max(dim=-1)


def rasterize(points, faces, height, width, near):
    y, x = torch.meshgrid(*(torch.arange(n, device=points.device) + 0.5 for n in (height, width)), indexing="ij")
    corners = points[:, faces]
    nearness = points.new_zeros(len(points), height, width)
    face = torch.zeros_like(nearness, dtype=torch.int64)
    for sample, out in enumerate(zip(nearness, face)):
        for target, found in zip(out, nearest(corners[sample].detach(), x, y, near)):
            target.copy_(found)
    covered = nearness > 0
    edges = edge_functions(corners[torch.arange(len(face))[:, None, None], face], x[..., None], y[..., None])
    weights = edges / torch.where(covered, edges.sum(dim=-1), 1)[..., None]
    barycentric = torch.where(covered[..., None], weights, 0)
    return SimpleNamespace(face_index=torch.where(covered, face, -1), nearness=nearness, barycentric=barycentric)


def interpolate(attributes, attribute_faces, rasterization):
    face = rasterization.face_index
    sample = torch.arange(len(face))[:, None, None, None]
    corners = attributes.expand(len(face), -1, -1)[sample, attribute_faces[face.clamp(min=0)]]
    return (corners * rasterization.barycentric[..., None]).sum(dim=-2)


def sample_texture(texture, uv, rasterization, redirect):
    texture = texture.flatten(2)[:, :, redirect].reshape(texture.shape).expand(len(uv), -1, -1, -1)
    colour = torch.nn.functional.grid_sample(texture, 2 * uv - 1, padding_mode="border", align_corners=False)
    covered = (rasterization.face_index >= 0)[..., None].to(uv.dtype)
    return torch.cat([colour.permute(0, 2, 3, 1) * covered, covered], dim=-1)

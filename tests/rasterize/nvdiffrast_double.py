"""A double of `nvdiffrast.torch` for a CPU, written from its documentation: it takes what nvdiffrast takes, only.

Values come from the float64 brute-force rasterizer. Gradients flow as in nvdiffrast: from u and v to positions; from
interpolated values to attributes, u and v; from a texture's lookup to texture and uv; none through z/w and the face.
Second outputs, derivatives by pixel, are left empty.
"""

from __future__ import annotations

import numpy as np
import torch

import reference


class RasterizeCudaContext:
    """Belongs to one device, and can be neither copied nor pickled."""

    def __init__(self, device=None):
        self.device = torch.empty(0, device=device).device

    def __reduce__(self):
        raise TypeError("cannot pickle 'RasterizeCRStateWrapper' object")


def _check(dtype, device, **tensors):
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor), name
        if tensor.device != device:
            raise RuntimeError(f"{name}: inputs must reside on the same device, that of the context")
        if tensor.dtype != dtype:
            raise RuntimeError(f"{name}: inputs must be {dtype} tensors")
        if not tensor.is_contiguous():
            raise RuntimeError(f"{name}: inputs must be contiguous tensors")


def _check_shape(tensor, name, *sizes):
    """Sizes are numbers, or None for any > 0."""
    fits = len(tensor.shape) == len(sizes)
    if not fits or any(have <= 0 if want is None else have != want for have, want in zip(tensor.shape, sizes)):
        raise RuntimeError(f"{name} must have shape {[want or '>0' for want in sizes]}, got {tuple(tensor.shape)}")


def _nearest(pos, tri, height, width):
    """(B, H, W) int64, the nearest face whose point in the pixel lies within the frustum, -1 where there is none."""
    pos, tri = pos.detach().numpy().astype(np.float64), tri.numpy()
    x = (2 * np.arange(width) + 1) / width - 1
    found = np.full((len(pos), height, width), -1)
    for image, clip in zip(found, pos):
        for row, out in enumerate(image):
            y = (2 * row + 1) / height - 1
            above = clip[tri][..., 1] - y * clip[tri][..., 3]
            (touching,) = np.nonzero((above >= 0).any(axis=1) & (above <= 0).any(axis=1))
            if not len(touching):
                continue
            corners = clip[tri[touching]]
            weights, inside = reference.weigh(corners[..., [0, 1, 3]], x, np.full(width, y))
            z, w = (np.einsum("pfk,fk->pf", weights, corners[..., axis]) for axis in (2, 3))
            with np.errstate(all="ignore"):
                depth = np.where(inside & (-w <= z) & (z <= w), z / w, np.inf)
            face = depth.argmin(axis=1)
            out[:] = np.where(np.isfinite(depth[np.arange(width), face]), touching[face], -1)
    return torch.from_numpy(found)


def rasterize(glctx, pos, tri, resolution, grad_db=True):
    """(u, v, z/w, face + 1), (B, H, W, 4); row 0 is y = -1; u is of corner 0."""
    assert isinstance(glctx, RasterizeCudaContext) and grad_db in (True, False)
    _check(torch.float32, glctx.device, pos=pos)
    _check(torch.int32, glctx.device, tri=tri)
    _check_shape(pos, "pos", None, None, 4)
    _check_shape(tri, "tri", None, 3)
    height, width = resolution
    face = _nearest(pos, tri, height, width)
    covered = (face >= 0)[..., None]
    sample = torch.arange(len(pos))[:, None, None, None]
    x, y, z, w = pos[sample, tri.long()[face.clamp(min=0)]].double().unbind(-1)
    plane = torch.stack([x, y, w], dim=-1)
    line = torch.linalg.cross(plane.roll(-1, dims=-2), plane.roll(-2, dims=-2))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1, torch.ones(height, width)], dim=-1)
    edges = (line * centre[:, :, None].double()).sum(dim=-1)
    weights = edges / torch.where(covered, edges.sum(dim=-1, keepdim=True), 1)
    over = ((weights * z).sum(dim=-1) / (weights * w).sum(dim=-1)).clamp(-1, 1).detach()
    # Clamped in value only.
    weights = weights + (weights.clamp(0, 1) - weights).detach()
    out = torch.cat([weights[..., :2], over[..., None], face[..., None] + 1], dim=-1)
    return torch.where(covered, out, 0).float(), None


def interpolate(attr, rast, tri):
    """(B, H, W, C), 0 where no face is."""
    _check(torch.float32, rast.device, attr=attr, rast=rast)
    _check(torch.int32, rast.device, tri=tri)
    _check_shape(rast, "rast", None, None, None, 4)
    _check_shape(tri, "tri", None, 3)
    _check_shape(attr, "attr", None, None, None)
    if len(attr) not in (1, len(rast)):
        raise RuntimeError("minibatch size mismatch between inputs rast, attr")
    covered = rast[..., 3:] > 0
    u, v = rast[..., :2].unbind(-1)
    sample = torch.arange(len(rast))[:, None, None, None]
    corners = attr.expand(len(rast), -1, -1)[sample, tri.long()[(rast[..., 3].long() - 1).clamp(min=0)]]
    values = (corners * torch.stack([u, v, 1 - u - v], dim=-1)[..., None]).sum(dim=-2)
    return torch.where(covered, values, 0), None


def texture(tex, uv, filter_mode="auto", boundary_mode="wrap"):
    """(B, H, W, C): texture (B or 1, T, S, C) at uv (B, H, W, 2); the first row of texels is at v = 0."""
    if filter_mode not in ("auto", "linear") or boundary_mode not in ("wrap", "clamp"):
        raise NotImplementedError(f"{filter_mode}, {boundary_mode}")
    _check(torch.float32, tex.device, tex=tex, uv=uv)
    _check_shape(tex, "tex", None, None, None, None)
    _check_shape(uv, "uv", None, None, None, 2)
    if len(tex) not in (1, len(uv)):
        raise RuntimeError("minibatch size mismatch between inputs tex, uv")
    size = torch.tensor([tex.shape[2], tex.shape[1]])
    place = uv * size - 0.5
    if boundary_mode == "clamp":
        # No gradient where the outermost texel is all that is read.
        between = (place > 0) & (place < size - 1)
        place = torch.where(between, place, place.detach().clamp(min=0).minimum(size - 1.0))
    first = place.detach().floor()
    weight, first = place - first, first.long()
    sample = torch.arange(len(uv))[:, None, None] if len(tex) > 1 else torch.zeros(1, 1, 1, dtype=torch.int64)
    total = tex.new_zeros(())
    for right in (0, 1):
        for below in (0, 1):
            tap = first + torch.tensor([right, below])
            tap = tap % size if boundary_mode == "wrap" else tap.clamp(min=0).minimum(size - 1)
            share = (weight if right else 1 - weight)[..., :1] * (weight if below else 1 - weight)[..., 1:]
            total = total + tex[sample, tap[..., 1], tap[..., 0]] * share
    return total

"""The CUDA backend: NVIDIA's nvdiffrast, found at run time, never bundled (its licence allows research use only).

It shares the torch backend's `antialias`: nvdiffrast's own looks for a silhouette in a pixel's own face only, which
misses two fifths of a hand's outline at 256 pixels (`benchmarks/silhouettes.py` measures it). A caller can see
two differences: gradients are summed with atomics, hence not bitwise repeatable; pixel centres within 1/16 pixel of an
edge may fall to either face, since corners are snapped to a grid.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import nvdiffrast.torch as dr
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from texalign.rasterize.antialiasing import antialias

__all__ = ["antialias", "interpolate", "name", "rasterize", "sample_texture"]

name = "nvdiffrast"

# A context belongs to one device and one thread, and can be neither copied nor pickled: none is ever kept in a Module.
_contexts = threading.local()
# int32 copies, keyed by the identity of a surface's faces or uv_faces buffer and dropped with it.
_triangle_cache: Any = WeakIdKeyDictionary()


class NvdiffrastRasterization:
    """A `Rasterization` that keeps `native`, nvdiffrast's own (u, v, z/w, face + 1) image (B, H, W, 4)."""

    def __init__(self, native: Tensor) -> None:
        self.native = native
        self.face_index = native[..., 3].detach().to(torch.int64) - 1
        # z/w grows away from the viewer within [-1, 1].
        self.nearness = torch.where(self.face_index >= 0, 2 - native[..., 2].detach(), 0)

    @cached_property
    def barycentric(self) -> Tensor:
        """(B, H, W, 3), differentiable in the points, 0 on the background."""
        first, second = self.native[..., 0], self.native[..., 1]
        covered = (self.face_index >= 0)[..., None]
        return torch.stack([first, second, 1 - first - second], dim=-1) * covered


def rasterize(points: Tensor, faces: Tensor, height: int, width: int, near: float) -> NvdiffrastRasterization:
    """See `Backend.rasterize`. Float32 only, on one CUDA device."""
    if points.shape[0] == 0:  # nvdiffrast refuses an empty batch
        return NvdiffrastRasterization(points.new_zeros(0, height, width, 4))
    clip = _clip_space(points, height, width, near)
    # The derivatives in its second output are not used: grad_db=False keeps them out of the backward.
    native, _ = dr.rasterize(_context(points.device), clip, _triangles(faces), (height, width), grad_db=False)
    return NvdiffrastRasterization(native)


def interpolate(attributes: Tensor, attribute_faces: Tensor, rasterization: NvdiffrastRasterization) -> Tensor:
    """See `Backend.interpolate`."""
    native = rasterization.native
    if native.shape[0] == 0:
        return native.new_zeros(*native.shape[:3], attributes.shape[-1])
    return dr.interpolate(attributes.contiguous(), native, _triangles(attribute_faces))[0]


def sample_texture(texture: Tensor, uv: Tensor, rasterization: NvdiffrastRasterization, redirect: Tensor) -> Tensor:
    """See `Backend.sample_texture`."""
    if uv.shape[0] == 0:
        return uv.new_zeros(*uv.shape[:3], texture.shape[1] + 1)
    texture = texture.flatten(2).index_select(2, redirect).reshape(texture.shape)
    channels_last = texture.permute(0, 2, 3, 1).contiguous()
    # nvdiffrast wraps by default, which would bleed across the atlas.
    values = dr.texture(channels_last, uv.contiguous(), filter_mode="linear", boundary_mode="clamp")
    covered = (rasterization.face_index >= 0)[..., None].to(values.dtype)
    return torch.cat([values * covered, covered], dim=-1)


def _context(device: torch.device) -> Any:
    by_device = _contexts.__dict__.setdefault("by_device", {})
    if device not in by_device:
        by_device[device] = dr.RasterizeCudaContext(device=device)
    return by_device[device]


def _triangles(faces: Tensor) -> Tensor:
    if faces not in _triangle_cache:
        _triangle_cache[faces] = faces.to(torch.int32).contiguous()
    triangles: Tensor = _triangle_cache[faces]
    return triangles


def _clip_space(points: Tensor, height: int, width: int, near: float) -> Tensor:
    """Homogeneous pixels (B, V, 3) → clip coordinates (B, V, 4) whose row 0 is the image's top (y down, no flip).

    The depth range follows each sample's own vertices: a hand 5 m away spans 3 % of its depth, and a fixed range would
    leave it a few hundred float32 steps. It is detached: nvdiffrast gives depth no gradient.
    """
    x, y, depth = points.unbind(-1)
    with torch.no_grad():
        closest = depth.amin(dim=1, keepdim=True)
        close = torch.where(closest > near, (0.99 * closest).clamp(min=near), near)
        far = torch.maximum(1.01 * depth.amax(dim=1, keepdim=True), 1.01 * close)
        z = (depth * (far + close) - 2 * far * close) / (far - close)
    return torch.stack([2 * x / width - depth, 2 * y / height - depth, z, depth], dim=-1).contiguous()

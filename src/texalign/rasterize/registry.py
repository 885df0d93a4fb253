"""Rasterization behind one signature: a backend has `rasterize`, `interpolate`, `sample_texture`, `antialias`.

Both backends take homogeneous pixel coordinates from `PinholeCamera.homogeneous` and agree on outputs and gradients.
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

import torch

from texalign.rasterize import torch_backend

BACKENDS = ("torch", "nvdiffrast")

INSTALL_NVDIFFRAST = "pip install git+https://github.com/NVlabs/nvdiffrast.git@v0.4.0 --no-build-isolation"


@cache
def unavailable_reason(backend: str, device: torch.device) -> str | None:
    """Why a backend cannot run on a device, or None if it can.

    Found by drawing one triangle there and following its gradient; the answer is kept for the life of the process.
    """
    try:
        # The first call may come from inside no_grad, inference_mode or autocast.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            _draw_one_triangle(_load(backend, device), device)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def select_backend(backend: str, device: torch.device) -> ModuleType:
    """The backend module for tensors on a device.

    ``"auto"`` is nvdiffrast on a CUDA device where it works and torch elsewhere; where nvdiffrast should work on a CUDA
    device and does not, one warning says why.

    Raises:
        RuntimeError: the named backend cannot run on the device; the message holds the cause and the cure.
    """
    if backend == "auto":
        if device.type != "cuda":
            return torch_backend
        reason = unavailable_reason("nvdiffrast", device)
        if reason is None:
            return _load("nvdiffrast", device)
        _warn_once(f"texalign falls back to its torch backend on {device}, since nvdiffrast does not run: {reason}")
        return torch_backend
    reason = unavailable_reason(backend, device)
    if reason is not None:
        raise RuntimeError(f"the {backend} backend does not run on {device}: {reason}")
    return _load(backend, device)


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _load(backend: str, device: torch.device) -> ModuleType:
    if backend == "torch":
        return torch_backend
    if device.type != "cuda":
        raise RuntimeError(f"nvdiffrast needs a CUDA device, got {device}")
    try:
        from texalign.rasterize import nvdiffrast_backend
    except ImportError as error:
        raise RuntimeError(f"nvdiffrast cannot be imported ({error}); install it: {INSTALL_NVDIFFRAST}") from error
    return nvdiffrast_backend


def _draw_one_triangle(backend: ModuleType, device: torch.device) -> None:
    """Rasterize, interpolate and antialias a triangle that covers the lower left half of 8 × 8 pixels, and go back."""
    corners = [[-0.25, -0.25, 1.0], [-0.25, 8.25, 1.0], [8.25, 8.25, 1.0]]
    points = torch.tensor([corners], device=device, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]], device=device)
    found = backend.rasterize(points, faces, 8, 8, near=0.1)
    ones = backend.interpolate(torch.ones(1, 3, 1, device=device), faces, found)
    image = backend.antialias(ones, found, points, faces, torch.full_like(faces, -1))
    (gradient,) = torch.autograd.grad(image.sum(), points)
    covered = int((found.face_index >= 0).sum())
    if not (28 <= covered <= 36 and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())):
        raise RuntimeError(f"the self-test triangle covered {covered} pixels of 32 or gave no gradient")

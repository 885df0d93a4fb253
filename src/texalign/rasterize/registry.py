"""Which backends there are, whether one really runs on a device, and which one to take."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from texalign.rasterize import torch_backend
from texalign.rasterize.backend import Backend

INSTALL_NVDIFFRAST = "pip install git+https://github.com/NVlabs/nvdiffrast.git@v0.4.0 --no-build-isolation"


class _Row(NamedTuple):
    load: Callable[[], Backend]
    device_types: tuple[str, ...] | None
    automatic: bool


rows: dict[str, _Row] = {}


def register_backend(
    name: str, load: Callable[[], Backend], device_types: tuple[str, ...] | None = None, automatic: bool = False
) -> None:
    """Make a backend known under a name, for `select_backend` and `TexturedHandRenderer(backend=name)`.

    Args:
        name: not yet taken; the loaded backend's own `name`.
        load: gives the backend. Called once, when it is first selected: importing what it needs costs nothing before.
        device_types: where it runs, such as ("cuda",); None: everywhere.
        automatic: whether ``"auto"`` may choose it. Of several the one registered first that runs is taken.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> register_backend("mine", load=lambda: MyBackend(), device_types=("cuda",))
        >>> "mine" in backend_names()
        True
    """
    if name == "auto" or name in rows:
        raise ValueError(f"register_backend: a backend named {name!r} is registered already")
    rows[name] = _Row(cache(load), device_types, automatic)


def backend_names() -> tuple[str, ...]:
    """The names of all registered backends, in order of registration.

    Example:
        >>> backend_names()[:2]
        ('torch', 'nvdiffrast')
    """
    return tuple(rows)


@cache
def unavailable_reason(name: str, device: torch.device) -> str | None:
    """Why a backend cannot run on a device, or None if it can.

    Found by drawing one triangle there and following its gradient; the answer is kept for the life of the process.

    Raises:
        ValueError: no backend of that name is registered.

    Example:
        >>> unavailable_reason("torch", torch.device("cpu")) is None
        True
    """
    row = _row(name)
    try:
        if row.device_types is not None and device.type not in row.device_types:
            needed = " or ".join(row.device_types).replace("cuda", "CUDA")
            raise RuntimeError(f"{name} needs a {needed} device, got {device}")
        # The first call may come from inside no_grad, inference_mode or autocast.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            backend = row.load()
            if backend.name != name:
                raise RuntimeError(f"the backend that was registered as {name!r} calls itself {backend.name!r}")
            _draw_one_triangle(backend, device)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def select_backend(name: str, device: torch.device) -> Backend:
    """The backend for tensors on a device.

    ``"auto"`` is nvdiffrast on a CUDA device where it works and torch elsewhere; where nvdiffrast should work on a CUDA
    device and does not, one warning says why. Backends of one's own that are registered as automatic come after it and
    before torch.

    Raises:
        ValueError: no backend of that name is registered.
        RuntimeError: the named backend cannot run on the device; the message holds the cause and the cure.

    Example:
        >>> select_backend("auto", torch.device("cpu")).name
        'torch'
    """
    if name == "auto":
        return _automatic_backend(device)
    row = _row(name)
    reason = unavailable_reason(name, device)
    if reason is not None:
        raise RuntimeError(f"the {name} backend does not run on {device}: {reason}")
    return row.load()


def require_backend(name: str) -> None:
    """Raise a RuntimeError if a backend for one type of device only does not run on the current device of that type.

    Example:
        >>> require_backend("torch")
    """
    device_types = _row(name).device_types
    if device_types is not None and len(device_types) == 1:
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
        select_backend(name, torch.device("cuda", index) if device_types == ("cuda",) else torch.device(*device_types))


def _row(name: str) -> _Row:
    if name not in rows:
        raise ValueError(f"no backend named {name!r} is registered, there are {', '.join(rows)}")
    return rows[name]


def _automatic_backend(device: torch.device) -> Backend:
    reasons = []
    for name, row in rows.items():
        if row.automatic and (row.device_types is None or device.type in row.device_types):
            reason = unavailable_reason(name, device)
            if reason is None:
                return row.load()
            reasons.append(f"{name} does not run: {reason}")
    if reasons:
        _warn_once(f"texalign falls back to its torch backend on {device}, since {'; '.join(reasons)}")
    return torch_backend


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _load_torch() -> Backend:
    return torch_backend


def _load_nvdiffrast() -> Backend:
    try:
        from texalign.rasterize import nvdiffrast_backend
    except ImportError as error:
        raise RuntimeError(f"nvdiffrast cannot be imported ({error}); install it: {INSTALL_NVDIFFRAST}") from error
    return nvdiffrast_backend


def _draw_one_triangle(backend: Backend, device: torch.device) -> None:
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


register_backend("torch", _load_torch)
register_backend("nvdiffrast", _load_nvdiffrast, device_types=("cuda",), automatic=True)

from texalign.rasterize.antialiasing import antialias
from texalign.rasterize.backend import Backend, Rasterization
from texalign.rasterize.registry import (
    INSTALL_NVDIFFRAST,
    backend_names,
    register_backend,
    require_backend,
    select_backend,
    unavailable_reason,
)

__all__ = [
    "INSTALL_NVDIFFRAST",
    "Backend",
    "Rasterization",
    "antialias",
    "backend_names",
    "register_backend",
    "require_backend",
    "select_backend",
    "unavailable_reason",
]

from texalign.rasterize.backend import Backend, Rasterization
from texalign.rasterize.registry import BACKENDS, INSTALL_NVDIFFRAST, select_backend, unavailable_reason

__all__ = ["BACKENDS", "INSTALL_NVDIFFRAST", "Backend", "Rasterization", "select_backend", "unavailable_reason"]

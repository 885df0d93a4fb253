"""Texture as a training signal for 3D hand reconstruction."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from texalign.camera import PinholeCamera
from texalign.loss import DenseTextureAlignmentLoss, LossDetails, balanced_weight
from texalign.prior import UVTextureEncoder
from texalign.render import Rendering, TexturedHandRenderer, UVObservations
from texalign.surface import HandSurface

try:
    __version__ = version("texalign")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "DenseTextureAlignmentLoss",
    "HandSurface",
    "LossDetails",
    "PinholeCamera",
    "Rendering",
    "TexturedHandRenderer",
    "UVObservations",
    "UVTextureEncoder",
    "balanced_weight",
]

_MODULES = (
    "adapters", "hand", "lightning", "loss", "mano", "metrics", "photographs", "pretrain", "prior", "rasterize",
    "render", "surface", "synthetic", "viz",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    """The public packages, imported when they are first named: ``texalign.adapters.hamer.attach(…)``."""
    if name in _MODULES:
        return import_module(f"texalign.{name}")
    raise AttributeError(f"module 'texalign' has no attribute {name!r}")

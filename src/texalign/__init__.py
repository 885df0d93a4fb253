"""Texture as a training signal for 3D hand reconstruction."""

from importlib.metadata import PackageNotFoundError, version

from texalign.camera import PinholeCamera
from texalign.encoder import UVTextureEncoder
from texalign.loss import DenseTextureAlignmentLoss, LossDetails
from texalign.observations import UVObservations
from texalign.renderer import Rendering, TexturedHandRenderer
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
]

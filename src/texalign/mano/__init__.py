"""Files in the format of MANO's own: reading them without running them, writing them, and the layer of manotorch."""

from texalign.mano.arrays import ManoFileError
from texalign.mano.layers import manotorch_layer
from texalign.mano.model import ManoModel, load
from texalign.mano.writing import write_mano, write_mano_fields

__all__ = ["ManoFileError", "ManoModel", "load", "manotorch_layer", "write_mano", "write_mano_fields"]

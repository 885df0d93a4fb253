from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np


@lru_cache(maxsize=1)
def hand_asset() -> dict[str, np.ndarray]:
    """The bundled hand: vertices, skin weights, faces, uv, uv_faces, shape directions, joint regressor; read-only."""
    with files("texalign").joinpath("assets/hand.npz").open("rb") as file, np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays

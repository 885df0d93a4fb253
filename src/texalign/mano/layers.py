from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, Literal

import numpy as np

from texalign._internal import expect
from texalign.mano.model import ManoModel, load

INSTALL_MANOTORCH = "pip install git+https://github.com/lixiny/manotorch.git"


def manotorch_layer(
    source: str | os.PathLike[str] | ManoModel, *, side: Literal["right", "left"] | None = None, **options: Any
) -> Any:
    """The `ManoLayer` of manotorch, from a file that `load` reads: without chumpy, on Python 3.11 and numpy 2 too.

    manotorch is optional and GPL-3. Nothing in it, in numpy or in `sys.modules` is changed, so any number of threads
    may do this.

    Args:
        source: a path for `load`, or a model, for instance ``load(path).with_left_shape_fixed()``.
        side: "right" or "left"; by default the model's own.
        options: `ManoLayer`'s own, such as ``use_pca``, ``ncomps``, ``flat_hand_mean``, ``center_idx``, ``rot_mode``.

    Returns:
        A `manotorch.manolayer.ManoLayer`: poses (B, 48) and betas (B, S) to `verts` (B, V, 3), metres.

    Raises:
        ImportError: manotorch is not installed; the message holds the command.
        ManoFileError: as `load`.
        ValueError: neither given side nor one that the model's faces tell.

    Example:
        >>> layer = manotorch_layer("MANO_RIGHT.pkl", use_pca=False)  # doctest: +SKIP
    """
    try:
        from manotorch.manolayer import ManoLayer
    except ImportError as error:
        if not (error.name or "").startswith("mano"):
            raise
        raise ImportError(
            f"mano.manotorch_layer: manotorch is not installed: {INSTALL_MANOTORCH} (GPL-3)", name=error.name
        ) from error
    model = source if isinstance(source, ManoModel) else load(source)
    side = side or model.side
    expect(side in ("right", "left"), "mano.manotorch_layer", "side 'right' or 'left'", repr(side))
    fields = model.fields()
    chumpy_typed = ("shapedirs", "posedirs", "v_template", "weights", "J_regressor", "betas")
    fields["betas"] = np.zeros(model.shape_directions.shape[2])
    # It asks for their values as one asks chumpy and scipy.
    arguments = fields | {name: SimpleNamespace(r=fields[name], toarray=fields[name].view) for name in chumpy_typed}
    # The constructor calls `ready_arguments`, which imports chumpy and unpickles. It gets globals of its own, in which
    # that name gives what was read here.
    made_by = ManoLayer.__init__
    expect("ready_arguments" in made_by.__globals__, "mano.manotorch_layer", "a manotorch that it knows", "another one")
    initialise = FunctionType(
        made_by.__code__,
        {**made_by.__globals__, "ready_arguments": lambda path: arguments},
        made_by.__name__,
        made_by.__defaults__,
        made_by.__closure__,
    )
    initialise.__kwdefaults__ = made_by.__kwdefaults__
    layer = ManoLayer.__new__(ManoLayer)
    with tempfile.TemporaryDirectory() as folder:
        # It looks whether there is such a file before it asks for its content.
        models = Path(folder) / "models"
        models.mkdir()
        (models / f"MANO_{str(side).upper()}.pkl").touch()
        initialise(layer, side=side, mano_assets_root=folder, **options)
    layer.mano_assets_root = None
    return layer

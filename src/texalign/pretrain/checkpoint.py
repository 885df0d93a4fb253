from __future__ import annotations

import operator
import pickle
from pathlib import Path
from typing import Any

import torch

from texalign._internal import expect
from texalign.surface import same_atlas

# What two runs in one folder must share, and how a message names it.
FIXED = {"settings": "settings", "atlas_id": "surface", "started_from": "start", "photographs": "photographs"}
_NAMES = {*FIXED, "encoder", "optimizer", "average", "step", "hours"}


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What `pretrain` wrote: the entries of `FIXED`, the weights, their average, the optimiser, step and hours.

    Raises:
        ValueError: a damaged file, or no checkpoint of `pretrain`.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"pretrain: expected a checkpoint in {path}, got a damaged file: {reason}") from error
    if not isinstance(state, dict) or not set(state) >= _NAMES:
        raise ValueError(f"pretrain: expected a checkpoint of pretrain in {path}, got something else")
    return state


def expect_same_run(path: Path, state: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Refuse to resume a checkpoint with another value of an entry of `FIXED`."""
    for name, text in FIXED.items():
        same = same_atlas if name == "atlas_id" else operator.eq
        expect(same(state[name], fixed[name]), "pretrain", f"the {text} of {path}, {state[name]}", fixed[name])

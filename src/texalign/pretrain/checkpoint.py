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
    """Refuse to resume a checkpoint with another value of an entry of `FIXED`; more steps may be asked for."""
    for name, text in FIXED.items():
        before, now = state[name], fixed[name]
        if name == "settings" and now["steps"] > before["steps"]:
            now = {**now, "steps": before["steps"]}
        same = same_atlas if name == "atlas_id" else operator.eq
        expect(same(before, now), "pretrain", f"the {text} of {path}", _changes(before, now))


def _changes(before: Any, now: Any) -> str:
    """The entries that differ, old → new; of long descriptions the first three."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return " → ".join(_told(value) for value in (before, now))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = [f"{name} {_told(before.get(name))} → {_told(now.get(name))}" for name in names[:3]]
    return ", ".join(changes + ["…"] * (len(names) > 3))


def _told(value: Any) -> str:
    return f"{value.get('trained_on', 'others')}" if isinstance(value, dict) else str(value).lower()

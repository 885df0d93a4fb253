"""HaMeR for tests, in two kinds: examples/hamer_stand_in.py, and a checkout of the real one named by HAMER_ROOT.

A test module takes the fixtures by ``pytest_plugins = ("real_hamer",)``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import hamer_batches
import hamer_checkout
import hamer_stand_in


@dataclass(frozen=True)
class Hamer:
    """What tests take from either kind; the arguments are those of examples/hamer_batches.py."""

    name: str
    make_model: Callable[..., Any]
    training_batch: Callable[..., dict[str, Any]]
    joint_batch: Callable[..., dict[str, Any]]
    truth: Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="session")
def stand_in_hamer() -> Hamer:
    batches = hamer_batches
    return Hamer(
        "stand-in", hamer_stand_in.make_model, batches.training_batch, batches.joint_batch, hamer_batches.truth
    )


@pytest.fixture(scope="session")
def real_hamer() -> Iterator[Hamer]:
    """The real class, small and with random weights, and its own loader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HAMER_CHECKPOINT", raising=False)
        try:
            hamer_checkout.load()
        except (FileNotFoundError, ImportError) as error:
            pytest.skip(f"the real HaMeR cannot run: {error}")
        batches = hamer_checkout
        yield Hamer("real", batches.make_model, batches.training_batch, batches.joint_batch, hamer_batches.truth)


@pytest.fixture(params=["stand-in", "real"])
def hamer(request: pytest.FixtureRequest) -> Hamer:
    """Each kind in turn; the real one is skipped where HAMER_ROOT names no checkout or a package of its is missing."""
    found: Hamer = request.getfixturevalue("stand_in_hamer" if request.param == "stand-in" else "real_hamer")
    return found

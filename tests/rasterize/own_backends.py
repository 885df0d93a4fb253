"""Backends that are registered from outside the package, for the length of a test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import texalign
from rasterize import brute_force_backend, nvdiffrast_double
from texalign.rasterize import register_backend, registry

SOURCE = Path(texalign.__file__).parent / "rasterize" / "nvdiffrast_backend.py"


def nvdiffrast_on_the_double(changes: dict[str, str] | None = None) -> ModuleType:
    """The nvdiffrast backend's own code around the double, named "nvdiffrast double".

    `changes` are made to its text first; each passage must occur exactly once.
    """
    text = SOURCE.read_text(encoding="utf-8")
    for passage, other in (changes or {}).items():
        assert text.count(passage) == 1, f"{passage!r} occurs {text.count(passage)} times"
        text = text.replace(passage, other)
    package = ModuleType("nvdiffrast")
    package.torch = nvdiffrast_double
    backend = ModuleType("texalign.rasterize.nvdiffrast_on_the_double")
    with mock.patch.dict(sys.modules, {"nvdiffrast": package, "nvdiffrast.torch": nvdiffrast_double}):
        # Under its own file's name, for coverage, unless it is another text.
        exec(compile(text, "changed" if changes else str(SOURCE), "exec"), backend.__dict__)
    backend.name = "nvdiffrast double"
    return backend


def register_own_backends(monkeypatch) -> None:
    """Register both, until the test ends."""
    monkeypatch.setattr(registry, "rows", dict(registry.rows))
    register_backend("brute force", lambda: brute_force_backend)
    register_backend("nvdiffrast double", nvdiffrast_on_the_double, device_types=("cpu",))

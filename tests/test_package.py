from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import texalign as ta

OPTIONAL = {
    "nvdiffrast", "manotorch", "smplx", "scipy", "PIL", "tqdm", "trimesh", "matplotlib", "torchvision",
    "lightning", "pytorch_lightning", "torchmetrics", "lpips",
}  # fmt: skip
PUBLIC_NAMES = Path(__file__).with_name("public_names.txt")


def public_names() -> list[str]:
    """What a user may import, a dotted name each: the top, its public modules, and packages that these name."""
    rooms = {entry.name for entry in pkgutil.iter_modules(ta.__path__) if not entry.name.startswith("_")}
    names, faces = [f"texalign.{name}" for name in ta.__all__], [f"texalign.{room}" for room in sorted(rooms)]
    while faces:
        face = import_module(faces.pop())
        here = [key for key, value in vars(face).items() if getattr(value, "__module__", None) == face.__name__]
        for name in getattr(face, "__all__", [key for key in here if not key.startswith("_")]):
            names.append(f"{face.__name__}.{name}")
            if inspect.ismodule(getattr(face, name)):
                faces.append(names[-1])
    return sorted(names)


def test_public_names_appear_and_go_on_purpose():
    listed, found = PUBLIC_NAMES.read_text(encoding="utf-8").split(), public_names()
    changed = [f"+ {name}" for name in found if name not in listed]
    changed += [f"- {name}" for name in listed if name not in found]
    assert not changed, "\n".join([f"meant? python tests/test_package.py > tests/{PUBLIC_NAMES.name}", *changed])


def test_public_modules_are_imported_when_they_are_named():
    code = "import sys, texalign as ta; print('texalign.adapters' in sys.modules, ta.adapters.hamer.attach)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False <function attach")
    with pytest.raises(AttributeError, match="module 'texalign' has no attribute 'nothing'"):
        ta.nothing  # noqa: B018


def test_version_is_the_packages():
    assert ta.__version__ == importlib.metadata.version("texalign")


def test_importing_pulls_in_no_optional_package_and_no_compiler():
    rooms = [f"texalign.{room}" for room in ta._MODULES if room != "lightning"]
    # torch itself imports tqdm where it is installed.
    code = (
        f"import sys, torch; before = set(sys.modules); import {', '.join(rooms)}; print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(rooms) <= set(done.stdout.split())
    assert not (OPTIONAL | {"torch._dynamo"}) & set(done.stdout.split())


def test_the_package_stays_small():
    requirements = [r for r in importlib.metadata.requires("texalign") if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in requirements) == ["einops", "numpy", "safetensors", "torch"]


if __name__ == "__main__":
    print(*public_names(), sep="\n")

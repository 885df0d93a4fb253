from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import texalign as ta

OPTIONAL = {
    "nvdiffrast", "manotorch", "smplx", "scipy", "PIL", "tqdm", "trimesh", "matplotlib", "torchvision",
    "lightning", "pytorch_lightning", "torchmetrics", "lpips",
}  # fmt: skip


def test_public_names_are_few_sorted_and_documented():
    assert len(ta.__all__) <= 12
    assert ta.__all__ == sorted(ta.__all__)
    for name in ta.__all__:
        thing = getattr(ta, name)
        assert inspect.getdoc(thing), name
        for attribute, member in vars(thing).items():
            if inspect.isfunction(member) and not attribute.startswith("_"):
                assert inspect.getdoc(member), f"{name}.{attribute}"


def test_public_modules_are_imported_when_they_are_named():
    code = "import sys, texalign as ta; print('texalign.adapters' in sys.modules, ta.adapters.hamer.attach)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False <function attach")
    with pytest.raises(AttributeError, match="module 'texalign' has no attribute 'nothing'"):
        ta.nothing  # noqa: B018


def test_version_is_the_packages():
    assert ta.__version__ == importlib.metadata.version("texalign")


@pytest.mark.parametrize(
    "module",
    ["texalign", "texalign.hand", "texalign.mano", "texalign.rasterize", "texalign.adapters", "texalign.metrics"],
)
def test_importing_pulls_in_no_optional_package_and_no_compiler(module):
    # torch itself imports tqdm where it is installed.
    code = f"import sys, torch; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert not (OPTIONAL | {"torch._dynamo"}) & set(done.stdout.split())


def test_the_package_stays_small():
    requirements = [r for r in importlib.metadata.requires("texalign") if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in requirements) == ["einops", "numpy", "safetensors", "torch"]


def test_the_readmes_example_runs(hand):
    readme = Path(__file__).parent.parent / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    vertices = hand(torch.zeros(1, 16, 3)).vertices.requires_grad_()
    given = {
        "pred_cam": torch.tensor([[6.0, 0.07, 0.0]]),
        "image": torch.rand(1, 3, 256, 256),
        "pred_vertices": vertices,
    }
    exec(example, given)
    assert vertices.grad.abs().sum() > 0

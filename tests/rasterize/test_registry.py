from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

import texalign as ta
from rasterize import brute_force_backend
from rasterize.own_backends import register_own_backends
from texalign.rasterize import backend_names, register_backend, registry, select_backend, unavailable_reason

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "rows", dict(registry.rows))
    unavailable_reason.cache_clear()
    yield
    unavailable_reason.cache_clear()


def renamed(name, **changes):
    """The brute-force backend under another name, with something else about it."""
    return SimpleNamespace(**vars(brute_force_backend) | dict(name=name) | changes)


def test_nvdiffrast_needs_a_cuda_device_and_its_package(monkeypatch):
    with pytest.raises(RuntimeError, match=r"nvdiffrast backend does not run on cpu: .*needs a CUDA device, got cpu"):
        select_backend("nvdiffrast", CPU)
    monkeypatch.setitem(registry.rows, "nvdiffrast", registry.rows["nvdiffrast"]._replace(device_types=("cpu",)))
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    unavailable_reason.cache_clear()
    assert ta.rasterize.INSTALL_NVDIFFRAST in unavailable_reason("nvdiffrast", CPU)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_self_test_runs_inside_any_mode(mode):
    with mode():
        assert unavailable_reason("torch", CPU) is None


def test_a_backend_of_ones_own_is_one_registration(monkeypatch, surface):
    assert backend_names() == ("torch", "nvdiffrast")
    register_own_backends(monkeypatch)
    assert backend_names() == ("torch", "nvdiffrast", "brute force", "nvdiffrast double")
    assert select_backend("brute force", CPU) is brute_force_backend
    assert select_backend("nvdiffrast double", CPU) is select_backend("nvdiffrast double", CPU)  # loaded once
    with pytest.raises(ValueError, match="backend auto, torch, nvdiffrast, brute force or nvdiffrast double, got 'x'"):
        ta.TexturedHandRenderer(surface, 8, backend="x")
    with pytest.raises(ValueError, match="no backend named 'opengl' is registered, there are torch, nvdiffrast"):
        select_backend("opengl", CPU)
    with pytest.raises(ValueError, match="a backend named 'torch' is registered already"):
        register_backend("torch", lambda: brute_force_backend)


def test_a_backend_that_fails_its_self_test_says_why(surface):
    def missing():
        raise RuntimeError("no such library")

    blind = renamed("blind", rasterize=lambda p, *others, near: brute_force_backend.rasterize(-p, *others, near))
    register_backend("missing", missing, device_types=("cpu",))
    register_backend("blind", lambda: blind)
    register_backend("misnamed", lambda: brute_force_backend)
    for name, reason in (
        ("missing", "no such library"),
        ("blind", "the self-test triangle covered 0 pixels of 32"),
        ("misnamed", "the backend that was registered as 'misnamed' calls itself 'brute force'"),
    ):
        with pytest.raises(RuntimeError, match=f"the {name} backend does not run on cpu: RuntimeError: {reason}"):
            select_backend(name, CPU)
    # One for one type of device only is tried when a renderer is made.
    with pytest.raises(RuntimeError, match="the missing backend does not run on cpu"):
        ta.TexturedHandRenderer(surface, 8, backend="missing")


def test_auto_takes_the_first_automatic_backend_that_runs():
    register_backend("broken", lambda: renamed("another"), automatic=True)
    register_backend("elsewhere", lambda: renamed("elsewhere"), device_types=("mps",), automatic=True)
    register_backend("by name only", lambda: renamed("by name only"))
    with pytest.warns(RuntimeWarning, match="broken does not run"):
        assert select_backend("auto", CPU).name == "torch"
    register_backend("fast", lambda: renamed("fast"), automatic=True)
    register_backend("faster", lambda: renamed("faster"), automatic=True)
    assert select_backend("auto", CPU).name == "fast"


def test_auto_falls_back_with_one_warning(monkeypatch, recwarn):
    monkeypatch.setattr(registry, "unavailable_reason", lambda *_: "RuntimeError: no kernel image")
    for _ in range(2):
        assert select_backend("auto", CUDA).name == "torch"
    (warning,) = [w for w in recwarn if "falls back" in str(w.message)]
    assert "torch backend on cuda:0, since nvdiffrast does not run: RuntimeError: no kernel" in str(warning.message)

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

import texalign as ta
from rasterize.own_backends import register_own_backends
from texalign.hand import HandModel, sample_pose
from texalign.rasterize import select_backend, unavailable_reason

settings.register_profile("texalign", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("texalign")

pytest.register_assert_rewrite("contract")
# Tiny tensors: more threads only wait for each other. OMP_NUM_THREADS asks for more, to see that nothing changes.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws does not depend on the tests before it, which are others in every process."""
    torch.manual_seed(0)


@pytest.fixture(params=["torch", "brute force", "nvdiffrast double", "torch-cuda", "nvdiffrast"])
def backend(request, monkeypatch):
    """A backend with the device it runs on; two of them are registered from outside the package."""
    register_own_backends(monkeypatch)
    name = request.param.removesuffix("-cuda")
    device = torch.device("cuda:0" if request.param in ("torch-cuda", "nvdiffrast") else "cpu")
    reason = unavailable_reason(name, device)
    if reason is not None:
        pytest.skip(f"{request.param} cannot run on this machine: {reason}")
    return select_backend(name, device), device


@pytest.fixture(scope="session")
def surface():
    return ta.HandSurface.mano()


@pytest.fixture(scope="session")
def hand():
    return HandModel()


@pytest.fixture(scope="session")
def scene(hand):
    """A function: count, image size, seed → vertices (B, 778, 3) half a metre away and cameras that see them."""

    def make(count: int = 2, image_size: int = 64, seed: int = 0, distance: float = 0.5):
        pose = sample_pose(count, torch.Generator().manual_seed(seed))
        vertices = hand(pose).vertices
        vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, distance])
        focal = torch.full((count, 2), 4.0 * distance * image_size)
        return vertices, ta.PinholeCamera(focal, torch.full((count, 2), image_size / 2))

    return make


@pytest.fixture(scope="session")
def smooth_texture():
    """(1, 3, 128, 128): smooth enough that a texel and a pixel see the same colour."""
    v, u = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 128), indexing="ij")
    waves = [torch.sin(6 * u + phase) * torch.cos(5 * v - phase) for phase in (0.0, 1.0, 2.0)]
    return 0.5 + 0.4 * torch.stack(waves)[None]

"""What only a CUDA device can show, and the benchmark for it, run dry on the CPU.

tests/rasterize compares each backend with the brute-force reference, on a device too where there is one.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import texalign as ta
from host_network import tiny_encoder
from texalign.hand import HandModel, sample_pose
from texalign.rasterize import backend_names, unavailable_reason

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_timing

SIZE, COUNT = 96, 3
# The files in which a step may wait for the device (test_synchronisation.py says why), and how often at most.
WAITS = {"torch": ({"nearest.py", "torch_backend.py", "silhouettes.py"}, 11), "nvdiffrast": ({"silhouettes.py"}, 8)}


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(params=backend_names())
def name(request, cuda):
    """A backend that runs on the device."""
    reason = unavailable_reason(request.param, cuda)
    if reason is not None:
        pytest.skip(f"{request.param} cannot run on this machine: {reason}")
    return request.param


def hands(device, dtype=torch.float32):
    """Vertices, cameras and images, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    vertices = HandModel()(sample_pose(COUNT, generator)).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    image = torch.rand(COUNT, 3, SIZE, SIZE, generator=generator)
    focal, principal = torch.full((COUNT, 2), 1.6 * SIZE), torch.full((COUNT, 2), SIZE / 2)
    return vertices.to(device, dtype), ta.PinholeCamera(focal.to(device), principal.to(device)), image.to(device)


def loss_on(device, name, **settings):
    """All visible pixels are observed: which are drawn from more would differ between devices."""
    surface = ta.HandSurface.mano()
    settings = {"token_count": SIZE * SIZE} | settings
    draw = ta.TexturedHandRenderer(surface, SIZE, backend=name)
    return ta.DenseTextureAlignmentLoss(draw, tiny_encoder(surface), **settings).to(device)


def step_on(device, name, dtype=torch.float32, **settings):
    """Loss and gradient, on the CPU."""
    vertices, camera, image = hands(device, dtype)
    leaf = vertices.requires_grad_()
    loss = loss_on(device, name, **settings)(leaf, camera, image)
    loss.backward()
    assert leaf.grad.dtype == dtype and leaf.grad.device == device
    return loss.detach().cpu(), leaf.grad.float().cpu()


def cosine(found, expected):
    return float(functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0))


def check_alike(found, expected, atol=1e-3, least_cosine=0.999):
    """Loss and gradient: medians and thresholds magnify the last bits of colours at single pixels."""
    assert abs(found[0] - expected[0]) < atol
    assert cosine(found[1], expected[1]) > least_cosine


@pytest.mark.parametrize("settings", [{}, {"train_texture": True}], ids=["frozen prior", "trained prior"])
def test_the_loss_is_that_of_the_cpu(cuda, name, settings):
    expected = step_on(torch.device("cpu"), "torch", **settings)
    check_alike(step_on(cuda, name, **settings), expected, 2e-3 if name == "torch" else 2e-2, 0.99)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_is_nearly_float32(cuda, name, dtype):
    expected = step_on(cuda, name)
    for given in (torch.float32, dtype):
        with torch.autocast("cuda", dtype=dtype):
            found = step_on(cuda, name, dtype=given)
        assert found[0].dtype == torch.float32 and all(torch.isfinite(value).all() for value in found)
        if given == torch.float32:
            check_alike(found, expected, 2e-2, 0.99)


def test_every_device_has_its_own_context(cuda, name):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    other = torch.device("cuda", 1)
    expected = step_on(cuda, name)
    for device in (other, cuda, other):
        check_alike(step_on(device, name), expected)


def test_another_thread_and_another_stream_change_nothing(cuda, name):
    expected, found = step_on(cuda, name), []
    for _ in range(2):
        worker = threading.Thread(target=lambda: found.append(step_on(cuda, name)))
        worker.start()
        worker.join()
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        found.append(step_on(cuda, name))
    assert len(found) == 3
    for each in found:
        check_alike(each, expected)


def test_a_bad_sample_harms_no_other_and_a_batch_may_be_empty(cuda, name):
    vertices, camera, image = hands(cuda)
    vertices[1, 7] = torch.nan
    leaf = vertices.requires_grad_()
    loss, details = loss_on(cuda, name)(leaf, camera, image, return_details=True)
    loss.backward()
    assert details.skipped.tolist() == [False, True, False]
    assert torch.isfinite(loss) and torch.isfinite(leaf.grad).all()
    assert not leaf.grad[1].any() and leaf.grad[0].any()
    assert loss_on(cuda, name)(vertices[:0].detach().requires_grad_(), camera[:0], image[:0]) == 0


def test_a_step_waits_only_for_lengths_of_lists(cuda, name):
    vertices, camera, image = hands(cuda)
    loss_fn = loss_on(cuda, name, token_count=256)

    def step():
        leaf = vertices.detach().requires_grad_()
        loss_fn(leaf, camera, image).backward()

    step()
    found = gpu_timing.waits(step, cuda)
    files, most = WAITS[name]
    assert {where.split(":")[0] for where in found} <= files
    assert 0 < sum(found.values()) <= most


def test_steps_keep_no_memory(cuda, name):
    held = []
    for _ in range(5):
        step_on(cuda, name)
        torch.cuda.synchronize(cuda)
        held.append(torch.cuda.memory_allocated(cuda))
    assert held[-1] <= held[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_benchmark_runs_dry(monkeypatch, capsys, tmp_path):
    output = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--output", str(output)])
    gpu.main()
    results, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert "say nothing about a GPU" in printed and "left out, nvdiffrast: RuntimeError" in printed
    assert results["environment"]["device"] == "CPU" and set(results["left out"]) == {"nvdiffrast"}
    assert {row["method"] for row in results["renderer"]} == {"texalign, torch"}
    assert all(row["median"] > 0 for row in results["renderer"] + results["loss"])
    assert results["loss"][0]["waits at"] is None and "only a GPU can tell" in printed
    assert [row["stage"] for row in results["stages"]][-1] == "backward"
    assert all(row["ms"] > 0 and row["launches"] > 0 for row in results["stages"])
    assert {row["growing"] for row in results["growth"]} == {"images", "image size", "tokens"}
    (row,) = results["hamer"]
    assert row["network"].startswith("stand-in") and row["with the texture, ms"] > 0


def test_the_benchmark_without_a_device_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no CUDA device here" in capsys.readouterr().err


def test_growth_is_told_by_its_slope():
    assert gpu.slope((1, 10.0), (2, 20.0), 1) == "1.00" and gpu.slope((4, 3.0), (8, 12.0), 1) == "2.00"
    assert gpu.slope((1, 0.0), (2, 5.0), 1) == "-"

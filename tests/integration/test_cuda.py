"""What only a CUDA device can show; and the benchmark for it, run dry on the CPU.

Also on a device: tests/rasterize (the two rasterizers against each other, and each against a brute-force reference),
tests/hand, tests/surface and tests/synthetic. The checks here are functions of a device.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import texalign as ta
from host_network import tiny_encoder
from texalign.cli import doctor
from texalign.hand import HandModel, sample_pose
from texalign.rasterize import backend_names, select_backend, unavailable_reason

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_timing

CPU = torch.device("cpu")
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
    """Vertices, cameras, images and textures, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    vertices = HandModel()(sample_pose(COUNT, generator)).vertices
    vertices = vertices - vertices.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    image, texture = torch.rand(COUNT, 3, SIZE, SIZE, generator=generator), torch.rand(3, 3, 8, 8, generator=generator)
    texture = functional.interpolate(texture, size=64, mode="bilinear")
    focal, principal = torch.full((COUNT, 2), 1.6 * SIZE), torch.full((COUNT, 2), SIZE / 2)
    camera = ta.PinholeCamera(focal.to(device), principal.to(device))
    return vertices.to(device, dtype), camera, image.to(device), texture.to(device)


def renderer_on(device, name):
    return ta.TexturedHandRenderer(ta.HandSurface.mano().to(device), SIZE, backend=name)


def loss_on(device, name, **settings):
    """All visible pixels are observed: which are drawn from more would differ between devices."""
    surface = ta.HandSurface.mano()
    settings = {"token_count": SIZE * SIZE} | settings
    draw = ta.TexturedHandRenderer(surface, SIZE, backend=name)
    return ta.DenseTextureAlignmentLoss(draw, tiny_encoder(surface), **settings).to(device)


def step_on(device, name, dtype=torch.float32, **settings):
    """Loss and gradient, on the CPU."""
    vertices, camera, image, _ = hands(device, dtype)
    leaf = vertices.requires_grad_()
    loss = loss_on(device, name, **settings)(leaf, camera, image)
    loss.backward()
    assert leaf.grad.dtype == dtype and leaf.grad.device == device
    return loss.detach().cpu(), leaf.grad.float().cpu()


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def cosine(found, expected):
    return float(functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0))


# --- values and gradients --------------------------------------------------


def drawn(device, name, kind, agree=None):
    """Face indices, what was drawn and its gradients, on the CPU; pixels where `agree` is False count for nothing.

    ``interior`` is what lies under the pixels' centres: depth and texture; ``silhouette`` is coverage.
    """
    vertices, camera, image, texture = hands(device)
    vertices.requires_grad_()
    texture.requires_grad_()
    renderer = renderer_on(device, name)
    if kind == "silhouette":
        out = renderer(vertices, camera, texture)
        values, face_index = out.coverage, out.face_index
    else:
        scene = renderer.scene(vertices, camera)
        redirect = renderer.surface.texel_map(texture.shape[-1]).redirect
        layers = scene.backend.sample_texture(texture, scene.uv, scene.found, redirect)[..., :3]
        values = torch.cat([layers.permute(0, 3, 1, 2), scene.depth[:, None]], dim=1)
        face_index = scene.found.face_index
    if agree is None:
        return face_index.cpu(), None, None
    weights = torch.cat([image, image.mean(dim=1, keepdim=True)], dim=1)[:, : values.shape[1]]
    values = values * agree.to(device)[:, None]
    leaves = (vertices,) if kind == "silhouette" else (vertices, texture)
    gradients = torch.autograd.grad((values * weights).sum(), leaves)
    return face_index.cpu(), values.detach().cpu(), [gradient.cpu() for gradient in gradients]


def check_drawing(device, name, kind, reference_device, reference_name):
    found, _, _ = drawn(device, name, kind)
    expected, _, _ = drawn(reference_device, reference_name, kind)
    agree = found == expected
    assert agree.float().mean() > (0.9999 if name == reference_name else 0.999)
    _, values, gradients = drawn(device, name, kind, agree)
    _, wanted, wanted_gradients = drawn(reference_device, reference_name, kind, agree)
    limit, alike = (1e-3, 0.999) if kind == "interior" else (5e-2, 0.99)
    assert relative(values, wanted) <= limit
    for gradient, other in zip(gradients, wanted_gradients):
        assert other.norm() > 0
        assert relative(gradient, other) <= limit
        assert cosine(gradient, other) >= alike


@pytest.mark.parametrize("kind", ["interior", "silhouette"])
def test_drawing_is_that_of_the_cpu(cuda, name, kind):
    check_drawing(cuda, name, kind, CPU, "torch")


@pytest.mark.parametrize("kind", ["interior", "silhouette"])
def test_both_backends_draw_alike(cuda, name, kind):
    if name == "torch":
        pytest.skip("the other backend's reference")
    check_drawing(cuda, name, kind, cuda, "torch")


def check_step(device, name):
    for settings in ({}, dict(train_texture=True)):
        loss, gradient = step_on(device, name, **settings)
        expected, wanted = step_on(CPU, "torch", **settings)
        # Medians, histograms and thresholds magnify the last bits of colours at single pixels.
        assert abs(loss - expected) < (2e-3 if name == "torch" else 2e-2)
        assert cosine(gradient, wanted) >= 0.99


def test_the_loss_is_that_of_the_cpu(cuda, name):
    check_step(cuda, name)


# --- mixed precision -------------------------------------------------------


def check_mixed_precision(device, name, dtype):
    loss, gradient = step_on(device, name)
    for given in (torch.float32, dtype):
        with torch.autocast(device.type, dtype=dtype):
            cast, cast_gradient = step_on(device, name, dtype=given)
        assert cast.dtype == torch.float32 and torch.isfinite(cast) and torch.isfinite(cast_gradient).all()
        if given == torch.float32:
            assert abs(cast - loss) < 2e-2
            assert cosine(cast_gradient, gradient) > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_is_nearly_float32(cuda, name, dtype):
    check_mixed_precision(cuda, name, dtype)


def check_gradient_scaler(device, name):
    vertices, camera, image, _ = hands(device)
    loss_fn, moved = loss_on(device, name), []
    for enabled in (False, True):
        offset = torch.zeros(3, device=device, requires_grad=True)
        optimizer = torch.optim.SGD([offset], lr=1e-4)
        scaler = torch.amp.GradScaler(device.type, init_scale=65536.0, enabled=enabled)
        with torch.autocast(device.type, dtype=torch.float16):
            loss = loss_fn(vertices + offset, camera, image)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(offset.detach().cpu())
    assert moved[0].abs().max() > 0
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-2, atol=1e-7)  # sums are in no fixed order on a GPU


def test_a_gradient_scaler_changes_nothing(cuda, name):
    check_gradient_scaler(cuda, name)


# --- contexts --------------------------------------------------------------


def test_every_device_has_its_own_context(cuda, name):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    other = torch.device("cuda", 1)
    if unavailable_reason(name, other) is not None:
        pytest.skip(f"{name} cannot run on {other}")
    first, gradient = step_on(cuda, name)
    for device in (other, cuda, other):
        loss, again = step_on(device, name)
        assert abs(loss - first) < 1e-3
        assert cosine(again, gradient) > 0.999


def check_threads(device, name):
    expected, gradient = step_on(device, name)
    found = []
    workers = [threading.Thread(target=lambda: found.append(step_on(device, name))) for _ in range(2)]
    for worker in workers:
        worker.start()
        worker.join()
    assert len(found) == 2
    for loss, again in found:
        assert abs(loss - expected) < 1e-3
        assert cosine(again, gradient) > 0.999


def test_another_thread_has_its_own_context(cuda, name):
    check_threads(cuda, name)


def test_another_stream_changes_nothing(cuda, name):
    expected, gradient = step_on(cuda, name)
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        loss, again = step_on(cuda, name)
    assert abs(loss - expected) < 1e-3
    assert cosine(again, gradient) > 0.999


def check_copies(device, name):
    vertices, camera, image, _ = hands(device)
    loss_fn = loss_on(device, name)
    expected = loss_fn(vertices, camera, image)
    for copied in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))):
        assert abs(copied(vertices, camera, image) - expected) < 1e-3


def test_a_loss_that_has_been_used_can_be_copied(cuda, name):
    check_copies(cuda, name)


# --- samples that are none -------------------------------------------------


def check_bad_samples(device, name):
    vertices, camera, image, _ = hands(device)
    vertices[1, 7] = torch.nan
    leaf = vertices.requires_grad_()
    loss, details = loss_on(device, name)(leaf, camera, image, return_details=True)
    loss.backward()
    assert details.skipped.tolist() == [False, True, False]
    assert torch.isfinite(loss) and torch.isfinite(leaf.grad).all()
    assert not leaf.grad[1].any() and leaf.grad[0].any()
    nobody = ta.PinholeCamera(camera.focal[:0], camera.principal[:0])
    assert loss_on(device, name)(vertices[:0].detach().requires_grad_(), nobody, image[:0]) == 0


def test_a_sample_that_is_not_finite_harms_no_other(cuda, name):
    check_bad_samples(cuda, name)


# --- what a step costs -----------------------------------------------------


def test_a_step_waits_only_for_lengths_of_lists(cuda, name):
    vertices, camera, image, _ = hands(cuda)
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


# --- the doctor ------------------------------------------------------------


def check_doctor(device):
    """What the doctor says of a device is what happens there."""
    diagnosis, drawn = doctor.diagnose(), {}
    vertices, camera, _, texture = hands(device)
    for report in diagnosis.backends:
        if report.device != device:
            continue
        try:
            select_backend(report.backend, device)
        except RuntimeError as error:
            assert report.reason is not None and report.reason in str(error)
        else:
            assert report.reason is None
            out = renderer_on(device, report.backend)(vertices, camera, texture)
            drawn[report.backend] = out.coverage.mean().item()
    assert drawn["torch"] > 0.05
    assert max(drawn.values()) - min(drawn.values()) < 1e-3
    (about,) = (each for each in diagnosis.devices if each.device == device)
    assert about.automatic == select_backend("auto", device).name
    if device.type == "cuda":
        assert about.automatic == ("nvdiffrast" if "nvdiffrast" in drawn else "torch")


@pytest.mark.filterwarnings("ignore:texalign falls back")
def test_the_doctor_says_what_happens(cuda):
    check_doctor(cuda)


# --- the benchmark ---------------------------------------------------------


def run_benchmark(monkeypatch, capsys, output, *sections):
    arguments = ["gpu.py", "--device", "cpu", "--small", "--output", str(output), "--sections", *sections]
    monkeypatch.setattr(sys, "argv", arguments)
    gpu.main()
    return json.loads(output.read_text()), capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_benchmark_runs_dry(monkeypatch, capsys, tmp_path):
    results, printed = run_benchmark(monkeypatch, capsys, tmp_path / "r.json", "renderer", "loss", "stages", "growth")
    assert "say nothing about a GPU" in printed and "left out, nvdiffrast: RuntimeError" in printed
    assert results["environment"]["device"] == "CPU" and set(results["left out"]) == {"nvdiffrast"}
    assert {row["method"] for row in results["renderer"]} == {"texalign, torch"}
    assert all(row["median"] > 0 for row in results["renderer"] + results["loss"])
    (loss,) = results["loss"]
    assert loss["waits at"] is None and "only a GPU can tell" in printed
    assert loss["launches"] > 100 and len(loss["longest"]) == 12
    assert [row["stage"] for row in results["stages"]][-1] == "backward"
    assert all(row["ms"] > 0 and row["launches"] > 0 and row["least MB"] > 0 for row in results["stages"])
    grown = [(row["growing"], row["to"]) for row in results["growth"]]
    assert grown == [
        ("images", 1),
        ("images", 2),
        ("image size", 32),
        ("image size", 48),
        ("tokens", 32),
        ("tokens", 64),
    ]
    assert [row["slope of ms"] == "-" for row in results["growth"]] == [True, False] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_benchmark_takes_hamers_step_from_the_stand_in(monkeypatch, capsys, tmp_path):
    results, _ = run_benchmark(monkeypatch, capsys, tmp_path / "r.json", "hamer")
    (row,) = results["hamer"]
    assert row["network"].startswith("stand-in") and row["renderer"] == "torch"
    assert row["with the texture, ms"] > 0 and row["more time"].endswith("%")


def test_the_benchmark_without_a_device_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no CUDA device here" in capsys.readouterr().err


def test_growth_is_told_by_its_slope():
    assert gpu.slope((1, 10.0), (2, 20.0), 1) == "1.00" and gpu.slope((4, 3.0), (8, 12.0), 1) == "2.00"
    assert gpu.slope((1, 0.0), (2, 5.0), 1) == "-"

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import warnings
from dataclasses import dataclass

import torch

import texalign
from texalign import rasterize

REQUIRED = ("torch", "numpy", "einops")
# Distribution → module.
OPTIONAL = {
    "nvdiffrast": "nvdiffrast",
    "smplx": "smplx",
    "manotorch": "manotorch",
    "scipy": "scipy",
    "pillow": "PIL",
    "tqdm": "tqdm",
    "lightning": "lightning",
}
INSTALL_EXTRA = {
    "scipy": 'pip install "texalign[mano]"',
    "pillow": 'pip install "texalign[demo]"',
    "tqdm": 'pip install "texalign[demo]"',
    "lightning": 'pip install "texalign[lightning]"',
}
INSTALL_CUDA_TORCH = "pip install torch, as the selector on https://pytorch.org/get-started/locally says for CUDA"


@dataclass(frozen=True)
class DeviceReport:
    """One device.

    Attributes:
        device: as torch names it.
        description: what a person calls it.
        automatic: the backend that ``backend="auto"`` takes there; None if that one does not run either.
    """

    device: torch.device
    description: str
    automatic: str | None


@dataclass(frozen=True)
class BackendReport:
    """One backend on one device.

    Attributes:
        backend: one of `texalign.rasterize.backend_names()`.
        device: where it was tried.
        reason: why it does not run there, None if it drew the test triangle.
        remedy: a command or advice that should change that; None if it runs, or never will on such a device.
    """

    backend: str
    device: torch.device
    reason: str | None
    remedy: str | None


@dataclass(frozen=True)
class Diagnosis:
    """All that `python -m texalign doctor` prints.

    Attributes:
        versions: package → version, None if not installed.
        devices: the CPU first.
        backends: every backend on every device.
        advice: what else could be installed: (why, command).
        healthy: the torch backend runs on the CPU.
    """

    versions: dict[str, str | None]
    devices: list[DeviceReport]
    backends: list[BackendReport]
    advice: list[tuple[str, str]]
    healthy: bool


def diagnose() -> Diagnosis:
    """Look at packages and devices, and draw a triangle with every backend on every device."""
    versions, devices = package_versions(), available_devices()
    backends = [check_backend(backend, device) for device in devices for backend in rasterize.backend_names()]
    described = [DeviceReport(device, describe(device), automatic_backend(device)) for device in devices]
    healthy = any(
        report.backend == "torch" and report.device.type == "cpu" and not report.reason for report in backends
    )
    return Diagnosis(versions, described, backends, missing_pieces(versions), healthy)


def package_versions() -> dict[str, str | None]:
    """Versions of Python, this library, what it needs and what it can use; None for what is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "texalign": texalign.__version__}
    for distribution, module in {**{name: name for name in REQUIRED}, **OPTIONAL}.items():
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found = importlib.util.find_spec(module) is not None  # on the path, but not installed by pip
            versions[distribution] = "installed, version unknown" if found else None
    versions["torch"] = torch.__version__  # with its build, such as +cu130
    return versions


def available_devices() -> list[torch.device]:
    """The CPU, every CUDA device, and Apple's GPU, as far as torch can use them."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return devices


def describe(device: torch.device) -> str:
    """A device in words."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "mps":
        return "Apple GPU"
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def check_backend(backend: str, device: torch.device) -> BackendReport:
    """Whether a backend really runs on a device, by its self-test."""
    reason = rasterize.unavailable_reason(backend, device)
    return BackendReport(backend, device, reason, None if reason is None else remedy(backend, device, reason))


def remedy(backend: str, device: torch.device, reason: str) -> str | None:
    """What should make a backend run that failed for a reason, or None where nothing would."""
    if backend == "torch":
        if device.type == "cpu":
            return "pip install --force-reinstall torch"
        return 'keep tensors on the CPU: device="cpu"'
    if backend != "nvdiffrast" or device.type != "cuda" or torch.version.cuda is None:
        return None
    if rasterize.INSTALL_NVDIFFRAST in reason:
        return rasterize.INSTALL_NVDIFFRAST
    return f"{rasterize.INSTALL_NVDIFFRAST} --force-reinstall --no-deps"


def automatic_backend(device: torch.device) -> str | None:
    """The backend that ``backend="auto"`` takes on a device, None if it does not run there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fallback's warning would repeat what the report says
        name = rasterize.select_backend("auto", device).name
    return name if rasterize.unavailable_reason(name, device) is None else None


def missing_pieces(versions: dict[str, str | None]) -> list[tuple[str, str]]:
    """(why, command) for what is not there: a CUDA device, the optional packages that pip can fetch."""
    advice = []
    if torch.version.cuda is None and torch.version.hip is None:
        advice.append(("this torch is built without CUDA; on a machine with an NVIDIA GPU", INSTALL_CUDA_TORCH))
    elif not torch.cuda.is_available():
        advice.append(("torch is built for a GPU but finds none; see whether the driver does", "nvidia-smi"))
    for command in dict.fromkeys(INSTALL_EXTRA.values()):
        missing = [name for name, cure in INSTALL_EXTRA.items() if cure == command and versions[name] is None]
        if missing:
            advice.append((f"{' and '.join(missing)} not installed", command))
    return advice


def report_lines(diagnosis: Diagnosis) -> list[str]:
    """The diagnosis as text."""
    lines = ["versions"]
    lines += [f"  {name:<12}{version or 'not installed'}" for name, version in diagnosis.versions.items()]
    lines.append("devices")
    for report in diagnosis.devices:
        chosen = f"auto takes {report.automatic}" if report.automatic else "no backend runs here"
        lines.append(f"  {report.device!s:<12}{report.description}; {chosen}")
    lines.append("backends")
    for check in diagnosis.backends:
        verdict = "runs" if check.reason is None else f"does not run: {check.reason}"
        lines.append(f"  {check.backend + ' on ' + str(check.device):<24}{verdict}")
        if check.remedy is not None:
            lines.append(f"{'':<26}to fix: {check.remedy}")
    if diagnosis.advice:
        lines.append("also")
        lines += [f"  {why}:\n    {command}" for why, command in diagnosis.advice]
    lines.append(
        "texalign runs here."
        if diagnosis.healthy
        else "texalign does not run here: its torch backend fails on the CPU."
    )
    return lines

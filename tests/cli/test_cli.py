from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import texalign
from photograph_folder import write_folder
from texalign import rasterize
from texalign.cli import demo, doctor, doctor_command, main

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


@pytest.mark.slow
def test_a_fast_demo_draws_where_it_is_told_and_prints_no_table(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "texalign", "demo", "--fast", "--output", "../pictures"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=600, env=environment)
    assert process.returncode == 0, process.stderr
    assert "100%" in process.stderr and "texalign demo" in process.stderr and "Warning" not in process.stderr
    pictures = tmp_path / "pictures"
    names = ["alignment.gif", "contact_sheet.png", "real_hands.png"]
    assert sorted(file.name for file in pictures.iterdir()) == names
    assert list(here.iterdir()) == []
    lines = process.stdout.splitlines()
    assert lines[0].startswith("3 generated hands of known shape, 96 px, keypoints with 1.5 px of noise")
    assert lines[1].startswith("3 photographs of people that no training has seen, 96 px")
    assert lines[-1] == f"folder: {pictures.resolve()}"
    assert " mm " not in process.stdout and "too few steps to judge by" in process.stdout


def test_a_demo_prints_a_table_for_each_kind_of_hands(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "FULL", demo.Plan(1, 1, 48, 6))
    monkeypatch.setattr(demo, "FIT_STEPS", 2)
    assert main(["demo", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("should fall") == printed.count("may rise") == 2
    assert "1 generated hands" in printed and "1 photographs of people that no training has seen" in printed


def test_demo_into_a_file_is_a_users_mistake(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main(["demo", "--fast", "--output", str(tmp_path / "taken")]) == 2
    message = capsys.readouterr().err
    assert "taken is a file" in message and "Traceback" not in message
    assert main(["demo", "--fast", "--output", str(tmp_path / "taken" / "below")]) == 2
    assert (tmp_path / "taken").read_text() == "mine"


def test_demo_on_no_photographs_is_a_users_mistake(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "no camera", count=2, K_crop=None)
    for name, message in (("nowhere", "nowhere"), ("empty", "annotations.npz"), ("no camera", "no K_crop")):
        assert main(["demo", "--images", str(tmp_path / name), "--output", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error and error.count("texalign: ") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("module", ["PIL", "tqdm"])
def test_demo_without_its_extra_says_how_to_get_it(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    for loaded in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.setitem(sys.modules, loaded, None)
    assert main(["demo", "--fast", "--output", str(tmp_path / "new")]) == 2
    message = capsys.readouterr().err
    assert message == 'texalign: texalign demo needs pillow and tqdm: pip install "texalign[demo]"\n'
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [["paint"], ["demo", "--seed", "-1"], ["demo", "--count", "0"], ["doctor", "5"]],
)
def test_misuse_shows_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: python -m texalign" in capsys.readouterr().err


def test_interruption_leaves_without_a_traceback(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_command, "diagnose", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "texalign: interrupted\n"


def test_version_and_help(capsys):
    for arguments, expected in ((["--version"], f"texalign {texalign.__version__}\n"), (["--help"], "doctor")):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        assert expected in capsys.readouterr().out


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    assert "usage: python -m texalign" in capsys.readouterr().out


def test_doctor_runs_here_and_lists_everything(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("python", "torch", "numpy", "einops", "texalign", *doctor.OPTIONAL):
        assert any(line.split()[0] == name for line in printed.splitlines() if line.strip())
    assert "torch on cpu            runs" in printed
    assert printed.rstrip().endswith("texalign runs here.")


def test_doctor_is_truthful_about_backends():
    diagnosis = doctor.diagnose()
    assert diagnosis.healthy and diagnosis.devices[0].device == CPU and diagnosis.devices[0].automatic == "torch"
    assert len(diagnosis.backends) == len(diagnosis.devices) * len(rasterize.backend_names())
    for report in diagnosis.backends:
        assert report.reason == rasterize.unavailable_reason(report.backend, report.device)
    on_cpu = next(report for report in diagnosis.backends if (report.backend, report.device) == ("nvdiffrast", CPU))
    assert "CUDA" in on_cpu.reason and on_cpu.remedy is None  # nothing makes it run on a CPU
    assert diagnosis.versions["torch"] == torch.__version__
    assert len(diagnosis.devices) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()


def test_doctor_advises_a_cuda_build_where_torch_has_none(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert any("pytorch.org" in command for _, command in doctor.missing_pieces(doctor.package_versions()))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ("nvidia-smi") in [command for _, command in doctor.missing_pieces(doctor.package_versions())]


def test_doctor_names_packages_that_are_not_there_and_the_command_for_them(monkeypatch):
    monkeypatch.setitem(doctor.OPTIONAL, "no-such-distribution", "no_such_module")
    monkeypatch.setitem(doctor.OPTIONAL, "without-a-version", "texalign")
    found = doctor.package_versions()
    assert found["no-such-distribution"] is None and found["without-a-version"] == "installed, version unknown"
    versions = {**found, "pillow": None, "tqdm": None, "scipy": "1.0"}
    assert ("pillow and tqdm not installed", 'pip install "texalign[demo]"') in doctor.missing_pieces(versions)
    assert not any("mano" in command for _, command in doctor.missing_pieces(versions))


def pretend(monkeypatch, reasons):
    """Let backends fail on the CPU and on a CUDA device that is not there, for reasons[(backend, device type)]."""
    monkeypatch.setattr(doctor, "available_devices", lambda: [CPU, CUDA])
    monkeypatch.setattr(doctor, "describe", lambda device: f"a pretended {device.type}")
    monkeypatch.setattr(rasterize, "unavailable_reason", lambda name, device: reasons.get((name, device.type)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def test_doctor_gives_the_install_command_where_cuda_lacks_nvdiffrast(monkeypatch, capsys):
    reason = f"RuntimeError: nvdiffrast cannot be imported; install it: {rasterize.INSTALL_NVDIFFRAST}"
    pretend(monkeypatch, {("nvdiffrast", "cpu"): "needs a CUDA device", ("nvdiffrast", "cuda"): reason})
    diagnosis = doctor.diagnose()
    assert [report.automatic for report in diagnosis.devices] == ["torch", "torch"]
    assert [report.remedy for report in diagnosis.backends] == [None, None, None, rasterize.INSTALL_NVDIFFRAST]
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"to fix: {rasterize.INSTALL_NVDIFFRAST}" in printed and "auto takes torch" in printed
    pretend(monkeypatch, {("nvdiffrast", "cuda"): "ImportError: undefined symbol"})
    assert doctor.diagnose().backends[-1].remedy == f"{rasterize.INSTALL_NVDIFFRAST} --force-reinstall --no-deps"


def test_doctor_fails_when_the_cpu_does(monkeypatch, capsys):
    pretend(monkeypatch, {(name, kind): "broken" for name in rasterize.backend_names() for kind in ("cpu", "cuda")})
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "torch on cpu            does not run: broken" in printed
    assert "no backend runs here" in printed and "its torch backend fails on the CPU" in printed
    assert "pip install --force-reinstall torch" in printed


@pytest.mark.slow
def test_commands_need_no_optional_package():
    code = """
import sys
for name in ("PIL", "tqdm", "scipy", "smplx", "manotorch", "nvdiffrast", "hypothesis"):
    sys.modules[name] = None
from texalign.cli import main
sys.exit(main(["doctor"]))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr

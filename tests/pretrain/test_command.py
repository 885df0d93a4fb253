from __future__ import annotations

import sys

import pytest
import torch

import texalign as ta
from texalign.cli import main
from texalign.pretrain import training

pytestmark = pytest.mark.usefixtures("quick")


def command(folder, *more, steps=2):
    sizes = ["--steps", str(steps), "--batch-size", "2", "--image-size", "32"]
    return main(["pretrain", "--output", str(folder), *sizes, *more])


@pytest.mark.slow
def test_the_command_trains_says_where_and_resumes(photographs, tmp_path, capsys, monkeypatch):
    more = ["--photographs", str(photographs), "--frames", "8-12", "--start", "bundled", "--rate", "1e-4"]
    assert command(tmp_path, "--photograph-share", "1", *more) == 0
    told = capsys.readouterr()
    assert f"checkpoint: {tmp_path / 'checkpoint.pt'}" in told.out and "the same command again resumes" in told.out
    assert "visible l1 over mean colour: " in told.out
    assert "texalign pretrain" in told.err and "2/2" in told.err and "l1=" in told.err  # tqdm's bar
    assert "photographs: 4, and 1 left out" in told.out and "hand fitted to 5 of 5 photographs" in told.err
    provenance = ta.UVTextureEncoder.from_pretrained(tmp_path).provenance
    assert provenance["started_from"] == ta.UVTextureEncoder.from_pretrained().provenance
    assert provenance["settings"]["photograph_share"] == 1 and provenance["settings"]["rate"] == 1e-4
    monkeypatch.setattr(training, "train_step", None)  # nothing is left to do
    assert command(tmp_path, "--photograph-share", "1", *more) == 0
    assert "hand fitted" not in capsys.readouterr().err, "fits are kept"
    assert command(tmp_path, *more) == 2  # half of the images, by default
    assert "expected the settings of" in capsys.readouterr().err


def test_without_tqdm_there_are_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(training, "train_step", lambda *args: {"l1": 0.25, "likelihood": -1.0})
    assert command(tmp_path, steps=30) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step 25/30", "step 30/30"]
    assert lines[0].endswith("min left") and "l1 0.2500, likelihood -1.0000" in lines[0]


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    mistakes = [
        ("run", ["--batch-size", "3"], "expected batch_size to be a multiple of 2"),
        ("run", ["--start", str(tmp_path / "none")], "no such"),
        ("run", ["--photographs", str(tmp_path / "none")], "annotations.npz (see docs/photographs.md)"),
        ("run", ["--photograph-share", "0.5"], "expected --photographs DIR with --photograph-share"),
        ("file", [], "File exists"),
    ]
    if not torch.cuda.is_available():
        mistakes.append(("run", ["--device", "cuda"], "expected a CUDA device"))
    for folder, more, message in mistakes:
        assert command(tmp_path / folder, *more) == 2
        error = capsys.readouterr().err
        assert error.startswith("texalign: ") and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: --output"),
        (["--output", "x", "--steps", "0"], "expected a number above 0, got 0"),
        (["--output", "x", "--image-size", "big"], "invalid positive value: 'big'"),
        (["--output", "x", "--frames", "9-2"], "expected FIRST-LAST, as 0-99, got 9-2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

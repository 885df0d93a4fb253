from __future__ import annotations

import math
import signal
import sys

import pytest
import torch
from PIL import Image

import texalign as ta
from texalign.cli import main, pretrain_pictures
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
    assert "start: the bundled prior, trained on synthetic images only" in told.out
    line = next(line for line in told.out.splitlines() if line.startswith("visible l1 over mean colour"))
    assert 0 < float(line.split()[-2]) < 5 and line.split()[-1] == "0.4043"  # the bundled prior's
    with Image.open(tmp_path / "held_out_000002.png") as sheet:
        assert sheet.size == (4 * 192, 26 + 4 * 192)
    assert (tmp_path / "held_out_errors.png").stat().st_size > 0
    assert "texalign pretrain" in told.err and "2/2" in told.err and "l1=" in told.err  # tqdm's bar
    assert "photographs: 4, and 1 left out" in told.out and "hand fitted to 5 of 5 photographs" in told.err
    provenance = ta.UVTextureEncoder.from_pretrained(tmp_path).provenance
    assert provenance["started_from"] == ta.UVTextureEncoder.from_pretrained().provenance
    assert provenance["settings"]["photograph_share"] == 1 and provenance["settings"]["rate"] == 1e-4
    monkeypatch.setattr(training, "train_step", None)  # nothing is left to do
    assert command(tmp_path, "--photograph-share", "1", *more) == 0
    assert "hand fitted" not in capsys.readouterr().err, "fits are kept"
    assert command(tmp_path, *more) == 2  # half of the images, by default
    assert "got photograph_share 1.0 → 0.5\n" in capsys.readouterr().err


def test_ctrl_c_ends_the_step_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def step(*arguments):
        signal.raise_signal(signal.SIGINT)
        return {"l1": math.nan, "likelihood": math.nan}

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(training, "train_step", step)
    assert command(tmp_path) == 130
    told = capsys.readouterr().err
    assert (
        f"stopped after step 1, which {tmp_path / 'checkpoint.pt'} holds" in told and "the same command again" in told
    )
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(training, "train_step", lambda *arguments: {"l1": math.nan, "likelihood": math.nan})
    assert command(tmp_path) == 0
    assert "in 1 steps nothing of a hand was observed" in capsys.readouterr().err  # of those since it went on


def test_curves_are_drawn_where_errors_are_known():
    errors = {"visible_l1_over_mean_colour": 0.5, "hidden_l1_over_mean_colour": None}
    reference = {f"{name}_l1_over_mean_colour": 0.2 + 0.2 * at for at, name in enumerate(pretrain_pictures.CURVES)}
    picture = pretrain_pictures.curves([(500, errors), (1000, errors)], reference)
    lines = {
        name: int((picture - torch.tensor(colour)[:, None, None] / 255).abs().sum(dim=0).lt(0.02).sum())
        for name, colour in pretrain_pictures.CURVES.items()
    }
    # Half of the width is 260 pixels, twice as thick; the others have only dots at the reference.
    assert lines["visible"] > lines["hidden"] + 400 and lines["hidden"] > 100


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
        (["--output", "x", "--steps", "0"], "expected 1 to 2147483647, got 0"),
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

from __future__ import annotations

import builtins

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
def test_the_command_trains_says_where_and_resumes(tmp_path, capsys, monkeypatch):
    assert command(tmp_path / "run") == 0
    told = capsys.readouterr()
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoint.pt'}" in told.out
    assert "the same command again resumes" in told.out
    assert "texalign pretrain" in told.err and "2/2" in told.err and "l1=" in told.err  # tqdm's bar
    assert "visible l1 over mean colour: " in told.out
    encoder = ta.UVTextureEncoder.from_pretrained(tmp_path / "run")
    assert encoder.provenance["settings"]["image_size"] == 32
    monkeypatch.setattr(training, "train_step", None)  # nothing is left to do
    assert command(tmp_path / "run") == 0


@pytest.mark.slow
def test_the_command_mixes_in_photographs(photographs, tmp_path, capsys, monkeypatch):
    torch.manual_seed(2)
    training.UVTextureEncoder(ta.HandSurface.mano()).save_pretrained(tmp_path / "start", {"trained_on": "nothing"})
    more = ["--photographs", str(photographs), "--frames", "8-12", "--start", str(tmp_path / "start"), "--rate", "1e-4"]
    assert command(tmp_path / "run", "--photograph-share", "1", *more) == 0
    told = capsys.readouterr()
    assert "photographs: 4, and 1 left out" in told.out and "hand fitted to 5 of 5 photographs" in told.err
    provenance = ta.UVTextureEncoder.from_pretrained(tmp_path / "run").provenance
    assert provenance["trained_on"] == "4 photographs; before that nothing"
    assert provenance["settings"]["photograph_share"] == 1 and provenance["settings"]["rate"] == 1e-4
    assert (tmp_path / "run" / "fits.npz").is_file()
    monkeypatch.setattr(training, "train_step", None)
    assert command(tmp_path / "run", "--photograph-share", "1", *more) == 0
    assert "hand fitted" not in capsys.readouterr().err, "fits are kept"
    assert command(tmp_path / "run", *more) == 2  # half of the images, by default
    assert "expected the settings of" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_begins_with_the_bundled_weights(tmp_path):
    assert command(tmp_path / "run", "--start", "bundled", steps=1) == 0
    encoder, bundled = ta.UVTextureEncoder.from_pretrained(tmp_path / "run"), ta.UVTextureEncoder.from_pretrained()
    assert encoder.provenance["started_from"] == bundled.provenance
    assert encoder.architecture == bundled.architecture


def test_without_tqdm_there_are_plain_lines(tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "tqdm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(training, "train_step", lambda *args: {"l1": 0.25, "likelihood": -1.0})
    assert command(tmp_path, "--seed", "3", steps=30) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step 25/30", "step 30/30"]
    assert lines[0].endswith("min left") and "l1 0.2500, likelihood -1.0000" in lines[0]


def test_an_interrupted_command_says_so(tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_step", interrupt)
    assert command(tmp_path) == 130
    assert "texalign: interrupted" in capsys.readouterr().err


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    assert command(tmp_path / "run", steps=1) == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    mistakes = [
        (tmp_path / "run", ["--seed", "9"], "expected the settings of"),
        (tmp_path / "run", ["--batch-size", "3"], "expected batch_size to be a multiple of 2"),
        (tmp_path / "run", ["--start", str(tmp_path / "none")], "no such"),
        (tmp_path / "run", ["--photographs", str(tmp_path / "none")], "annotations.npz (see docs/photographs.md)"),
        (tmp_path / "run", ["--photograph-share", "0.5"], "expected --photographs DIR with --photograph-share"),
        (tmp_path / "run", ["--frames", "0-5"], "expected --photographs DIR with --frames"),
        (tmp_path / "file", [], "File exists"),
    ]
    if not torch.cuda.is_available():
        mistakes.append((tmp_path / "gpu", ["--device", "cuda"], "expected a CUDA device"))
    for folder, more, message in mistakes:
        assert command(folder, *more, steps=1) == 2
        error = capsys.readouterr().err
        assert error.startswith("texalign: ") and message in error and len(error.splitlines()) == 1
    assert main(["pretrain", "--output", str(tmp_path / "small"), "--image-size", "8"]) == 2
    assert "expected image_size >= 16, got 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: --output"),
        (["--output", "x", "--steps", "0"], "expected a number above 0, got 0"),
        (["--output", "x", "--batch-size", "-3"], "expected a number above 0, got -3"),
        (["--output", "x", "--image-size", "big"], "invalid _positive value: 'big'"),
        (["--output", "x", "--seed", "-1"], "expected 0 to"),
        (["--output", "x", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["--output", "x", "--frames", "9-2"], "expected FIRST-LAST, as 0-99, got 9-2"),
        (["--output", "x", "--frames", "-2"], "argument --frames"),
        (["--output", "x", "--rate", "fast"], "invalid float value"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

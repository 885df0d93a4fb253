"""Runs of `pretrain`: what they leave behind, how they resume, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import subprocess
from dataclasses import asdict, replace
from datetime import date

import pytest
import torch
from safetensors.torch import load_file

import texalign as ta
from texalign import synthetic
from texalign.pretrain import PretrainSettings, examples, pretrain, provenance, training
from texalign.pretrain.evaluation import evaluate
from texalign.pretrain.settings import step_generator
from texalign.pretrain.subject import Subject

pytestmark = pytest.mark.usefixtures("quick")
SETTINGS = PretrainSettings(steps=3, batch_size=2, image_size=32, token_count=32, target_count=64)
MIXED = replace(SETTINGS, batch_size=4, photograph_share=0.5)


class KilledError(Exception):
    pass


def killed_after(last):
    def progress(step, numbers):
        if step == last:
            raise KilledError

    return progress


def kill(folder, last, settings=SETTINGS, **options):
    with pytest.raises(KilledError):
        pretrain(folder, settings, checkpoint_every=1, progress=killed_after(last), **options)


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    """A run that nothing interrupted: folder, encoder, and what was reported."""
    folder, told = tmp_path_factory.mktemp("run") / "deep" / "er", []
    encoder = pretrain(
        folder, SETTINGS, checkpoint_every=1, progress=lambda step, numbers: told.append((step, numbers))
    )
    return folder, encoder, told


@pytest.fixture(scope="module")
def mixed_run(quick, fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return folder, pretrain(folder, MIXED, checkpoint_every=1, photographs=fitted)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def same_weights(first, second):
    return same(load_file(first / "model.safetensors"), load_file(second / "model.safetensors"))


# --- a run ----------------------------------------------------------------------------


def test_a_run_leaves_weights_a_log_and_a_checkpoint_and_nothing_else(finished):
    folder, encoder, told = finished
    names = ["checkpoint.pt", "config.json", "log.jsonl", "model.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert [step for step, _ in told] == [line["step"] for line in log(folder)] == [1, 2, 3]
    for line, (_, numbers) in zip(log(folder), told):
        assert {name: line[name] for name in numbers} == numbers
        assert 0 < line["l1"] < 1 and math.isfinite(line["likelihood"]) and line["hours"] >= 0
    assert not encoder.training
    assert same(encoder.state_dict(), ta.UVTextureEncoder.from_pretrained(folder, ta.HandSurface.mano()).state_dict())


def test_where_the_weights_come_from_lies_beside_them(finished):
    folder, encoder, _ = finished
    told = json.loads((folder / "config.json").read_text())["provenance"]
    assert told == encoder.provenance and told["settings"] == asdict(SETTINGS) and told["hours"] >= 0
    assert told["trained_on"] == "synthetic images only (texalign.synthetic)"
    assert told["torch"] == torch.__version__ and told["texalign"] == ta.__version__
    assert date.fromisoformat(told["date"]) <= date.today()
    assert "commit" in told and not {"started_from", "photographs"} & set(told)
    assert told["metrics"] and all(math.isfinite(value) for value in told["metrics"].values())


def test_the_weights_are_an_average_over_the_last_steps_and_have_moved(finished):
    folder, encoder, _ = finished
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and state["settings"] == asdict(SETTINGS)
    assert not same(state["encoder"], encoder.state_dict()) and same(state["average"], encoder.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 2])
def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path, last):
    folder, _, told = finished
    kill(tmp_path, last)
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(1234 + last)  # another process has other random numbers
    again = []
    pretrain(tmp_path, SETTINGS, checkpoint_every=1, progress=lambda *args: again.append(args))
    assert again == told[last - 1 :]  # the killed step had no checkpoint yet
    assert same_weights(folder, tmp_path) and not list(tmp_path.glob("*.tmp"))
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3]


@pytest.mark.slow
def test_another_seed_gives_other_weights_and_checkpoints_do_not_matter(finished, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pretrain(tmp_path / "rare", SETTINGS, checkpoint_every=100)
    assert torch.equal(torch.rand(4), expected), "torch's own random numbers are left alone"
    assert same_weights(finished[0], tmp_path / "rare") and len(log(tmp_path / "rare")) == 1
    pretrain(tmp_path / "seed", replace(SETTINGS, seed=1), checkpoint_every=100)
    assert not same_weights(finished[0], tmp_path / "seed")


def test_a_finished_run_is_not_trained_on(finished, tmp_path):
    folder, encoder, _ = finished
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    again = pretrain(tmp_path, SETTINGS, progress=killed_after(1))
    assert same(encoder.state_dict(), again.state_dict())


@pytest.mark.slow
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save, written = torch.save, []

    def fail_the_second_time(state, path):
        written.append(state["step"])
        if len(written) == 2:
            path.write_bytes(b"half a checkp")
            raise OSError("no space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", fail_the_second_time)
    with pytest.raises(OSError, match="no space left"):
        pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1
    pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    assert written == [1, 2, 2, 3] and not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_held_out_images_are_looked_at_now_and_then_without_a_trace(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "HELD_OUT_EVERY", 2)
    looked = []

    def look(encoder, settings, subject, count=96):
        # The averaged weights are looked at, not those of the last step.
        average = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
        looked.append((count, same(encoder.state_dict(), average)))
        return evaluate(encoder, settings, subject, 2)

    monkeypatch.setattr(training, "evaluate", look)
    encoder = pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    assert ["held_out" in line for line in log(tmp_path)] == [False, True, False]
    assert set(log(tmp_path)[1]["held_out"]) == set(encoder.provenance["metrics"])
    assert looked == [(training.HELD_OUT_COUNT, True), (96, True)]
    assert same_weights(finished[0], tmp_path)


def test_randomness_of_a_step_depends_on_seed_and_step_only():
    def draw(seed, step):
        return tuple(torch.rand(3, generator=step_generator(seed, step, torch.device("cpu"))).tolist())

    assert draw(0, 7) == draw(0, 7)
    drawn = [draw(seed, step) for seed in (0, 1, 7919, 2**63 - 1) for step in (0, 1, 3999)]
    assert len(set(drawn)) == len(drawn)


def test_the_rate_warms_up_and_decays():
    rates = [training.rate_factor(step, 100) for step in range(100)]
    assert rates[:2] == [0.5, 1.0] and max(rates) == 1.0
    assert all(late < early for early, late in itertools.pairwise(rates[2:]))
    assert 0.01 <= rates[-1] < 0.012 and training.rate_factor(0, 1) == 1.0


# --- what cannot be resumed -------------------------------------------------------------


@pytest.mark.parametrize("change", [{"seed": 5}, {"steps": 9}, {"batch_size": 4}, {"rate": 1e-3}])
def test_other_settings_than_the_checkpoints_are_refused(finished, change):
    folder, _, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"pretrain: expected the settings of .*checkpoint\.pt, .*got "):
        pretrain(folder, replace(SETTINGS, **change))
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_another_surface_or_start_than_the_checkpoints_is_refused(finished, surface):
    other = ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces)
    message = rf"the surface of .*checkpoint\.pt, {surface.atlas_id}, got {other.atlas_id}"
    with pytest.raises(ValueError, match=f"pretrain: expected {message}"):
        pretrain(finished[0], SETTINGS, surface=other)
    with pytest.raises(ValueError, match=r"expected the start of .*checkpoint\.pt, None, got \{\}"):
        pretrain(finished[0], SETTINGS, training.UVTextureEncoder(surface))


@pytest.mark.parametrize("name", ["truncated", "empty", "text", "pickle", "something else"])
def test_a_damaged_checkpoint_is_named(finished, tmp_path, name):
    path, good = tmp_path / "checkpoint.pt", (finished[0] / "checkpoint.pt").read_bytes()
    contents = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"not a checkpoint",
        "pickle": pickle.dumps({"settings": print}, protocol=2),
    }
    message = r"a checkpoint in .*checkpoint\.pt, got a damaged file"
    if name in contents:
        path.write_bytes(contents[name])
    else:
        torch.save({"model": torch.zeros(3)}, path)
        message = r"a checkpoint of pretrain in .*checkpoint\.pt"
    with pytest.raises(ValueError, match=f"pretrain: expected {message}"):
        pretrain(tmp_path, SETTINGS)


# --- where it began, and how it fares ---------------------------------------------------


@pytest.mark.slow
def test_a_start_is_kept_in_mind(surface, tmp_path):
    start = training.UVTextureEncoder(surface)
    start.provenance = {"trained_on": "three postcards", "settings": {"seed": 4}}
    before = copy.deepcopy(start.state_dict())
    settings = replace(SETTINGS, steps=2)
    whole = pretrain(tmp_path / "whole", settings, start, checkpoint_every=1)
    assert same(start.state_dict(), before)
    assert whole.provenance["started_from"] == start.provenance
    assert whole.provenance["trained_on"] == "synthetic images only (texalign.synthetic); before that three postcards"
    change = max(float((value - before[name]).abs().max()) for name, value in whole.state_dict().items())
    # A step of Adam moves a weight by hardly more than the rate, and two steps were taken.
    assert 0 < change < 4 * settings.steps * settings.rate

    kill(tmp_path / "killed", 2, settings, start=start)
    other = copy.deepcopy(start)
    other.provenance = {"trained_on": "four postcards"}
    with pytest.raises(ValueError, match=r"expected the start of .*checkpoint\.pt, .*three.*, got .*four"):
        pretrain(tmp_path / "killed", settings, other)
    again = pretrain(tmp_path / "killed", settings, checkpoint_every=1)  # a start is not asked for again
    assert again.provenance["started_from"] == start.provenance
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_evaluation_of_an_untrained_prior_is_that_of_the_mean_colour(surface):
    """Before training every texture is the mean of what was seen."""
    encoder, subject = training.UVTextureEncoder(surface), Subject(None, None, 32, torch.device("cpu"))
    metrics = evaluate(encoder, SETTINGS, subject, count=4)
    names = [f"{name}_l1_over_mean_colour" for name in ("visible", "misaligned", "hidden")]
    assert set(metrics) == {"visible_l1", *names}
    assert metrics[names[0]] == pytest.approx(1, abs=0.2) and metrics[names[2]] == pytest.approx(1, abs=0.25)
    assert metrics[names[1]] > 0.9 and 0.01 < metrics["visible_l1"] < 0.3
    assert evaluate(encoder, SETTINGS, subject, count=4) == metrics


def test_hidden_texels_are_looked_for_in_the_other_image(monkeypatch):
    """A prior that knows the image it is shown, and nothing else: exact where visible, wrong where hidden."""
    generate = synthetic.generate

    def red_and_blue(*arguments, **options):
        batch = generate(*arguments, **options)
        colour = torch.zeros_like(batch.image)
        colour[0::2, 0], colour[1::2, 2] = 1, 1
        return replace(batch, image=colour)

    class Shown(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, observations):
            return observations.rgb[:, :1].transpose(1, 2)[..., None].expand(-1, -1, 16, 16)

    monkeypatch.setattr(synthetic, "generate", red_and_blue)
    settings, subject = replace(SETTINGS, batch_size=4, image_size=64), Subject(None, None, 64, torch.device("cpu"))
    metrics = evaluate(Shown(), settings, subject, count=8)
    assert metrics["visible_l1"] < 1e-6
    assert metrics["hidden_l1_over_mean_colour"] == pytest.approx(1, abs=1e-3)
    # What the image itself shows is not hidden: if it shows everything, nothing is.
    shown = torch.ones(4, 1, 64, 64)
    monkeypatch.setattr(ta.TexturedHandRenderer, "unwrap", lambda *arguments, **options: (None, shown))
    assert evaluate(Shown(), settings, subject, count=8)["hidden_l1_over_mean_colour"] == 0


def test_provenance_in_words():
    only = provenance.SYNTHETIC_ONLY
    assert provenance.trained_on(True, 0, None) == only
    assert provenance.trained_on(True, 0, {"trained_on": only}) == only
    assert provenance.trained_on(True, 7, None) == "synthetic images (texalign.synthetic) and 7 photographs"
    assert provenance.trained_on(False, 7, {"trained_on": only}) == "7 photographs"
    assert provenance.trained_on(True, 0, {}) == f"{only}; before that unknown images"


def test_the_commit_is_that_of_the_checkout_that_holds_the_files(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "package"
    package.mkdir()
    assert provenance.commit(package) is provenance.commit(tmp_path / "nowhere") is None

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        run = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    try:
        git("init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (tmp_path / "other").write_text("1")
    git("add", "other")
    git("commit", "-m", "one")
    (package / "module.py").write_text("1")
    assert provenance.commit(package) is None, "files that git does not know are not of the commit"
    git("add", "package")
    git("commit", "-m", "two")
    assert provenance.commit(package) == git("rev-parse", "--short=7", "HEAD")
    (package / "module.py").write_text("2")
    assert provenance.commit(package) == git("rev-parse", "--short=7", "HEAD") + "-dirty"


# --- photographs ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_photographs_says_so_and_differs(mixed_run, fitted, tmp_path):
    folder, encoder = mixed_run
    told = json.loads((folder / "config.json").read_text())["provenance"]
    assert told == encoder.provenance and told["settings"]["photograph_share"] == 0.5
    assert told["trained_on"] == "synthetic images (texalign.synthetic) and 5 photographs"
    assert told["photographs"] == {"used": 5, "left_out": 1, "fitted": True, "fingerprint": fitted.fingerprint}
    pretrain(tmp_path, replace(MIXED, photograph_share=0.0), checkpoint_every=100)
    assert not same_weights(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 3])
def test_a_killed_run_on_photographs_resumes_to_the_same_weights(mixed_run, fitted, tmp_path, last):
    kill(tmp_path, last, MIXED, photographs=fitted)
    torch.manual_seed(77 + last)
    pretrain(tmp_path, MIXED, checkpoint_every=1, photographs=fitted)
    assert same_weights(mixed_run[0], tmp_path)


@pytest.mark.slow
def test_a_run_of_photographs_only_with_meshes_of_their_own(meshed, tmp_path, monkeypatch):
    monkeypatch.setattr(examples.synthetic, "generate", None)  # no synthetic image is made
    monkeypatch.setattr(training, "evaluate", lambda *arguments: {})
    encoder = pretrain(tmp_path, replace(MIXED, photograph_share=1.0), photographs=meshed)
    assert encoder.provenance["trained_on"] == "5 photographs"
    assert encoder.provenance["photographs"]["fitted"] is False


@pytest.mark.slow
def test_other_photographs_than_the_checkpoints_are_refused(mixed_run, meshed):
    folder, _ = mixed_run
    with pytest.raises(ValueError, match=r"expected the photographs of .*checkpoint\.pt, .*'used': 5"):
        pretrain(folder, MIXED, photographs=meshed)
    with pytest.raises(ValueError, match=r"expected the settings of .*checkpoint\.pt"):
        pretrain(folder, replace(MIXED, photograph_share=1.0), photographs=meshed)


def test_photographs_and_their_share_come_together(meshed, tmp_path):
    with pytest.raises(ValueError, match=r"expected photographs for photograph_share above 0, none for 0, got none"):
        pretrain(tmp_path / "run", MIXED)
    with pytest.raises(ValueError, match=r"none for 0, got photographs for 0\.0"):
        pretrain(tmp_path / "run", SETTINGS, photographs=meshed)
    with pytest.raises(ValueError, match=r"expected photographs of 64 pixels, got others"):
        pretrain(tmp_path / "run", replace(MIXED, image_size=64), photographs=meshed)
    assert not (tmp_path / "run").exists()

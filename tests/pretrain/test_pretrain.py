"""Runs of `pretrain`: what they leave behind, how they resume, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import shutil
import subprocess
from dataclasses import asdict, replace
from datetime import date

import pytest
import torch
from safetensors.torch import load_file

import texalign as ta
from texalign import synthetic
from texalign.pretrain import PretrainSettings, pretrain, provenance, training
from texalign.pretrain.evaluation import evaluate
from texalign.pretrain.subject import Subject

pytestmark = pytest.mark.usefixtures("quick")
SETTINGS = PretrainSettings(steps=3, batch_size=2, image_size=32, token_count=32, target_count=64)
MIXED = replace(SETTINGS, batch_size=4, photograph_share=0.5)


def run(folder, settings=SETTINGS, **options):
    """What was reported of a run that writes a checkpoint at every step."""
    told = []
    pretrain(folder, settings, checkpoint_every=1, progress=lambda *args: told.append(args), **options)
    return told


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    """A run that nothing interrupted: its folder, and what was reported."""
    folder = tmp_path_factory.mktemp("run") / "deep" / "er"
    return folder, run(folder)


@pytest.fixture(scope="module")
def mixed_run(quick, fitted, tmp_path_factory):
    """The same with photographs."""
    folder = tmp_path_factory.mktemp("mixed")
    return folder, run(folder, MIXED, photographs=fitted)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_run_leaves_weights_a_log_and_a_checkpoint_and_nothing_else(finished):
    folder, told = finished
    names = ["checkpoint.pt", "config.json", "log.jsonl", "model.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert [step for step, _ in told] == [line["step"] for line in log(folder)] == [1, 2, 3]
    for line, (_, numbers) in zip(log(folder), told):
        assert {name: line[name] for name in numbers} == numbers
        assert 0 < line["l1"] < 1 and math.isfinite(line["likelihood"]) and line["hours"] >= 0
    # The weights are an average over the last steps.
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert same(state["average"], weights(folder)) and not same(state["encoder"], weights(folder))


def test_where_the_weights_come_from_lies_beside_them(finished):
    told = ta.UVTextureEncoder.from_pretrained(finished[0], ta.HandSurface.mano()).provenance
    assert told["settings"] == asdict(SETTINGS) and told["hours"] >= 0
    assert told["trained_on"] == "synthetic images only (texalign.synthetic)"
    assert told["torch"] == torch.__version__ and told["texalign"] == ta.__version__
    assert date.fromisoformat(told["date"]) <= date.today()
    assert "commit" in told and not {"started_from", "photographs"} & set(told)
    assert told["metrics"] and all(math.isfinite(value) for value in told["metrics"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finished", "mixed_run"])
def test_a_killed_run_resumes_to_the_same_weights(name, fitted, request, tmp_path):
    folder, told = request.getfixturevalue(name)
    settings, photographs = (SETTINGS, None) if name == "finished" else (MIXED, fitted)

    def kill(step, numbers):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, settings, checkpoint_every=1, progress=kill, photographs=photographs)
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(1234)  # another process has other random numbers
    assert run(tmp_path, settings, photographs=photographs) == told[2:]  # the interrupted step left a checkpoint
    assert same(weights(folder), weights(tmp_path)) and not list(tmp_path.glob("*.partial"))
    assert [line["step"] for line in log(tmp_path)] == [1, 3]


@pytest.mark.slow
def test_the_seed_decides_and_neither_checkpoints_nor_torchs_own_random_numbers(finished, tmp_path):
    before = torch.get_rng_state()
    pretrain(tmp_path / "rare", SETTINGS, checkpoint_every=100)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(finished[0]), weights(tmp_path / "rare")) and len(log(tmp_path / "rare")) == 1
    run(tmp_path / "seed", replace(SETTINGS, seed=1))
    assert not same(weights(finished[0]), weights(tmp_path / "seed"))


def test_a_finished_run_is_not_trained_on(finished, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes((finished[0] / "checkpoint.pt").read_bytes())
    assert run(tmp_path) == [] and same(weights(finished[0]), weights(tmp_path))


@pytest.mark.slow
def test_more_steps_may_be_asked_of_a_finished_run_but_not_fewer(finished, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes((finished[0] / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"expected the settings of .*checkpoint\.pt, got steps 3 → 2$"):
        run(tmp_path, replace(SETTINGS, steps=2))
    assert [step for step, _ in run(tmp_path, replace(SETTINGS, steps=5))] == [4, 5]
    told = ta.UVTextureEncoder.from_pretrained(tmp_path).provenance
    assert told["step_targets"] == [3, 5] and told["settings"]["steps"] == 5
    assert not same(weights(finished[0]), weights(tmp_path))


@pytest.mark.slow
def test_held_out_images_are_looked_at_now_and_then_without_a_trace(finished, tmp_path):
    looked = []
    run(tmp_path, watch=lambda step, encoder: looked.append((step, encoder.state_dict())))
    assert ["held_out" in line for line in log(tmp_path)] == [False, True, False]
    assert [step for step, _ in looked] == [2, 3] and same(looked[1][1], weights(tmp_path))
    assert same(weights(finished[0]), weights(tmp_path))


def written(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_a_run_other_than_the_checkpoints_is_refused(finished, surface):
    folder, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    other = ta.HandSurface(surface.faces, surface.uv * 0.999, surface.uv_faces)
    with pytest.raises(ValueError, match=r"pretrain: expected the settings of .*checkpoint\.pt, got seed 0 → 5$"):
        pretrain(folder, replace(SETTINGS, seed=5))
    with pytest.raises(ValueError, match=rf"the surface of .*, got {surface.atlas_id} → {other.atlas_id}"):
        pretrain(folder, SETTINGS, surface=other)
    with pytest.raises(ValueError, match=r"expected the start of .*checkpoint\.pt, got none → others$"):
        pretrain(folder, SETTINGS, training.UVTextureEncoder(surface))
    assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK not all of it", "a checkpoint in .*, got a damaged file"),
        (pickle.dumps({"settings": print}, protocol=2), "a checkpoint in .*, got a damaged file"),
        (written({"model": torch.zeros(3)}), "a checkpoint of pretrain in "),
    ],
    ids=["damaged", "code", "something else"],
)
def test_what_is_no_checkpoint_is_named(content, message, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=f"pretrain: expected {message}"):
        pretrain(tmp_path, SETTINGS)


@pytest.mark.slow
def test_a_start_is_kept_in_mind(surface, tmp_path):
    start = training.UVTextureEncoder(surface)
    start.provenance = {"trained_on": "three postcards", "settings": {"seed": 4}}
    before = copy.deepcopy(start.state_dict())
    run(tmp_path, start=start)
    assert same(start.state_dict(), before)
    told = ta.UVTextureEncoder.from_pretrained(tmp_path).provenance
    assert told["started_from"] == start.provenance
    assert told["trained_on"] == "synthetic images only (texalign.synthetic); before that three postcards"
    change = max(float((value - before[name]).abs().max()) for name, value in weights(tmp_path).items())
    # A step of Adam moves a weight by hardly more than the rate.
    assert 0 < change < 4 * SETTINGS.steps * SETTINGS.rate
    assert run(tmp_path) == [], "a start is not asked for again"


def test_evaluation_of_an_untrained_prior_is_that_of_the_mean_colour(surface):
    """Before training every texture is the mean of what was seen."""
    encoder, subject = training.UVTextureEncoder(surface), Subject(None, None, 32, torch.device("cpu"))
    metrics = evaluate(encoder, SETTINGS, subject, count=4)
    assert 0.01 < metrics["visible_l1"] < 0.3 and metrics["misaligned_l1_over_mean_colour"] > 0.9
    for name in ("visible", "hidden"):
        assert metrics[f"{name}_l1_over_mean_colour"] == pytest.approx(1, abs=0.25)
    assert evaluate(encoder, SETTINGS, subject, count=4) == metrics


def test_hidden_texels_are_looked_for_in_the_other_image(monkeypatch):
    """By a prior that knows the image it is shown, and nothing else: exact where visible, wrong where hidden."""
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


def test_nothing_to_learn_is_no_success(tmp_path):
    """Hands that no image shows: NaN and null in the place of an error of 0."""
    told = run(tmp_path, replace(SETTINGS, steps=1), vertices_of=lambda vertices: vertices - 100)  # behind the camera
    assert all(math.isnan(value) for value in told[0][1].values())
    assert log(tmp_path)[0]["l1"] is None and log(tmp_path)[0]["likelihood"] is None
    metrics = ta.UVTextureEncoder.from_pretrained(tmp_path).provenance["metrics"]
    assert len(metrics) == 4 and set(metrics.values()) == {None}


def test_photographs_that_show_nothing_are_refused_and_some_are_counted(meshed, tmp_path):
    settings = replace(SETTINGS, photograph_share=1.0)

    def hidden(rows):
        mask = meshed.photographs.mask.clone()
        mask[rows] = 0
        return replace(meshed, photographs=replace(meshed.photographs, mask=mask))

    with pytest.raises(
        ValueError, match="expected photographs whose mesh lies in the image and on its mask's skin, got none of 5"
    ):
        pretrain(tmp_path, settings, photographs=hidden(slice(None)))
    assert not list(tmp_path.iterdir()), "before any training"
    with pytest.warns(
        UserWarning, match="pretrain: 2 of 5 photographs have no vertex in the image and on its mask's skin"
    ):
        Subject(None, None, 32, torch.device("cpu")).check(hidden([1, 3]))
    beside = replace(meshed, vertices=meshed.vertices + torch.tensor([5.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="got none of 5"):
        pretrain(tmp_path, settings, photographs=beside)


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
    assert provenance.commit(tmp_path) is provenance.commit(tmp_path / "nowhere") is None

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git("init")
    git("commit", "--allow-empty", "-m", "one")
    (tmp_path / "module.py").write_text("1")
    assert provenance.commit(tmp_path) is None, "files that git does not know are not of the commit"
    git("add", ".")
    assert provenance.commit(tmp_path) == git("rev-parse", "--short=7", "HEAD").strip() + "-dirty"


@pytest.mark.slow
def test_a_run_on_photographs_says_so_and_is_resumed_with_the_same_only(mixed_run, fitted, meshed):
    folder, _ = mixed_run
    told = json.loads((folder / "config.json").read_text())["provenance"]
    assert told["settings"]["photograph_share"] == 0.5
    assert told["trained_on"] == "synthetic images (texalign.synthetic) and 5 photographs"
    assert told["photographs"] == {"used": 5, "left_out": 1, "fitted": True, "fingerprint": fitted.fingerprint}
    with pytest.raises(ValueError, match=r"expected the photographs of .*checkpoint\.pt, got left_out 1 → 0, fitted"):
        pretrain(folder, MIXED, photographs=meshed)


@pytest.mark.slow
def test_a_run_of_photographs_only_with_meshes_of_their_own(meshed, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "generate", None)  # no synthetic image is made
    monkeypatch.setattr(training, "evaluate", lambda *arguments: {})
    told = pretrain(tmp_path, replace(MIXED, photograph_share=1.0), photographs=meshed).provenance
    assert told["trained_on"] == "5 photographs" and told["photographs"]["fitted"] is False


def test_photographs_and_their_share_come_together(meshed, tmp_path):
    message = "expected photographs for photograph_share above 0, none for 0, got "
    with pytest.raises(ValueError, match=message + "none for 0.5"):
        pretrain(tmp_path / "run", MIXED)
    with pytest.raises(ValueError, match=message + "photographs for 0.0"):
        pretrain(tmp_path / "run", SETTINGS, photographs=meshed)
    with pytest.raises(ValueError, match="expected photographs of 64 pixels, got others"):
        pretrain(tmp_path / "run", replace(MIXED, image_size=64), photographs=meshed)
    assert not (tmp_path / "run").exists()

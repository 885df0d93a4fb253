from __future__ import annotations

import builtins
import itertools
import json
import math
import pickle
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import texalign as ta
from texalign import pretrain, synthetic
from texalign.cli import main
from texalign.pretrain import PretrainSettings

SETTINGS = PretrainSettings(steps=3, batch_size=2, image_size=32, token_count=32, target_count=64)
EVALUATE = pretrain.evaluate


class KilledError(Exception):
    pass


def killed_after(last):
    def progress(step, numbers):
        if step == last:
            raise KilledError

    return progress


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A few held-out images and an encoder a hundredth of the size."""
    monkeypatch.setattr(pretrain, "evaluate", partial(EVALUATE, count=2))
    small = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}
    monkeypatch.setattr(pretrain, "UVTextureEncoder", partial(ta.UVTextureEncoder, **small))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted: folder, encoder, and what was reported."""
    folder, told = tmp_path_factory.mktemp("run") / "deep" / "er", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "evaluate", partial(EVALUATE, count=2))
        small = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}
        patch.setattr(pretrain, "UVTextureEncoder", partial(ta.UVTextureEncoder, **small))
        encoder = pretrain.pretrain(
            folder, SETTINGS, checkpoint_every=1, progress=lambda step, numbers: told.append((step, numbers))
        )
    return folder, encoder, told


def same_weights(first, second):
    first, second = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- a run ----------------------------------------------------------------------


def test_a_run_leaves_weights_a_log_and_a_checkpoint_and_nothing_else(finished):
    folder, encoder, told = finished
    assert sorted(file.name for file in folder.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "log.jsonl",
        "model.safetensors",
    ]
    assert [step for step, _ in told] == [1, 2, 3]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, (_, numbers) in zip(lines, told):
        assert {name: line[name] for name in numbers} == numbers
        assert math.isfinite(line["l1"]) and 0 < line["l1"] < 1 and math.isfinite(line["likelihood"])
        assert line["hours"] >= 0
    assert not encoder.training
    loaded = ta.UVTextureEncoder.from_pretrained(folder, ta.HandSurface.mano())
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_where_the_weights_come_from_lies_beside_them(finished):
    folder, encoder, _ = finished
    provenance = json.loads((folder / "config.json").read_text())["provenance"]
    assert provenance == encoder.provenance
    assert provenance["settings"] == asdict(SETTINGS)
    assert provenance["hours"] >= 0
    assert provenance["metrics"] and all(math.isfinite(value) for value in provenance["metrics"].values())


def test_the_weights_are_an_average_over_the_last_steps_and_have_moved(finished):
    folder, encoder, _ = finished
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and state["settings"] == asdict(SETTINGS)
    moved = [not torch.equal(state["encoder"][name], value) for name, value in encoder.state_dict().items()]
    assert any(moved)
    assert all(torch.equal(state["average"][name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("last", [1, 2])
def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path, last):
    folder, _, told = finished
    with pytest.raises(KilledError):
        pretrain.pretrain(tmp_path, SETTINGS, checkpoint_every=1, progress=killed_after(last))
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(1234 + last)  # another process has other random numbers
    again = []
    pretrain.pretrain(tmp_path, SETTINGS, checkpoint_every=1, progress=lambda *args: again.append(args))
    assert again == told[last - 1 :]  # the killed step had no checkpoint yet
    assert same_weights(folder, tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_another_seed_gives_other_weights_and_checkpoints_do_not_matter(finished, tmp_path):
    folder, _, _ = finished
    pretrain.pretrain(tmp_path / "rare", SETTINGS, checkpoint_every=100)
    assert same_weights(folder, tmp_path / "rare")
    assert len((tmp_path / "rare" / "log.jsonl").read_text().splitlines()) == 1
    pretrain.pretrain(tmp_path / "seed", replace(SETTINGS, seed=1), checkpoint_every=100)
    assert not same_weights(folder, tmp_path / "seed")


def test_a_finished_run_is_not_trained_on(finished, tmp_path):
    folder, encoder, _ = finished
    (tmp_path / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    again = pretrain.pretrain(tmp_path, SETTINGS, progress=killed_after(1))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())


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
        pretrain.pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1
    pretrain.pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    assert written == [1, 2, 2, 3]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("change", [{"seed": 5}, {"steps": 9}, {"batch_size": 3}, {"rate": 1e-3}])
def test_other_settings_than_the_checkpoints_are_refused(finished, change):
    folder, _, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"pretrain: expected the settings of .*checkpoint\.pt, .*got "):
        pretrain.pretrain(folder, replace(SETTINGS, **change))
    assert (folder / "checkpoint.pt").read_bytes() == before


def damaged(name, good):
    if name == "truncated":
        return good[: len(good) // 2]
    return {"empty": b"", "text": b"not a checkpoint", "pickle": pickle.dumps({"settings": print}, protocol=2)}[name]


@pytest.mark.parametrize("name", ["truncated", "empty", "text", "pickle"])
def test_a_damaged_checkpoint_is_named(finished, tmp_path, name):
    folder, _, _ = finished
    (tmp_path / "checkpoint.pt").write_bytes(damaged(name, (folder / "checkpoint.pt").read_bytes()))
    with pytest.raises(ValueError, match=r"pretrain: expected a checkpoint in .*checkpoint\.pt, got a damaged file"):
        pretrain.pretrain(tmp_path, SETTINGS)


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    torch.save({"model": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"expected a checkpoint of pretrain in .*checkpoint\.pt"):
        pretrain.pretrain(tmp_path, SETTINGS)


def test_training_leaves_torchs_random_numbers_alone(finished, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pretrain.pretrain(tmp_path, replace(SETTINGS, steps=1))
    assert torch.equal(torch.rand(4), expected)


def test_randomness_of_a_step_depends_on_seed_and_step_only():
    def draw(seed, step):
        return torch.rand(3, generator=pretrain.step_generator(seed, step, torch.device("cpu"))).tolist()

    assert draw(0, 7) == draw(0, 7)
    drawn = [draw(seed, step) for seed in (0, 1, 7919, 2**63 - 1) for step in (0, 1, 3999)]
    assert len({tuple(values) for values in drawn}) == len(drawn)


def test_the_rate_warms_up_and_decays():
    rates = [pretrain._schedule(step, 100) for step in range(100)]
    assert rates[:2] == [0.5, 1.0] and max(rates) == 1.0
    assert all(late < early for early, late in itertools.pairwise(rates[2:]))
    assert 0.01 <= rates[-1] < 0.012
    assert [pretrain._schedule(0, 1)] == [1.0]


# --- its parts --------------------------------------------------------------------


def test_noise_on_the_mesh_is_as_strong_as_said_and_differs_between_hands():
    count = 400
    batch = SimpleNamespace(
        pose=torch.ones(count, 16, 3), betas=torch.zeros(count, 10), translation=torch.zeros(count, 3)
    )
    poses, meshes = [], []

    def model(pose, betas):
        poses.append(pose - 1)
        return SimpleNamespace(vertices=torch.zeros(count, 1, 3))

    meshes = pretrain.perturbed_vertices(model, batch, torch.Generator().manual_seed(0))
    noise = poses[0]
    spread = noise[:, 1:].flatten(1).square().mean(dim=1).sqrt()  # 45 numbers a hand
    assert spread.max() < 1.4 * pretrain.POSE_NOISE
    assert spread.min() < 0.05 * pretrain.POSE_NOISE
    # The strength is even in [0, 1]: its square's mean is a third.
    for values, full in (
        (noise[:, 1:], pretrain.POSE_NOISE),
        (noise[:, 0], pretrain.TURN_NOISE),
        (meshes[:, 0] / torch.tensor(pretrain.SHIFT_NOISE), 1.0),
    ):
        assert values.square().mean().sqrt().item() == pytest.approx(full / math.sqrt(3), rel=0.1)
    # One strength for all of a hand's errors.
    shift = meshes[:, 0].div(torch.tensor(pretrain.SHIFT_NOISE)).norm(dim=1)
    assert torch.corrcoef(torch.stack([spread, shift]))[0, 1] > 0.5


def test_without_noise_the_perturbed_mesh_is_the_batchs(hand, monkeypatch):
    batch = synthetic.generate(2, 32, torch.Generator().manual_seed(0), left_share=0)
    wrong = pretrain.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1)
    assert 1e-4 < error.mean() < 0.03
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(pretrain, name, value)
    same = pretrain.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, batch.vertices, atol=1e-5, rtol=0)


def test_a_side_is_dropped_in_half_of_the_samples():
    generator = torch.Generator().manual_seed(0)
    count, tokens = 400, 60
    valid = torch.rand(count, tokens, generator=generator) > 0.2
    seen = ta.UVObservations(
        torch.rand(count, tokens, 2, generator=generator), torch.rand(count, tokens, 3, generator=generator), valid
    )
    left = pretrain.drop_a_side(seen, generator)
    assert left.uv is seen.uv and left.rgb is seen.rgb
    assert not (left.valid & ~valid).any()
    whole = (left.valid == valid).all(dim=1)
    assert 0.4 < whole.float().mean() < 0.6
    assert left.valid.any(dim=1).all()
    share = left.valid.sum(dim=1) / valid.sum(dim=1)
    assert 0.1 < share[~whole].mean() < 0.8
    # What is kept and what is dropped lie on two sides of a line.
    angle = torch.linspace(0, 2 * math.pi, 721)
    direction = torch.stack([angle.cos(), angle.sin()])
    for sample in (~whole).nonzero()[:20, 0]:
        along = seen.uv[sample] @ direction
        kept, dropped = left.valid[sample], valid[sample] & ~left.valid[sample]
        gap = along[dropped].amin(dim=0) - along[kept].amax(dim=0)
        assert gap.max() > -0.02


def test_nothing_to_drop_stays_nothing():
    for shape in ((0, 5), (2, 5)):
        empty = ta.UVObservations(torch.zeros(*shape, 2), torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.bool))
        left = pretrain.drop_a_side(empty, torch.Generator().manual_seed(0))
        assert left.valid.shape == shape and not left.valid.any()


def test_reading_a_texture_is_what_the_renderer_draws(surface, scene, smooth_texture):
    vertices, camera = scene(2, 64)
    renderer = ta.TexturedHandRenderer(surface, 64, backend="torch")
    image = renderer(vertices, camera, smooth_texture).image
    seen = renderer.observe(vertices, camera, image)
    read = pretrain.read_texture(smooth_texture.expand(2, -1, -1, -1), seen.uv, surface)
    assert read.shape == seen.rgb.shape and seen.valid.sum() > 200
    error = (read - seen.rgb).abs()[seen.valid]
    # Exact, but beside folds too flat to count as edges, which are antialiased.
    assert (error > 1e-4).float().mean() < 0.05 and error.max() < 0.1
    pair = pretrain.read_texture(
        torch.cat([smooth_texture, -smooth_texture], dim=1).expand(2, -1, -1, -1), seen.uv, surface
    )
    torch.testing.assert_close(pair[..., 3:], -pair[..., :3])


def test_the_priors_loss_by_hand(surface):
    texture = torch.full((1, 3, 16, 16), 0.5)
    log_variance = torch.full((1, 1, 16, 16), 2 * math.log(0.2))
    uv = surface.uv[surface.uv_faces[:2]].mean(dim=1)[None]
    targets = ta.UVObservations(
        torch.cat([uv, uv[:, :1]], dim=1),
        torch.tensor([[[0.5, 0.6, 0.8], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]]),
        torch.tensor([[True, True, False]]),
    )
    error, likelihood = pretrain.prior_loss(texture, log_variance, targets, surface)
    first = 0.4 / 3
    assert error.item() == pytest.approx(first / 2, rel=1e-4)
    assert likelihood.item() == pytest.approx(first / 0.2 / 2 + math.log(0.2), rel=1e-4)
    none = ta.UVObservations(targets.uv, targets.rgb, torch.zeros(1, 3, dtype=torch.bool))
    assert [value.item() for value in pretrain.prior_loss(texture, log_variance, none, surface)] == [0.0, 0.0]


def test_evaluation_of_an_untrained_prior_is_that_of_the_mean_colour(surface):
    """Before training every texture is the mean of what was seen."""
    torch.manual_seed(0)
    encoder = pretrain.UVTextureEncoder(surface)
    metrics = EVALUATE(encoder, SETTINGS, count=4)
    assert set(metrics) >= {"visible_l1_over_mean_colour", "misaligned_l1_over_mean_colour"}
    assert all(math.isfinite(value) and value > 0 for value in metrics.values())
    assert metrics["visible_l1_over_mean_colour"] == pytest.approx(1, abs=0.2)
    assert metrics["misaligned_l1_over_mean_colour"] > 0.9
    assert EVALUATE(encoder, SETTINGS, count=4) == metrics


# --- the command --------------------------------------------------------------------


def command(folder, *more, steps=2):
    sizes = ["--steps", str(steps), "--batch-size", "2", "--image-size", "32"]
    return main(["pretrain", "--output", str(folder), *sizes, *more])


def test_the_command_trains_says_where_and_resumes(tmp_path, capsys, monkeypatch):
    assert command(tmp_path / "run") == 0
    told = capsys.readouterr()
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoint.pt'}" in told.out
    assert "the same command again resumes" in told.out
    assert "texalign pretrain" in told.err and "2/2" in told.err and "l1=" in told.err  # tqdm's bar
    assert "visible l1 over mean colour: " in told.out
    encoder = ta.UVTextureEncoder.from_pretrained(tmp_path / "run")
    assert encoder.provenance["settings"]["image_size"] == 32
    monkeypatch.setattr(pretrain, "_train_step", None)  # nothing is left to do
    assert command(tmp_path / "run") == 0


def test_without_tqdm_there_are_plain_lines(tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "tqdm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(pretrain, "_train_step", lambda *args: {"l1": 0.25, "likelihood": -1.0})
    assert command(tmp_path, "--seed", "3", steps=30) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step 25/30", "step 30/30"]
    assert lines[0].endswith("min left") and "l1 0.2500, likelihood -1.0000" in lines[0]


def test_an_interrupted_command_says_so(tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "_train_step", interrupt)
    assert command(tmp_path) == 130
    assert "texalign: interrupted" in capsys.readouterr().err


def test_mistakes_are_told_in_one_line(tmp_path, capsys):
    assert command(tmp_path / "run", steps=1) == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    mistakes = [(tmp_path / "run", ["--seed", "9"], "expected the settings of"), (tmp_path / "file", [], "File exists")]
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
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

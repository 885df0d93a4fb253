from __future__ import annotations

import builtins
import copy
import itertools
import json
import math
import pickle
import subprocess
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import texalign as ta
from photograph_folder import write_folder
from texalign import synthetic
from texalign.cli import main
from texalign.photographs import fit_photographs, read_photographs
from texalign.pretrain import PretrainSettings
from texalign.pretrain import examples as _examples
from texalign.pretrain import provenance as _provenance
from texalign.pretrain import training as pretrain

SETTINGS = PretrainSettings(steps=3, batch_size=2, image_size=32, token_count=32, target_count=64)
SMALL = {"texture_size": 32, "latent_grid": 8, "width": 24, "layers": 1, "heads": 2}
EVALUATE = pretrain.evaluate


class KilledError(Exception):
    pass


def killed_after(last):
    def progress(step, numbers):
        if step == last:
            raise KilledError

    return progress


def shrink(patch):
    patch.setattr(pretrain, "evaluate", lambda encoder, settings, count=2: EVALUATE(encoder, settings, 2))
    patch.setattr(pretrain, "UVTextureEncoder", partial(ta.UVTextureEncoder, **SMALL))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A few held-out images and an encoder a hundredth of the size."""
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted: folder, encoder, and what was reported."""
    folder, told = tmp_path_factory.mktemp("run") / "deep" / "er", []
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
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
    assert provenance["trained_on"] == "synthetic images only (texalign.synthetic)"
    assert provenance["torch"] == torch.__version__ and provenance["texalign"] == ta.__version__
    assert date.fromisoformat(provenance["date"]) <= date.today()
    assert "commit" in provenance and not {"started_from", "photographs"} & set(provenance)
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


@pytest.mark.parametrize("change", [{"seed": 5}, {"steps": 9}, {"batch_size": 4}, {"rate": 1e-3}])
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
    count = 4000
    batch = SimpleNamespace(
        pose=torch.ones(count, 16, 3), betas=torch.zeros(count, 10), translation=torch.zeros(count, 3)
    )
    poses, meshes = [], []

    def model(pose, betas):
        poses.append(pose - 1)
        return SimpleNamespace(vertices=torch.zeros(count, 1, 3))

    meshes = _examples.perturbed_vertices(model, batch, torch.Generator().manual_seed(0))
    noise = poses[0]
    spread = noise[:, 1:].flatten(1).square().mean(dim=1).sqrt()  # 45 numbers a hand
    # The mean square of 45 normals is 1 ± 0.21: 1.6 in its root is out of reach of 4000 hands.
    assert spread.max() < 1.6 * _examples.POSE_NOISE
    assert spread.min() < 0.05 * _examples.POSE_NOISE
    # The strength is even in [0, 1]: its square's mean is a third. Over 4000 hands the root varies by 1.1 % at most.
    for values, full in (
        (noise[:, 1:], _examples.POSE_NOISE),
        (noise[:, 0], _examples.TURN_NOISE),
        (meshes[:, 0] / torch.tensor(_examples.SHIFT_NOISE), 1.0),
    ):
        assert values.square().mean().sqrt().item() == pytest.approx(full / math.sqrt(3), rel=0.1)
    # One strength for all of a hand's errors.
    shift = meshes[:, 0].div(torch.tensor(_examples.SHIFT_NOISE)).norm(dim=1)
    assert torch.corrcoef(torch.stack([spread, shift]))[0, 1] > 0.5


def test_without_noise_the_perturbed_mesh_is_the_batchs(hand, monkeypatch):
    batch = synthetic.generate(2, 32, torch.Generator().manual_seed(0), left_share=0)
    wrong = _examples.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1)
    assert error.min() > 0 and error.mean() < 0.1
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(_examples, name, value)
    same = _examples.perturbed_vertices(hand, batch, torch.Generator().manual_seed(0))
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
    assert 0.375 < whole.float().mean() < 0.625  # five standard deviations of 400 coins
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
    ones = torch.ones(1, 3)
    error, likelihood = pretrain.prior_loss(texture, log_variance, targets, ones, surface)
    first = 0.4 / 3
    assert error.item() == pytest.approx(first / 2, rel=1e-4)
    assert likelihood.item() == pytest.approx(first / 0.2 / 2 + math.log(0.2), rel=1e-4)
    # What counts three times as much has three times the weight in the mean; what is not valid has none.
    error, _ = pretrain.prior_loss(texture, log_variance, targets, torch.tensor([[3.0, 1.0, 5.0]]), surface)
    assert error.item() == pytest.approx(0.75 * first, rel=1e-4)
    none = ta.UVObservations(targets.uv, targets.rgb, torch.zeros(1, 3, dtype=torch.bool))
    assert [value.item() for value in pretrain.prior_loss(texture, log_variance, none, ones, surface)] == [0.0, 0.0]


def test_the_other_view_of_a_hand_is_a_target_too_and_counts_less():
    targets = ta.UVObservations(
        torch.arange(4.0)[:, None, None].expand(4, 5, 2) / 10,
        torch.arange(4.0)[:, None, None].expand(4, 5, 3) / 10 + 0.5,
        torch.tensor([True, False, True, True])[:, None].expand(4, 5),
    )
    both, counts = pretrain.with_other_view(targets, torch.tensor([0, 0, 2, 3]))
    share = pytest.approx(pretrain.OTHER_VIEW_SHARE)
    for row, (own, other) in enumerate([(0, 1), (1, 0), (2, 3), (3, 2)]):
        for name in ("uv", "rgb", "valid"):
            given, made = getattr(targets, name), getattr(both, name)
            assert torch.equal(made[row], torch.cat([given[own], given[other]])), name
        # The last pair shows two hands: what one looks like says nothing about the other.
        assert counts[row, :5].tolist() == [1] * 5
        assert counts[row, 5:].tolist() == [share if row < 2 else 0] * 5


def test_some_samples_show_nothing():
    valid = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    seen = ta.UVObservations(torch.zeros(2000, 3, 2), torch.zeros(2000, 3, 3), valid)
    left = pretrain.forget_some(seen, 0.2, torch.Generator().manual_seed(0))
    gone = ~left.valid.any(dim=1) & valid.any(dim=1)
    assert gone.float().mean().item() == pytest.approx(0.2, abs=0.045)  # five standard deviations of 2000
    assert torch.equal(left.valid[~gone], valid[~gone])
    assert torch.equal(pretrain.forget_some(seen, 0.0, torch.Generator()).valid, valid)
    assert not pretrain.forget_some(seen, 1.0, torch.Generator()).valid.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size to be a multiple of 2, the images of a hand, got 3"),
        ({"batch_size": 0}, "batch_size to be a multiple of 2, the images of a hand, got 0"),
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"image_size": 8}, "image_size >= 16, got 8"),
        ({"token_count": 2.5}, "token_count >= 1, got 2.5"),
        ({"target_count": 0}, "target_count >= 1, got 0"),
        ({"rate": 0.0}, "rate > 0, got 0.0"),
        ({"rate": math.nan}, "rate > 0, got nan"),
        ({"seed": -1}, r"seed in \[0, 2\*\*63\), got -1"),
        ({"photograph_share": 1.5}, r"photograph_share in \[0, 1\], got 1.5"),
        ({"photograph_share": 0.01}, "photograph_share that makes at least one pair of 12 images, got 0.01"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=f"PretrainSettings: expected .*{message}"):
        PretrainSettings(**change)


def test_the_share_of_photographs_is_rounded_to_pairs():
    pairs = {share: PretrainSettings(photograph_share=share).photographed_pairs for share in (0.0, 0.1, 0.5, 0.6, 1.0)}
    assert pairs == {0.0: 0, 0.1: 1, 0.5: 3, 0.6: 4, 1.0: 6}


def test_evaluation_of_an_untrained_prior_is_that_of_the_mean_colour(surface):
    """Before training every texture is the mean of what was seen."""
    torch.manual_seed(0)
    encoder = pretrain.UVTextureEncoder(surface)
    metrics = EVALUATE(encoder, SETTINGS, count=4)
    names = ("visible", "misaligned", "hidden")
    assert set(metrics) == {"visible_l1", *(f"{name}_l1_over_mean_colour" for name in names)}
    assert all(math.isfinite(value) and value > 0 for value in metrics.values())
    assert metrics["visible_l1_over_mean_colour"] == pytest.approx(1, abs=0.2)
    assert metrics["misaligned_l1_over_mean_colour"] > 0.9
    assert metrics["hidden_l1_over_mean_colour"] == pytest.approx(1, abs=0.25)
    assert 0.01 < metrics["visible_l1"] < 0.3
    assert EVALUATE(encoder, SETTINGS, count=4) == metrics


def test_hidden_texels_are_looked_for_in_the_other_image(monkeypatch):
    """A prior that knows the image it is shown, and nothing else: exact where visible, wrong where hidden."""
    generate = synthetic.generate

    def red_and_blue(batch_size, image_size, generator, left_share, views):
        batch = generate(batch_size, image_size, generator, left_share=left_share, views=views)
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
    settings = replace(SETTINGS, batch_size=4, image_size=64, token_count=64)
    metrics = EVALUATE(Shown(), settings, count=8)
    assert metrics["visible_l1"] < 1e-6
    assert metrics["hidden_l1_over_mean_colour"] == pytest.approx(1, abs=1e-3)
    # What the image itself shows is not hidden: if it shows everything, nothing is.
    shown = torch.ones(4, 1, 64, 64)
    monkeypatch.setattr(ta.TexturedHandRenderer, "unwrap", lambda *arguments, **options: (None, shown))
    assert EVALUATE(Shown(), settings, count=8)["hidden_l1_over_mean_colour"] == 0


# --- where it began, and how it fares -------------------------------------------------


def test_a_start_is_kept_in_mind(surface, tmp_path):
    torch.manual_seed(8)
    start = pretrain.UVTextureEncoder(surface)
    start.provenance = {"trained_on": "three postcards", "settings": {"seed": 4}}
    before = {name: value.clone() for name, value in start.state_dict().items()}
    settings = replace(SETTINGS, steps=2)
    whole = pretrain.pretrain(tmp_path / "whole", settings, start, checkpoint_every=1)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert whole.provenance["started_from"] == start.provenance
    assert whole.provenance["trained_on"] == "synthetic images only (texalign.synthetic); before that three postcards"
    change = max(float((value - before[name]).abs().max()) for name, value in whole.state_dict().items())
    # A step of Adam moves a weight by hardly more than the rate, and two steps were taken.
    assert 0 < change < 4 * settings.steps * settings.rate

    with pytest.raises(KilledError):
        pretrain.pretrain(tmp_path / "killed", settings, start, checkpoint_every=1, progress=killed_after(2))
    other = copy.deepcopy(start)
    other.provenance = {"trained_on": "four postcards"}
    with pytest.raises(ValueError, match=r"expected the start of .*checkpoint\.pt, .*three.*, got .*four"):
        pretrain.pretrain(tmp_path / "killed", settings, other)
    again = pretrain.pretrain(tmp_path / "killed", settings, checkpoint_every=1)  # a start is not asked for again
    assert again.provenance["started_from"] == start.provenance
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_a_run_without_a_start_is_not_gone_on_with_from_one(finished, surface):
    with pytest.raises(ValueError, match=r"expected the start of .*checkpoint\.pt, None, got \{\}"):
        pretrain.pretrain(finished[0], SETTINGS, pretrain.UVTextureEncoder(surface))


def test_held_out_images_are_looked_at_now_and_then_without_a_trace(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "HELD_OUT_EVERY", 2)
    looked = []

    def evaluate(encoder, settings, count=96):
        # The averaged weights are looked at, not those of the last step.
        average = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
        looked.append((count, all(torch.equal(value, average[name]) for name, value in encoder.state_dict().items())))
        return EVALUATE(encoder, settings, 2)

    monkeypatch.setattr(pretrain, "evaluate", evaluate)
    pretrain.pretrain(tmp_path, SETTINGS, checkpoint_every=1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["held_out" in line for line in lines] == [False, True, False]
    assert set(lines[1]["held_out"]) == set(EVALUATE(pretrain.UVTextureEncoder(ta.HandSurface.mano()), SETTINGS, 2))
    assert looked == [(pretrain.HELD_OUT_COUNT, True), (96, True)]
    assert same_weights(finished[0], tmp_path)


def test_provenance_in_words():
    only = _provenance.SYNTHETIC_ONLY
    assert _provenance.trained_on(True, 0, None) == only
    assert _provenance.trained_on(True, 0, {"trained_on": only}) == only
    assert _provenance.trained_on(True, 7, None) == "synthetic images (texalign.synthetic) and 7 photographs"
    assert _provenance.trained_on(False, 7, {"trained_on": only}) == "7 photographs"
    assert _provenance.trained_on(True, 0, {}) == f"{only}; before that unknown images"


def test_the_commit_is_that_of_the_checkout_that_holds_the_files(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "package"
    package.mkdir()
    assert _provenance.commit(package) is None
    assert _provenance.commit(tmp_path / "nowhere") is None

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
    assert _provenance.commit(package) is None, "files that git does not know are not of the commit"
    git("add", "package")
    git("commit", "-m", "two")
    assert _provenance.commit(package) == git("rev-parse", "--short=7", "HEAD")
    (package / "module.py").write_text("2")
    assert _provenance.commit(package) == git("rev-parse", "--short=7", "HEAD") + "-dirty"


# --- photographs ------------------------------------------------------------------------

MIXED = replace(SETTINGS, batch_size=4, photograph_share=0.5)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six photographs of 32 pixels without meshes, one of them useless; three of one hand, two of another."""
    folder = tmp_path_factory.mktemp("photographs") / "folder"
    marks = {"vertices_cam_cm": None, "joints_cam_cm": None, "joints_px": None}
    write_folder(folder, 6, 32, seed=4, masks=False, hand_id=np.array([5, 5, 9, 5, 9, 9]), **marks)
    with np.load(folder / "annotations.npz") as file:
        arrays = dict(file)
    arrays["keypoints_px"][5] = np.nan
    np.savez(folder / "annotations.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def fitted(photographs):
    return fit_photographs(read_photographs(photographs, image_size=32))


@pytest.fixture(scope="module")
def meshed(tmp_path_factory):
    """Photographs with masks and meshes of their own, and nobody to say whose hands they are."""
    folder = tmp_path_factory.mktemp("meshed") / "folder"
    write_folder(folder, 5, 32, seed=5)
    return fit_photographs(read_photographs(folder, image_size=32))


@pytest.fixture(scope="module")
def mixed_run(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        encoder = pretrain.pretrain(folder, MIXED, checkpoint_every=1, photographs=fitted)
    return folder, encoder


def test_a_run_on_photographs_says_so(mixed_run, fitted):
    folder, encoder = mixed_run
    provenance = json.loads((folder / "config.json").read_text())["provenance"]
    assert provenance == encoder.provenance
    assert provenance["trained_on"] == "synthetic images (texalign.synthetic) and 5 photographs"
    assert provenance["photographs"] == {
        "used": 5,
        "left_out": 1,
        "fitted": True,
        "fingerprint": fitted.fingerprint,
    }
    assert provenance["settings"]["photograph_share"] == 0.5


def test_photographs_make_a_difference(mixed_run, tmp_path):
    pretrain.pretrain(tmp_path, replace(MIXED, photograph_share=0.0), checkpoint_every=100)
    assert not same_weights(mixed_run[0], tmp_path)


@pytest.mark.parametrize("last", [1, 3])
def test_a_killed_run_on_photographs_resumes_to_the_same_weights(mixed_run, fitted, tmp_path, last):
    with pytest.raises(KilledError):
        pretrain.pretrain(tmp_path, MIXED, checkpoint_every=1, progress=killed_after(last), photographs=fitted)
    torch.manual_seed(77 + last)
    pretrain.pretrain(tmp_path, MIXED, checkpoint_every=1, photographs=fitted)
    assert same_weights(mixed_run[0], tmp_path)


def test_a_run_of_photographs_only_with_meshes_of_their_own(meshed, tmp_path, monkeypatch):
    monkeypatch.setattr(_examples.synthetic, "generate", None)  # no synthetic image is made
    monkeypatch.setattr(pretrain, "evaluate", lambda *arguments: {})
    encoder = pretrain.pretrain(tmp_path, replace(MIXED, photograph_share=1.0), photographs=meshed)
    assert encoder.provenance["trained_on"] == "5 photographs"
    assert encoder.provenance["photographs"]["fitted"] is False


def test_other_photographs_than_the_checkpoints_are_refused(mixed_run, meshed):
    folder, _ = mixed_run
    with pytest.raises(ValueError, match=r"expected the photographs of .*checkpoint\.pt, .*'used': 5"):
        pretrain.pretrain(folder, MIXED, photographs=meshed)
    with pytest.raises(ValueError, match=r"expected the settings of .*checkpoint\.pt"):
        pretrain.pretrain(folder, replace(MIXED, photograph_share=1.0), photographs=meshed)


def test_photographs_and_their_share_come_together(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"expected photographs for photograph_share above 0, none for 0, got none"):
        pretrain.pretrain(tmp_path / "run", MIXED)
    with pytest.raises(ValueError, match=r"none for 0, got photographs for 0\.0"):
        pretrain.pretrain(tmp_path / "run", SETTINGS, photographs=fitted)
    with pytest.raises(ValueError, match=r"expected photographs of 64 pixels, got others"):
        pretrain.pretrain(tmp_path / "run", replace(MIXED, image_size=64), photographs=fitted)
    assert not (tmp_path / "run").exists()


def test_pairs_of_photographs_show_one_hand_where_somebody_said_so():
    hand_id = torch.tensor([5, 5, 9, 5, 9, 2])
    rows, same = _examples._draw_pairs(hand_id, 6, 3000, torch.Generator().manual_seed(0))
    first, second = rows.view(-1, 2).unbind(1)
    assert (first != second).all()
    assert torch.equal(same, hand_id[first] == hand_id[second])
    assert torch.equal(same, first != 5), "only the one without a second is paired with a stranger"
    # Every photograph as often, every other one of its hand as often.
    assert first.bincount(minlength=6).float().div(3000).sub(1 / 6).abs().max() < 0.034  # five standard deviations
    beside = second[first == 0].bincount(minlength=6).float() / (first == 0).sum()
    assert beside[[1, 3]].tolist() == pytest.approx([0.5, 0.5], abs=0.12)  # of some 500


def test_without_hand_ids_every_photograph_stands_for_itself():
    rows, same = _examples._draw_pairs(None, 4, 500, torch.Generator().manual_seed(0))
    assert not same.any() and (rows.view(-1, 2)[:, 0] != rows.view(-1, 2)[:, 1]).all()
    rows, same = _examples._draw_pairs(torch.zeros(1, dtype=torch.int64), 1, 2, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 0, 0, 0] and not same.any()


def test_examples_of_photographs(hand, fitted, monkeypatch):
    monkeypatch.setattr(_examples, "recoloured", lambda image, generator: image)
    batch = _examples.photographed_examples(hand, fitted, 20, torch.Generator().manual_seed(0))
    stored = fitted.photographs
    row = [int((stored.image == image).flatten(1).all(dim=1).nonzero()) for image in batch.image]
    assert torch.equal(batch.vertices, fitted.vertices[row])
    assert torch.equal(batch.camera.focal, stored.camera.focal[row])
    assert torch.equal(batch.mask, torch.ones_like(batch.mask)) and batch.mask.shape == (40, 1, 32, 32)
    assert (batch.hand[0::2] == batch.hand[1::2]).all() and len(batch.hand.unique()) == 20
    wrong = batch.mistaken(torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1).mean(dim=1)
    # Every mesh is moved, and none by more than the size of a palm; how far in the middle is chance.
    assert error.min() > 1e-6 and error.max() < 0.1
    for name, value in {"POSE_NOISE": 0.0, "TURN_NOISE": 0.0, "SHIFT_NOISE": (0.0, 0.0, 0.0)}.items():
        monkeypatch.setattr(_examples, name, value)
    torch.testing.assert_close(batch.mistaken(torch.Generator()), batch.vertices, atol=1e-5, rtol=0)


def test_examples_of_photographs_with_masks_and_meshes(hand, meshed):
    batch = _examples.photographed_examples(hand, meshed, 6, torch.Generator().manual_seed(0))
    assert len(batch.hand.unique()) == 12, "nobody said whose hands they are"
    row = [int((meshed.vertices == mesh).flatten(1).all(dim=1).nonzero()) for mesh in batch.vertices]
    assert torch.equal(batch.mask, meshed.photographs.mask[row])
    wrong = batch.mistaken(torch.Generator().manual_seed(0))
    error = (wrong - batch.vertices).norm(dim=-1).mean(dim=1)
    # Every mesh is moved, and none by more than the size of a palm; how far in the middle is chance.
    assert error.min() > 1e-6 and error.max() < 0.1


def test_given_meshes_are_moved_as_a_whole(meshed):
    wrong = _examples.moved_vertices(meshed.vertices, torch.Generator().manual_seed(0))
    some = list(range(0, 778, 40))
    before, after = (torch.cdist(mesh[:, some], mesh[:, some]) for mesh in (meshed.vertices, wrong))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    shift = (wrong - meshed.vertices).mean(dim=1)
    assert (shift.norm(dim=1) > 1e-5).all() and shift.norm(dim=1).max() < 0.05


def test_both_photographs_of_a_pair_are_recoloured_alike():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(200, -1, -1, -1)
    made = _examples.recoloured(image, torch.Generator().manual_seed(1))
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made[0::2], made[1::2])
    gain = made[0::2].mean((2, 3)) / image[0::2].mean((2, 3))
    assert gain.std(dim=0).min() > 0.05 and gain.min() > 0.5 and gain.max() < 1.8
    tint = gain / gain.mean(dim=1, keepdim=True)
    assert tint.std(dim=0).min() > 0.03
    # Brighter stays brighter, in its place.
    order = image[0, 0].flatten().argsort()
    assert (made[:, 0].flatten(1)[:, order].diff(dim=1) >= 0).all()


def test_joined_examples_keep_their_hands_apart(hand, fitted):
    generator = torch.Generator().manual_seed(0)
    parts = [
        _examples.synthetic_examples(hand, 2, 32, generator),
        _examples.photographed_examples(hand, fitted, 3, generator),
    ]
    batch = _examples.joined(parts)
    assert batch.image.shape == (10, 3, 32, 32) and batch.camera.batch_size == 10
    assert torch.equal(batch.image[:4], parts[0].image) and torch.equal(batch.vertices[4:], parts[1].vertices)
    assert (batch.hand[0::2] == batch.hand[1::2]).all() and len(batch.hand.unique()) == 5
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = torch.cat([part.mistaken(first) for part in parts])
    assert torch.equal(batch.mistaken(second), expected)
    assert _examples.joined(parts[:1]) is parts[0]


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


def test_the_command_mixes_in_photographs(photographs, tmp_path, capsys, monkeypatch):
    torch.manual_seed(2)
    pretrain.UVTextureEncoder(ta.HandSurface.mano()).save_pretrained(tmp_path / "start", {"trained_on": "nothing"})
    more = ["--photographs", str(photographs), "--frames", "8-12", "--start", str(tmp_path / "start"), "--rate", "1e-4"]
    assert command(tmp_path / "run", "--photograph-share", "1", *more) == 0
    told = capsys.readouterr()
    assert "photographs: 4, and 1 left out" in told.out and "hand fitted to 5 of 5 photographs" in told.err
    provenance = ta.UVTextureEncoder.from_pretrained(tmp_path / "run").provenance
    assert provenance["trained_on"] == "4 photographs; before that nothing"
    assert provenance["settings"]["photograph_share"] == 1 and provenance["settings"]["rate"] == 1e-4
    assert (tmp_path / "run" / "fits.npz").is_file()
    monkeypatch.setattr(pretrain, "_train_step", None)
    assert command(tmp_path / "run", "--photograph-share", "1", *more) == 0
    assert "hand fitted" not in capsys.readouterr().err, "fits are kept"
    assert command(tmp_path / "run", *more) == 2  # half of the images, by default
    assert "expected the settings of" in capsys.readouterr().err


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

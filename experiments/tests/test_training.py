"""The experiment that trains networks: `experiments/training`."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
import torch

import texalign as ta
import training.__main__ as main_module
import training.augmentation as augmentation
import training.train as train_module
from fits.stand_ins import MeanColour
from photograph_folder import write_folder
from texalign.metrics import mask_iou
from training.arms import (
    ARMS,
    FINE_TUNED,
    FINE_TUNED_GROUPED,
    FULL,
    GROUPED,
    PLAIN,
    REACH,
    SILHOUETTE,
    TEXTURE,
    WEAK,
    label_objective,
    make_term,
    map_loss,
)
from training.augmentation import augmented, turned
from training.commands import Data, Experiment
from training.evaluate import errors, joint_offset
from training.network import SQUASHED, HandNetwork, mean_places, position
from training.order import epoch_batches, seeded
from training.pull import agreement, apart, every_other_group, pull_table
from training.real_samples import TRAIN, TUNE_TRAIN, TUNE_VALIDATE, VALIDATE, real_samples
from training.samples import as_they_are
from training.settings import Run, Settings
from training.synthetic_samples import generated, labels
from training.tables import arm_table, compared, paired_difference
from training.train import Training, named, rate_at, scale_at, strength_at
from training.training_error import area_over_mask, training_error_table

SIZE = 64
SMALL = Settings(
    image_size=SIZE,
    batch_size=8,
    neighbours=4,
    shifted=False,
    first_epochs=2,
    second_epochs=2,
    ramp_epochs=1,
    rehearsed=0,
    corrections=5,
    loss_size=32,
    token_count=64,
)


@pytest.fixture(scope="module")
def samples():
    """Sixteen generated images of four hands."""
    made = generated(16, SIZE, seeded(5))
    return replace(made, keypoints=labels(made.keypoints, SIZE / 128, 0))


@pytest.fixture(scope="module")
def priors():
    return {"bundled": MeanColour(), "fine-tuned": MeanColour()}


class GroupMean(MeanColour):
    """One colour for all images of a group."""

    def forward(self, observations, group=None):
        texture = super().forward(observations)
        if group is None:
            return texture
        return torch.stack([texture[group == number].mean(dim=0) for number in group])


def test_network_predicts_a_hand_in_front_of_every_camera(samples):
    network = HandNetwork(SIZE)
    batch = as_they_are(samples)
    prediction = network(batch.image, batch.camera)
    assert prediction.vertices.shape == (16, 778, 3) and prediction.joints.shape == (16, 21, 3)
    assert prediction.maps.shape == (16, 21, SIZE // 8, SIZE // 8)
    assert (prediction.vertices[..., 2] > 0).all()
    parameters = sum(parameter.numel() for parameter in HandNetwork(128).parameters())
    assert 2e6 < parameters < 5e6
    prediction.vertices.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_intrinsics_move_the_hand_but_not_its_image(samples):
    """The same crop with its principal point elsewhere shows the same pixels: the wrist must stay where it is."""
    network, batch = HandNetwork(SIZE), as_they_are(samples)
    aside = ta.PinholeCamera(
        batch.camera.focal, batch.camera.principal + torch.tensor([0.2, -0.1]) * batch.camera.focal
    )
    here, there = network(batch.image, batch.camera), network(batch.image, aside)
    wrist, moved = (c.project(p.joints)[:, 0] for c, p in ((batch.camera, here), (aside, there)))
    torch.testing.assert_close(wrist, moved, atol=1e-2, rtol=1e-4)
    # Turned with the ray, the whole hand looks nearly the same; without the turn fingers would be off by a tenth.
    all_here, all_there = batch.camera.project(here.joints), aside.project(there.joints)
    extent = (all_here - all_here[:, :1]).norm(dim=-1).amax(dim=1)
    assert ((all_here - all_there).norm(dim=-1).amax(dim=1) / extent).median() < 0.08


def test_augmentation_keeps_labels_on_the_hand(samples):
    """Pixels that the camera finds under turned vertices are those where the turned mask is."""
    batch = as_they_are(samples)
    moved = augmented(batch, 4, seeded(1))
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), SIZE)
    coverage = renderer(moved.vertices, moved.camera, torch.ones(1, 3, 8, 8)).coverage
    overlap = mask_iou(coverage * moved.free, moved.mask * moved.free)
    assert overlap.median() > 0.93 and overlap.mean() > 0.85
    true = moved.camera.project(moved.joints)
    scale = moved.camera.focal[:, 0] / batch.camera.focal[:, 0]
    before = (batch.camera.project(batch.joints) - batch.keypoints).norm(dim=-1) * scale[:, None]
    torch.testing.assert_close((true - moved.keypoints).norm(dim=-1), before, atol=2e-3, rtol=1e-3)


def test_augmentation_marks_padding_and_what_it_pastes(samples, monkeypatch):
    batch = as_they_are(samples)
    moved = augmented(batch, 4, seeded(2))
    monkeypatch.setattr(augmentation, "OCCLUDED_SHARE", 0.0)
    bare = augmented(batch, 4, seeded(2))
    for each in (moved, bare):
        assert set(each.valid.unique().tolist()) == {0.0, 1.0}
    assert (bare.image * (1 - bare.valid)).abs().max() == 0
    assert (bare.free * (1 - bare.valid)).max() == 0
    pasted = bare.valid - moved.valid
    assert pasted.min() == 0 and 0.005 < pasted.mean() < 0.2
    assert ((moved.image - bare.image).abs() * moved.valid).max() < 0.01
    assert ((moved.image - bare.image).abs() * pasted).mean() > 0.001
    assert (moved.free * pasted).mean() < 0.1 * pasted.mean() + 0.01


def test_no_turn_changes_nothing(samples):
    class Still:
        def uniform(self, *shape):
            return torch.full((16, *shape), 0.5)

    batch = as_they_are(samples)
    same = turned(batch, torch.zeros(16), torch.ones(16), Still())
    torch.testing.assert_close(same.image, batch.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(same.joints, batch.joints)
    torch.testing.assert_close(same.camera.principal, batch.camera.principal)


def test_neighbours_stay_together_and_every_epoch_differs():
    first, second = (epoch_batches(50, 8, 4, True, 0, epoch) for epoch in (0, 1))
    assert all((rows.view(-1, 4).diff(dim=1) == 1).all() for rows in first)
    assert sorted(torch.cat(first).tolist()) == sorted(set(torch.cat(first).tolist()))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert [r.tolist() for r in epoch_batches(50, 8, 4, True, 0, 0)] == [r.tolist() for r in first]


@pytest.mark.parametrize("arm", [FULL, TEXTURE])
def test_all_arms_see_the_same_images_and_begin_alike(samples, priors, tmp_path, monkeypatch, arm):
    seen = {}

    def spy(name):
        def objective(model, prediction, batch, *rest):
            seen.setdefault(name, []).append(batch.image.clone())
            return label_objective(model, prediction, batch, *rest)

        return objective

    starts = {}
    settings = replace(SMALL, first_epochs=1, second_epochs=1, ramp_epochs=0)
    for name in (WEAK, arm):
        training = Training(Run(name, 1e-3, 3, settings), samples, priors, tmp_path / name)
        starts[name] = torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])
        monkeypatch.setattr("training.train.label_objective", spy(name))
        training.finish(report=lambda text: None)
    torch.testing.assert_close(starts[WEAK], starts[arm], atol=0, rtol=0)
    assert len(seen[WEAK]) == len(seen[arm]) == 2 * 2
    assert all(torch.equal(first, second) for first, second in zip(seen[WEAK], seen[arm]))


def test_interrupted_training_ends_where_an_uninterrupted_one_does(samples, priors, tmp_path):
    run = Run(TEXTURE, 1e-3, 0, SMALL)
    whole = Training(run, samples, priors, tmp_path / "whole").finish(report=lambda text: None)
    for _ in range(5):
        training = Training(run, samples, priors, tmp_path / "parts", checkpoint_every=1)
        broken = training.finish(stop_after=1, report=lambda text: None)
    assert training.progress.epoch == 4 and len(training.progress.log) == 4
    for first, second in zip(whole.parameters(), broken.parameters()):
        assert torch.equal(first, second)
    assert training.progress.log[-1].keys() == {"labels", "term"}


def test_first_stage_is_shared_by_arms_with_the_same_labels(samples, priors, tmp_path):
    weak, texture, full = (
        Training(Run(arm, 1e-3, 0, SMALL), samples, priors, tmp_path) for arm in (WEAK, TEXTURE, FULL)
    )
    weak.finish(report=lambda text: None)
    texture.resume()
    full.resume()
    assert (texture.progress.epoch, full.progress.epoch) == (2, 0)
    other = Training(Run(TEXTURE, 1e-3, 1, SMALL), samples, priors, tmp_path)
    other.resume()
    assert other.progress.epoch == 0


def test_all_arms_rehearse_the_same_generated_images_beside_the_same_photographs(
    samples, priors, tmp_path, monkeypatch
):
    seen = {}

    def spy(model, prediction, batch, scale, settings, full):
        seen.setdefault(name, []).append((batch.image, full))
        return label_objective(model, prediction, batch, scale, settings, full)

    monkeypatch.setattr("training.train.label_objective", spy)
    photographs, generated_images = samples.select(torch.arange(8)), samples.select(torch.arange(8, 16))
    settings = replace(SMALL, first_epochs=1, second_epochs=1, ramp_epochs=0, rehearsed=4)
    networks = {}
    for name, own in ((WEAK, settings), (TEXTURE, settings), ("alone", replace(settings, rehearsed=0))):
        run = Run(WEAK if name == "alone" else name, 1e-3, 0, own)
        training = Training(run, photographs, priors, tmp_path / name, rehearsed=generated_images)
        networks[name] = training.finish(report=lambda text: None)
        assert ("rehearsal" in training.progress.log[-1]) == (name != "alone")
    assert [full for _, full in seen[WEAK]] == [False, True] * 2
    assert all(torch.equal(first, second) for (first, _), (second, _) in zip(seen[WEAK], seen[TEXTURE]))
    assert all(torch.equal(first, second) for (first, _), (second, _) in zip(seen[WEAK][::2], seen["alone"]))
    assert len(seen[WEAK][1][0]) == 4
    assert not torch.equal(networks[WEAK].out.weight, networks["alone"].out.weight)
    with pytest.raises(ValueError, match="expected images to rehearse 4"):
        Training(Run(WEAK, 1e-3, 0, settings), photographs, priors, tmp_path)


def test_the_weight_of_true_points_names_a_run_that_rehearses():
    """Every arm learns from them then, so that another weight is another run."""
    for rehearsed, same in ((0, True), (8, False)):
        names = {named(Run(WEAK, 1e-3, 0, Settings(rehearsed=rehearsed, space_weight=weight))) for weight in (1.0, 2.0)}
        assert (len(names) == 1) == same


def test_a_start_is_where_all_arms_begin(samples, priors, tmp_path):
    first = Training(Run(FULL, 1e-3, 0, replace(SMALL, second_epochs=0)), samples, priors, tmp_path)
    trained = first.finish(report=lambda text: None)
    settings = replace(SMALL, start=str(first.shared_file))
    for arm, seed in ((WEAK, 0), (TEXTURE, 5)):
        begun = Training(Run(arm, 1e-3, seed, settings), samples, priors, tmp_path)
        begun.resume()
        assert begun.progress.epoch == 0 and torch.equal(begun.network.out.weight, trained.out.weight)


def test_schedules():
    run = Run(TEXTURE, 5e-4, 0, Settings(first_epochs=10, second_epochs=10, ramp_epochs=4))
    assert strength_at(run, 9.9) == 0 and strength_at(run, 12) == 0.5 and strength_at(run, 15) == 1
    assert rate_at(run, 9.9) == run.settings.first_rate and rate_at(run, 10) == 5e-4
    assert rate_at(run, 19.999) < 1e-6
    assert scale_at(run, 0) == 32 and scale_at(run, 20) == pytest.approx(run.settings.keypoint_scale)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in (WEAK, FULL)])
def test_terms_are_finite_and_lowered_by_their_own_gradient(samples, arm):
    """From the true mesh moved by a tenth of its size; down the gradient of the vertices."""
    priors = {"bundled": GroupMean(), "fine-tuned": GroupMean()}
    term = make_term(arm, SMALL, priors, torch.device("cpu"))
    batch = replace(as_they_are(samples), group=torch.arange(16) // 4)
    network = HandNetwork(SIZE)
    vertices = (batch.vertices + torch.tensor([0.01, 0.0, 0.0])).requires_grad_()
    blank = network(batch.image, batch.camera)._replace(joints=batch.joints)

    def value():
        return term(blank._replace(vertices=vertices), batch, seeded(0))

    before = value()
    (gradient,) = torch.autograd.grad(before, vertices)
    assert torch.isfinite(before) and gradient.abs().max() > 0
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-9)[:, None, None]
    with torch.no_grad():
        vertices -= step
    assert value() < before


@pytest.mark.parametrize(
    ("arm", "prior", "shares"),
    [
        (TEXTURE, "bundled", False),
        (FINE_TUNED, "fine-tuned", False),
        (GROUPED, "bundled", True),
        (FINE_TUNED_GROUPED, "fine-tuned", True),
    ],
)
def test_which_prior_an_arm_asks_and_whether_neighbours_share_a_texture(samples, arm, prior, shares):
    asked = []

    class Spy(GroupMean):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, observations, group=None):
            asked.append((self.name, group))
            return super().forward(observations, group)

    term = make_term(arm, SMALL, {name: Spy(name) for name in ("bundled", "fine-tuned")}, torch.device("cpu"))
    batch = replace(as_they_are(samples), group=torch.arange(16) // 4)
    prediction = HandNetwork(SIZE)(batch.image, batch.camera)
    term(prediction._replace(vertices=batch.vertices, joints=batch.joints), batch, seeded(0))
    ((name, group),) = asked
    assert name == prior and (group is not None) == shares
    assert not shares or torch.equal(group, batch.group)


def test_padding_says_nothing_to_the_texture_loss(samples, priors):
    """A white bar laid over the image changes the loss, but not where it is marked as padding."""
    term = make_term(TEXTURE, SMALL, priors, torch.device("cpu"))
    batch = as_they_are(samples)
    prediction = HandNetwork(SIZE)(batch.image, batch.camera)
    prediction = prediction._replace(vertices=batch.vertices, joints=batch.joints)
    valid = batch.valid.clone()
    valid[..., :24] = 0
    painted = replace(batch, image=torch.where(valid > 0, batch.image, 1.0))
    plain, with_bar = (term(prediction, replace(b, valid=valid), seeded(0)) for b in (batch, painted))
    torch.testing.assert_close(plain, with_bar)
    assert term(prediction, painted, seeded(0)) != pytest.approx(float(plain), abs=1e-4)


def test_the_texture_loss_leaves_hands_alone_whose_keypoints_are_far_off(samples, priors, monkeypatch):
    """Within reach the gradient is that of the loss without any reach; out of reach there is none."""
    term = make_term(TEXTURE, SMALL, priors, torch.device("cpu"))
    batch = as_they_are(samples)
    prediction = HandNetwork(SIZE)(batch.image, batch.camera)._replace(joints=batch.joints)
    gradients, own_reach = [], REACH
    for shift, reach in ((0.9, own_reach), (1.1, own_reach), (0.9, 1e9)):
        monkeypatch.setattr("training.arms.REACH", reach)
        labels = batch.camera.project(batch.joints) + shift * REACH * SIZE * torch.tensor([0.6, 0.8])
        labels[8:] = labels[8:] - 1.1 * REACH * SIZE * torch.tensor([0.6, 0.8])  # within reach in both
        labels[0, :10], labels[15] = 1e4, torch.nan  # outliers do not decide; without labels there is no knowing
        vertices = batch.vertices.clone().requires_grad_()
        value = term(prediction._replace(vertices=vertices), replace(batch, keypoints=labels), seeded(0))
        gradients.append(torch.autograd.grad(value, vertices)[0])
    near, far, free = gradients
    assert (free[:8] != 0).any() and (free[8:15] != 0).any()
    torch.testing.assert_close(near[:15], free[:15])
    torch.testing.assert_close(far[8:15], free[8:15])
    assert (near[15] == 0).all() and (far[:8] == 0).all() and (far[15] == 0).all()


@pytest.mark.parametrize("arm", [WEAK, TEXTURE, SILHOUETTE, FULL, PLAIN])
def test_every_arm_descends_its_labels_and_its_weighted_term(samples, tmp_path, monkeypatch, arm):
    """At a rate of zero the network stays: what is logged and the last gradient are those of the objective there."""
    monkeypatch.setattr("training.train.augmented", lambda batch, neighbours, generator: batch)

    def term(prediction, batch, generator):  # never zero, wherever random weights put the hands
        return 10 * prediction.joints[:, 0, 2].log().mean()

    make = make_term
    monkeypatch.setattr("training.train.make_term", lambda *words: make(*words) and term)
    # Half of the term's weight in the second of two epochs, none in the first.
    settings = replace(SMALL, first_epochs=0, second_epochs=2, ramp_epochs=2)
    few = samples.select(torch.arange(8))
    training = Training(Run(arm, 0.0, 0, settings), few, {"bundled": GroupMean()}, tmp_path, checkpoint_every=99)
    network = training.finish(report=lambda text: None)
    found = [parameter.grad.clone() for parameter in network.parameters()]
    batch = as_they_are(few)
    prediction = network(batch.image, batch.camera)
    labels = label_objective(network.hand, prediction, batch, settings.keypoint_scale, settings, arm == FULL)
    added = None if arm in (WEAK, FULL) else term(prediction, batch, None)
    # Batches come in another order than these rows: means are equal up to rounding, about 1e-6.
    first, second = training.progress.log
    assert set(first) == {"labels"} and set(second) == ({"labels"} if added is None else {"labels", "term"})
    assert second["labels"] == pytest.approx(labels.item(), rel=1e-4)
    total = labels
    if added is not None:
        assert second["term"] == pytest.approx(added.item(), rel=1e-4)
        total = labels + 0.5 * added
    expected = torch.autograd.grad(total, list(network.parameters()))
    found, expected = (torch.cat([part.double().flatten() for part in parts]) for parts in (found, expected))
    # The direction, since training clips the length. Rounding is 1e-7; without its term the cosine would be near 0.6.
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.999


def test_map_loss_is_lowest_where_the_keypoint_is():
    keypoints = torch.tensor([[[20.0, 36.0], [float("nan"), 0.0], [-5.0, 3.0]]])
    maps = torch.zeros(1, 3, 8, 8)
    flat = map_loss(maps, keypoints, SIZE)
    right, wrong = maps.clone(), maps.clone()
    right[0, 0, 4, 2] = 3.0
    wrong[0, 0, 2, 4] = 3.0
    right[0, 1:] = wrong[0, 1:] = torch.randn(2, 8, 8, generator=seeded(0))
    assert map_loss(right, keypoints, SIZE) < flat < map_loss(wrong, keypoints, SIZE)
    assert flat.item() == pytest.approx(math.log(64) / 3, rel=1e-5)


def test_parts_do_not_overlap():
    assert not set(TRAIN) & set(VALIDATE) and not set(TUNE_TRAIN) & set(TUNE_VALIDATE)
    assert set(TUNE_TRAIN) | set(TUNE_VALIDATE) <= set(TRAIN)
    assert (TRAIN.start, TRAIN.stop, VALIDATE.start, VALIDATE.stop) == (0, 298, 318, 398)
    assert max(TRAIN) + 20 < min(VALIDATE) and max(TUNE_TRAIN) + 20 < min(TUNE_VALIDATE)


@pytest.mark.parametrize("command", ["real", "detections", "tune"])
def test_commands_never_train_on_frames_to_validate_on(tmp_path, monkeypatch, samples, command):
    asked = []

    def spy(folder, frames, seed, size):
        asked.append((frames, seed))
        return samples.select(torch.arange(len(asked)))

    monkeypatch.setattr(main_module, "real_samples", spy)
    monkeypatch.setattr(main_module, "synthetic_samples", lambda *words: samples)
    tuning = command == "tune"
    arguments = main_module.arguments_of([command, "--keep", str(tmp_path)])
    made = main_module.experiment(arguments, "real" if tuning else command, tuning)
    data = made.samples(1)
    (train, seed), (unseen, _) = asked
    assert (len(data.train), len(data.unseen)) == (1, 2)
    assert (train, unseen) == ((TUNE_TRAIN, TUNE_VALIDATE) if tuning else (TRAIN, VALIDATE))
    assert seed == (None if command == "detections" else 1)


def test_photographs_get_the_same_noise_whatever_else_is_read(tmp_path):
    write_folder(tmp_path / "photographs", count=6, size=SIZE, first=0, mediapipe_px=None)
    some, all_of_them = (real_samples(tmp_path / "photographs", frames, 4, SIZE) for frames in (range(2, 4), range(6)))
    torch.testing.assert_close(some.keypoints, all_of_them.keypoints[2:4], atol=0, rtol=0)
    other = real_samples(tmp_path / "photographs", range(6), 5, SIZE)
    off = (all_of_them.keypoints - all_of_them.camera.project(all_of_them.joints)).norm(dim=-1)
    assert not torch.equal(other.keypoints, all_of_them.keypoints) and 2 < off.mean() < 7
    detected = real_samples(tmp_path / "photographs", range(6), None, SIZE)
    torch.testing.assert_close(detected.keypoints, detected.camera.project(detected.joints), atol=1e-2, rtol=0)


def test_generated_labels_have_noise_and_outliers():
    noisy = labels(torch.zeros(900, 21, 2), 1.0, 0)
    distance = noisy.norm(dim=-1)
    far = distance > 15
    assert 0.085 < far.float().mean() < 0.115 and distance[far].mean() == pytest.approx(20, abs=0.01)
    assert noisy[~far.bool()].std() == pytest.approx(2, abs=0.05)
    torch.testing.assert_close(labels(torch.zeros(500, 21, 2), 1.0, 0), noisy[:500])


def test_joints_count_as_hidden_where_they_are(samples):
    assert samples.hidden.shape == (16, 21)
    pixels = samples.camera.project(samples.joints)
    outside = ((pixels < 0) | (pixels >= SIZE)).any(dim=-1)
    assert samples.hidden[outside].all() and 0.05 < samples.hidden.float().mean() < 0.7


def test_errors_vanish_for_the_truth(samples, priors):
    network = HandNetwork(SIZE)

    class Truth(torch.nn.Module):
        hand = network.hand

        def forward(self, image, camera, detections=None):
            row = [int((samples.camera.focal == f).all(dim=1).nonzero()[0]) for f in camera.focal]
            prediction = network(image, camera)
            return prediction._replace(vertices=samples.vertices[row], joints=samples.joints[row])

    figures = errors(Truth(), samples, joint_offset(Truth(), samples), priors["bundled"])
    for name in ("2D joints, px", "2D joints less mean offset, px", "PA-MPJPE, mm", "MPJPE, mm", "PA-MPVPE, mm"):
        assert max(figures[name]["values"]) < 1e-2, name
    assert figures["PCK@0.05, visible"]["values"][0] == 100
    seen = [v for v, w in zip(figures["IoU"]["values"], figures["IoU"]["weights"]) if w]
    assert sum(seen) / len(seen) > 0.9
    worse = errors(network, samples, None, priors["bundled"])
    assert sum(worse["PSNR in the mask, dB"]["values"]) < sum(figures["PSNR in the mask, dB"]["values"])


def test_pairing_narrows_the_interval():
    generator = seeded(0)
    hard = torch.rand(3, 200, generator=generator) * 20
    base, mine = hard + 1, hard + 0.5 + 0.1 * torch.rand(3, 200, generator=generator)
    ones = torch.ones(3, 200)
    middle, low, high = paired_difference((mine, ones), (base, ones), relative=False)
    assert low < middle < high < -0.4 and high - low < 0.05
    shuffled = mine[:, torch.randperm(200, generator=generator)]
    _, low, high = paired_difference((shuffled, ones), (base, ones), relative=False)
    assert high - low > 0.5
    middle, _, _ = paired_difference((base * 0.9, ones), (base, ones), relative=True)
    assert middle == pytest.approx(-0.1, abs=1e-5)


def test_blocks_of_neighbours_widen_the_interval():
    values = torch.randn(2, 40, generator=seeded(1)).repeat_interleave(5, dim=1)
    ones, zeros = torch.ones_like(values), torch.zeros_like(values)
    widths = []
    for block in (1, 5):
        _, low, high = paired_difference((values, ones), (zeros, ones), relative=False, block=block)
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_weights_say_how_many_joints_an_image_has():
    values, weights = torch.tensor([[100.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    middle, _, _ = paired_difference((values, weights), (torch.zeros(1, 2), weights), relative=False)
    assert middle == 25


def test_arms_are_compared_on_the_seeds_that_both_have():
    def run(seed, value):
        return {
            "run": {"seed": seed},
            "seconds": 1.0,
            "errors": {"MPJPE, mm": {"values": [value] * 4, "weights": [1] * 4}},
        }

    results = {WEAK: [run(0, 10.0), run(1, 20.0)], TEXTURE: [run(1, 18.0)]}
    rows = arm_table(results, WEAK, compared(results, WEAK, 1))
    assert rows[0]["MPJPE, mm"] == 15 and rows[1]["seeds"] == 1
    assert rows[1]["MPJPE, mm: change"].startswith("-10.0%")


def test_experiment_makes_a_table_and_finds_it_again(samples, priors, tmp_path, capsys, monkeypatch):
    settings = replace(SMALL, first_epochs=1, second_epochs=1)
    calls = []

    def data(seed):
        calls.append(seed)
        return Data(samples, samples)

    def experiment():
        rates = dict.fromkeys(ARMS, 1e-3)
        return Experiment("small", data, settings, rates, priors, tmp_path / "keep", 4, tmp_path / "results")

    experiment().run_all([WEAK, FULL], [0], tmp_path / "small.json")
    written = (tmp_path / "small.json").read_text()
    assert '"CPU seconds"' in written and '"environment"' in written
    content = json.loads(written)
    assert [point["epoch"] for point in content["curves"][WEAK]] == [1, 2]
    assert len(content["changes"][WEAK]["IoU"]) == 1 and len(content["changes"][FULL]["IoU"]) == 4
    for row in content["table"]:  # a curve ends where the table says, and has moved
        first, last = content["curves"][row["arm"]]
        for name in ("2D joints, px", "PA-MPJPE, mm"):
            assert last[f"unseen {name}"] == pytest.approx(row[name], rel=1e-5) != first[f"unseen {name}"]
    experiment().write([WEAK, FULL], [0], tmp_path / "against.json", FULL)
    turned = json.loads((tmp_path / "against.json").read_text())["changes"]
    assert len(turned[FULL]["IoU"]) == 1 and turned[WEAK]["IoU"][1] == -content["changes"][FULL]["IoU"][1]
    made = len(calls)
    rows = experiment().table([WEAK, FULL, TEXTURE], [0, 1])
    assert [row["arm"] for row in rows] == [WEAK, FULL] and len(calls) == made
    tuned = experiment().tune([WEAK], [1e-3, 1e-4], [0, 1])
    assert [(row["rate"], row["seeds"]) for row in tuned] == [(1e-3, 2), (1e-4, 2)]
    of_both = [experiment().result(WEAK, seed)["errors"]["IoU"]["values"] for seed in (0, 1)]
    assert tuned[0]["IoU"] == pytest.approx(sum(map(sum, of_both)) / 32, rel=1e-5)
    (row,) = training_error_table(experiment(), [WEAK], [0])
    seen = experiment().result(WEAK, 0)["errors"]["2D joints, px"]["values"]
    assert row["2D joints, px"] == pytest.approx(sum(seen[::2]) / 8, rel=1e-5)
    asked = []

    def counted(arm, *others):
        term = make_term(arm, *others)

        def counting(*words):
            asked.append(arm)
            return term(*words)

        return None if term is None else counting

    monkeypatch.setattr(train_module, "make_term", counted)
    for row in experiment().seconds_per_step([WEAK, TEXTURE], steps=1):
        assert row["second stage, s/step"] > 0
        steps = len(samples) // settings.batch_size * settings.second_epochs
        assert row["second stage, minutes"] == pytest.approx(steps * row["second stage, s/step"] / 60)
    assert asked == 2 * [TEXTURE]  # one step to warm up and one that is timed, of the second stage alone
    assert not (tmp_path / "keep" / "training" / "small" / "never written").exists()
    # What is finished is enough for the table; what is unfinished is enough to go on.
    shutil.rmtree(tmp_path / "keep")
    assert experiment().table([WEAK, FULL], [0]) == rows


def test_a_hand_that_is_farther_away_covers_less_than_its_mask(samples):
    class Known(torch.nn.Module):
        def forward(self, image, camera, detections=None):
            return network(image, camera)._replace(vertices=vertices, joints=batch.joints)

    network, batch = HandNetwork(SIZE), as_they_are(samples)
    areas = []
    for farther in (1.0, 1.2):
        vertices = batch.vertices + (farther - 1) * batch.vertices.mean(dim=1, keepdim=True)
        areas.append(area_over_mask(Known(), samples))
    assert areas[0] == pytest.approx(1, abs=0.05)
    assert areas[1] == pytest.approx(areas[0] / 1.2**2, rel=0.1)


# --- where terms pull ---------------------------------------------------------


def test_a_displacement_is_the_sum_of_its_parts():
    pixels = 100 * torch.rand(3, 50, 2, generator=seeded(1))
    middle = pixels - pixels.mean(dim=1, keepdim=True)
    across = torch.stack([-middle[..., 1], middle[..., 0]], dim=-1)
    known = torch.tensor([3.0, -2.0]) + 0.1 * middle - 0.05 * across
    parts = apart(known, pixels)
    torch.testing.assert_close(parts.translation, torch.tensor([3.0, -2.0]).expand(3, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts.size, torch.full((3,), 0.1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts.turn, torch.full((3,), -0.05), atol=1e-5, rtol=1e-4)
    assert parts.rest.abs().max() < 1e-3
    home = torch.randn(3, 50, 2, generator=seeded(2))
    assert all((value > 0.999).all() for value in agreement(2 * home, home, pixels).values())
    for name, value in agreement(-home, home, pixels).items():
        assert (value < (1e-3 if "way" in name else -0.999)).all()


def test_terms_pull_home_from_where_a_network_is_off(samples):
    """The mask knows the way; the plain difference, which feels no outline, hardly does."""

    class Off(torch.nn.Module):
        def forward(self, image, camera, detections=None):
            return network(image, camera)._replace(vertices=moved.vertices, joints=moved.joints)

    network = HandNetwork(SIZE)
    clear = replace(SMALL, neighbours=4)
    whole = samples.select(every_other_group(len(samples), 4, most=16))
    assert len(whole) == 8
    moved = augmented(as_they_are(whole), 4, seeded(0, 4, 0))
    moved = replace(moved, vertices=moved.vertices + 0.01, joints=moved.joints + 0.01)
    rows = {row["term"]: row for row in pull_table(Off(), whole, clear, {"bundled": GroupMean()}, draws=1)}
    assert set(rows) >= {TEXTURE, GROUPED, PLAIN, SILHOUETTE, f"{TEXTURE}, mean colour for a prior"}
    for row in rows.values():
        assert 0 < row["hands"] <= 8 and row["strength, per metre"] > 0
    assert rows[SILHOUETTE]["translation"] > 0.5 and rows[TEXTURE]["translation"] > 0.3
    assert rows[SILHOUETTE]["all"] > rows[PLAIN]["all"]


# --- networks that are shown keypoints -----------------------------------------


def test_a_guided_network_begins_as_the_one_whose_weights_it_takes(samples):
    """Shown where its own maps say the joints are, or nothing, it predicts the same but for its corrections, which
    begin small; shown others, the hand follows."""
    plain, guided = HandNetwork(SIZE), HandNetwork(SIZE, guided=True)
    guided.begin_with(plain.state_dict())
    batch = as_they_are(samples)
    expected = plain(batch.image, batch.camera)
    places, _ = mean_places(expected.maps)
    own = SIZE / 2 * (1 + places)
    own[::2] = torch.nan
    corrected = guided(batch.image, batch.camera, own)
    off = batch.camera.project(corrected.vertices) - batch.camera.project(expected.vertices)
    assert 0 < off.norm(dim=-1).mean() < 0.02 * SIZE
    torch.nn.init.zeros_(guided.correction.out.weight)
    same = guided(batch.image, batch.camera, own)
    torch.testing.assert_close(same.vertices, expected.vertices, atol=1e-5, rtol=1e-4)
    true = batch.camera.project(batch.joints)
    shown = guided(batch.image, batch.camera, true)
    wrist = (batch.camera.project(shown.joints) - true)[:, 0].norm(dim=-1)
    # By construction the wrist is laid on its keypoint, up to the bones' lengths.
    assert wrist.max() < 0.05 * SIZE and (shown.vertices - same.vertices).flatten(1).norm(dim=1).min() > 0
    plain.begin_with(guided.state_dict())
    with pytest.raises(ValueError, match="expected detections, for a guided network, got None"):
        guided(batch.image, batch.camera)
    with pytest.raises(ValueError, match="expected a HandNetwork's weights"):
        plain.begin_with({"other": torch.zeros(1)})


def test_a_guided_network_corrects_itself_by_each_keypoint_that_it_is_shown(samples):
    guided, batch = HandNetwork(SIZE, guided=True), as_they_are(samples)
    torch.nn.init.normal_(guided.correction.out.weight, std=0.02, generator=seeded(0))
    shown = batch.camera.project(batch.joints)
    tip = shown.clone()
    # Few enough pixels that what says where the hand is hardly changes.
    tip[:, 8] += 4.0
    distance = [
        (one.vertices - other.vertices).flatten(1).norm(dim=1)
        for one, other in (
            (guided(batch.image, batch.camera, shown), guided(batch.image, batch.camera, tip)),
            (
                guided(batch.image, batch.camera, shown.index_fill(1, torch.tensor(8), torch.nan)),
                guided(batch.image, batch.camera, tip.index_fill(1, torch.tensor(8), torch.nan)),
            ),
        )
    ]
    assert (distance[0] > 1e-4).all() and (distance[1] == 0).all()
    prediction = guided(batch.image, batch.camera, torch.full_like(shown, torch.nan))
    assert all(torch.isfinite(each).all() for each in (prediction.vertices, prediction.joints))


@pytest.mark.parametrize("corrections", [1, 4])
def test_settings_say_how_often_a_guided_network_corrects_itself(samples, tmp_path, corrections):
    shown = replace(samples, detections=samples.keypoints)
    run = Run(WEAK, 1e-3, 0, replace(SMALL, corrections=corrections))
    network = Training(run, shown, {}, tmp_path).network
    said = []
    network.correction.register_forward_hook(lambda module, inputs, output: said.append(output))
    batch = as_they_are(shown)
    network(batch.image, batch.camera, batch.detections)
    assert len(said) == corrections


def test_a_guided_networks_slope_leads_away_from_the_keypoints(samples):
    """Finite differences, and a step against it: joints come nearer, an unseen one pulls nothing."""
    guided, batch = HandNetwork(SIZE, guided=True), as_they_are(samples)
    shown = 2 * batch.camera.project(batch.joints) / SIZE - 1
    seen = torch.ones(16, 21, 1, dtype=torch.bool)
    where = position(shown)
    hand = 0.3 * torch.randn(16, 60, generator=seeded(0))

    def distance(hand, counted):
        squared = ((shown - guided.places(hand, where, batch.camera)) / where[1][:, None]).square().sum(dim=-1)
        return (squared / (squared + SQUASHED[1] ** 2) * counted[..., 0]).mean(dim=1)

    with torch.no_grad():
        slope = guided.slope(hand, where, batch.camera, shown, seen)
        step = 1e-2 * torch.randn(16, 60, generator=seeded(1))
        change = distance(hand + step, seen) - distance(hand - step, seen)
        torch.testing.assert_close(2 * (slope * step).sum(dim=1), change, atol=2e-4, rtol=2e-2)
        assert (distance(hand - 0.02 * slope, seen) < distance(hand, seen)).all()
        seen[:] = False
        assert (guided.slope(hand, where, batch.camera, shown, seen) == 0).all()


def test_an_arm_is_not_trained_again_because_another_weight_changed():
    changed = replace(SMALL, texture_weight=1.0)
    for arm in ARMS:
        same = named(Run(arm, 1e-3, 0, SMALL)) == named(Run(arm, 1e-3, 0, changed))
        assert same == (arm not in (TEXTURE, FINE_TUNED, GROUPED, FINE_TUNED_GROUPED)), arm


def test_a_table_can_be_made_at_other_rates(tmp_path):
    """One for every arm, or one for the weak labels that all is compared with."""
    made = {}
    for more in ("", "--rate 2e-4", "--weak-rate 1e-3", "--rate 2e-4 --weak-rate 1e-3"):
        asked = main_module.arguments_of(["real", "--keep", str(tmp_path), *more.split()])
        made[more] = main_module.experiment(asked, "real").rates
    own, one, other, both = made.values()
    assert own == main_module.RATES["real"] and set(own) == set(ARMS)
    assert one == dict.fromkeys(ARMS, 2e-4)
    assert other == {**own, WEAK: 1e-3} and both == {**one, WEAK: 1e-3}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("real", "training_real"),
        ("real --rate 2e-4 --weak-rate 1e-3", "training_real_rate_0.0002_weak_rate_0.001"),
        ("synthetic --plain-weight 30 --texture-weight 3", "training_synthetic_texture_weight_3_plain_weight_30"),
        ("synthetic --images 500 --unseen 80", "training_synthetic_images_500_unseen_80"),
    ],
)
def test_other_settings_are_written_to_another_file(words, name):
    asked = main_module.arguments_of(words.split())
    assert main_module.result_file(asked.what, asked).name == f"{name}.json"
    asked = main_module.arguments_of([*words.split(), "--against", PLAIN])
    assert main_module.result_file(asked.what, asked).name == f"{name}_against_plain_difference.json"


def test_finished_runs_are_found_wherever_the_start_lies(tmp_path, monkeypatch):
    """The tables of the repository are those of its finished runs."""
    words = ["real", "--show", "--start", "elsewhere/START.pt", "--output", str(tmp_path / "real.json")]
    monkeypatch.setattr(sys, "argv", ["", *words])
    main_module.main()
    kept = main_module.result_file("real", main_module.arguments_of(["real"]))
    printed, kept = (json.loads(path.read_text()) for path in (tmp_path / "real.json", kept))
    assert printed["table"] == kept["table"] and printed["changes"] == kept["changes"]


def test_detections_are_turned_with_the_image_and_reach_the_network(samples, priors, tmp_path):
    shown = replace(samples, detections=samples.keypoints.clone())
    moved = augmented(as_they_are(shown), 4, seeded(1))
    torch.testing.assert_close(moved.detections, moved.keypoints)
    assert augmented(as_they_are(samples), 4, seeded(1)).detections is None
    run = Run(WEAK, 1e-3, 0, replace(SMALL, first_epochs=1, second_epochs=1))
    network = Training(run, shown, priors, tmp_path).finish(report=lambda text: None)
    assert network.from_detections.weight.abs().max() > 0  # it has learned to use them
    figures = errors(network, shown, joint_offset(network, shown), priors["bundled"])
    assert len(figures["IoU"]["values"]) == len(samples)

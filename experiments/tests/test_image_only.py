"""Networks that see the image alone: crops, simulated landmarks, what arms learn from, and one run of the whole."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fits.people import generated
from image_only import examples as examples_module
from image_only.__main__ import RATIOS, arguments_of, run_ratios
from image_only.backbone import CROP, Backbone, Crop, around, crops_of, whole
from image_only.encoder import Encoder, PhotographViews, Rehearsal, generated_hands, seen_in_space, train_seeing
from image_only.evaluate import mean_offset, seen_joints, without_offset
from image_only.examples import NEIGHBOURS, Split, examples_of, views_of, weak_labels
from image_only.experiment import EncoderAlone, ImageOnlyExperiment, Landmarks, evaluated
from image_only.mesh_head import MeshHead, posed_hands, train_head
from image_only.network import ImageOnly
from image_only.same_convolution import SameConvolution
from image_only.tables import arm_rows
from image_only.tflite_file import read_backbone
from image_only.train import CLEAN, FEW, FREE, FREE_ALONE, FULL, Run, Settings, Trainer, labels_of
from photograph_folder import write_folder
from texalign import UVTextureEncoder
from texalign.hand import HandModel
from texalign.photographs import read_photographs
from training.arms import PLAIN, SILHOUETTE, TEXTURE, WEAK
from training.synthetic_samples import generated as generated_samples
from training.tables import paired_difference


class StandInTail(nn.Module):
    """An upright hand in the middle of the crop, a little moved by the maps."""

    def __init__(self):
        super().__init__()
        hand = HandModel().joints(torch.zeros(1, 16, 3))[0]
        # Fingers up: along -x of the model, which is down to up in a crop.
        flat = torch.stack([hand[:, 2], hand[:, 0], hand[:, 1]], dim=1)
        flat = flat - flat.mean(dim=0)
        self.register_buffer("world", flat)
        self.register_buffer("seen", torch.cat([CROP * (0.5 + 3.5 * flat[:, :2]), flat[:, 2:]], dim=1))
        self.layers = nn.ModuleList([nn.Linear(8, 63), nn.Linear(8, 63)])
        for layer, spread in zip(self.layers, (2.0, 0.002)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, maps):
        pooled = maps.mean(dim=(2, 3))
        return tuple(base.flatten() + layer(pooled) for base, layer in zip((self.seen, self.world), self.layers))


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 8, 1))
    return Backbone(stem, StandInTail()).eval()


@pytest.fixture(scope="module")
def examples():
    return examples_of(generated(8, 128, seed=5), "video")


@pytest.fixture(scope="module")
def trainer(backbone, examples):
    torch.manual_seed(0)
    start = ImageOnly(backbone.tail, MeshHead())
    views = views_of(backbone, examples, None, views=2)
    return Trainer(start, examples, views, UVTextureEncoder.from_pretrained(), torch.zeros(21, 2))


def test_a_crop_shows_what_lies_where_it_says():
    image = torch.zeros(1, 3, 64, 64)
    image[..., 20:24, 40:44] = 1  # its middle is (42, 22)
    crop = Crop(torch.tensor([[40.0, 25.0]]), torch.tensor([32.0]), torch.tensor([0.7]))
    shown = crop.cut(image)[0, 0]
    pixel = torch.arange(CROP) + 0.5
    weight = shown / shown.sum()
    middle = torch.stack([(weight.sum(dim=0) * pixel).sum(), (weight.sum(dim=1) * pixel).sum()])
    # Pixels of the crop are a seventh of the photograph's.
    assert torch.allclose(crop.image_points(middle[None, None])[0, 0], torch.tensor([42.0, 22.0]), atol=0.2)


def test_the_whole_photograph_is_a_crop():
    points = torch.rand(2, 21, 2) * CROP
    assert torch.allclose(whole(torch.zeros(2, 3, 128, 128)).image_points(points), points * 128 / CROP)


def test_crops_turn_with_the_hand():
    landmarks = 20 * torch.randn(1, 21, 2) + 60
    crop = around(landmarks)
    cosine, sine = math.cos(0.9), math.sin(0.9)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]])
    other = around(landmarks @ turn.T)
    assert torch.allclose(other.centre, crop.centre @ turn.T, atol=1e-3)
    assert torch.allclose(other.side, crop.side, rtol=1e-4)
    assert math.isclose(math.remainder((other.turn - crop.turn).item() - 0.9, 2 * math.pi), 0, abs_tol=1e-4)


def test_fingers_point_up_in_a_crop():
    landmarks = torch.zeros(1, 21, 2)
    landmarks[0, 0] = torch.tensor([50.0, 50.0])
    landmarks[0, 1:] = torch.tensor([80.0, 50.0])  # fingers to the right
    axes = around(landmarks).axes()[0]
    assert torch.allclose(-axes[:, 1], torch.tensor([1.0, 0.0]), atol=1e-6)


def test_of_an_odd_padding_the_last_pixel_is_after():
    convolution = SameConvolution(torch.ones(1, 1, 3, 3), torch.zeros(1), 2, 1, bounded=False)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    # Windows begin at 0 and 2: only the first holds the corner.
    assert torch.equal(convolution(image)[0, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert SameConvolution(torch.ones(1, 1, 3, 3), 9 * torch.ones(1), 1, 1, bounded=True)(image).max() == 6


def test_simulated_landmarks_are_those_of_the_hand_and_some_noise():
    hands = posed_hands(HandModel(), 64, 128, torch.Generator().manual_seed(0))
    spread = (hands.batch.keypoints - hands.batch.keypoints.mean(dim=1, keepdim=True)).norm(dim=-1).mean()
    distance = (hands.landmarks - hands.batch.keypoints).norm(dim=-1).mean()
    assert 0.02 * spread < distance < 0.2 * spread
    assert (hands.batch.joints[..., 2] > 0).all()


def test_the_head_does_not_care_for_the_size_of_world_landmarks():
    head, hands = MeshHead(), posed_hands(HandModel(), 3, 128, torch.Generator().manual_seed(0))
    one = head(hands.landmarks, hands.world, hands.batch.camera).vertices
    other = head(hands.landmarks, 2 * hands.world + 1, hands.batch.camera).vertices
    assert torch.allclose(one, other, atol=1e-4 * one.norm(dim=-1).max().item())


def test_an_offset_of_definition_is_no_error_however_the_hand_is_turned():
    detections = 20 * torch.randn(5, 21, 2) + 64
    offset = 0.1 * torch.randn(21, 2)
    moved = without_offset(detections, detections, -offset)
    assert torch.allclose(mean_offset(moved, detections), offset, atol=1e-4)
    assert torch.allclose(without_offset(moved, detections, offset), detections, atol=1e-3)


def test_a_tenth_is_labelled_and_the_others_are_anchored(examples):
    many = examples.select(torch.arange(80) % len(examples))
    weak, start = weak_labels(many.detections, 0), torch.zeros(80, 21, 2)
    few = labels_of(FEW, many, many.detections, weak, start).keypoints
    labelled = (few == weak).all(dim=(1, 2))
    assert labelled.sum() == 2 * NEIGHBOURS
    assert (few[~labelled] == 0).all()
    for arm in (FREE, FREE_ALONE):
        assert torch.equal(labels_of(arm, many, many.detections, weak, start).keypoints, start)
    assert torch.equal(labels_of(CLEAN, many, many.detections, weak, start).keypoints, many.detections)
    full = labels_of(FULL, many, many.detections, weak, start)
    assert full.full.all()
    assert torch.allclose(full.keypoints, many.marks, atol=1e-3)


def test_weak_labels_are_off_by_noise_and_outliers(examples):
    many = examples.select(torch.arange(200) % len(examples))
    off = (weak_labels(many.detections, 1) - many.detections).norm(dim=-1)
    assert 3.0 < off.median() < 4.2  # 3 px in x and in y: a median of 3.5
    assert 0.08 < ((off - 10).abs() < 1e-3).float().mean() < 0.12
    assert torch.equal(weak_labels(many.detections, 1), weak_labels(many.detections, 1))
    assert not torch.equal(weak_labels(many.detections, 1), weak_labels(many.detections, 2))


@pytest.mark.parametrize("arm", [TEXTURE, PLAIN, SILHOUETTE])
def test_weights_follow_the_ratio(trainer, examples, arm):
    # The texture leaves hands that are far from their labels alone, and the stand-in's are.
    weak = seen_joints(trainer.start, examples, trainer.views) + 2
    one, two = (trainer.weight_of(Run(arm, 0, Settings(ratio=ratio)), weak) for ratio in (0.5, 1.0))
    assert one > 0
    assert two == pytest.approx(2 * one, rel=1e-3)


def test_labels_alone_have_no_weight_to_measure(trainer, examples):
    assert trainer.weight_of(Run(WEAK, 0), weak_labels(examples.detections, 0)) == 0


def test_people_are_drawn_together():
    values, base = torch.rand(2, 12), torch.ones(2, 12)
    ones = torch.ones_like(values)
    blocks = paired_difference((values, ones), (base, ones), True, 3)
    people = paired_difference((values, ones), (base, ones), True, torch.tensor([4, 4, 4, 1, 1, 1, 9, 9, 9, 2, 2, 2]))
    assert blocks[0] == pytest.approx(people[0])
    assert people[1] < people[0] < people[2]


def test_an_untrained_network_is_compared_with_every_seed():
    of = [{"errors": {"IoU": [0.5, 0.7], "boundary F": [0.5, 0.5], "2D to the detector, px": [2.0, 4.0]}}]
    results = {"untrained": of, WEAK: 3 * of}
    rows = arm_rows(results, WEAK, torch.tensor([0, 1]), torch.tensor([1, 2]), "people")
    assert [row["seeds"] for row in rows] == [1, 3]
    fewer = {"of two seeds": 2 * of, WEAK: 3 * of}
    assert arm_rows(fewer, WEAK, torch.tensor([0, 1]), torch.tensor([1, 2]), "people")[0]["IoU: change"][:6] == "+0.000"
    assert rows[0]["IoU: change"].startswith("+0.000")
    assert rows[1]["IoU"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["people", "--network", "encoder", "--people", "."], "people needs --classifier"),
        (["people", "--network", "encoder", "--people", ".", "--classifier", "nothing.pth"], "got nothing.pth"),
        (["evaluate", "--network", "encoder", "--photographs", ".", "--checkpoint", "nothing.pt"], "got nothing.pt"),
    ],
)
def test_missing_files_are_named_before_anything_is_read(capsys, words, message):
    with pytest.raises(SystemExit):
        arguments_of(words)
    assert message in capsys.readouterr().err


def test_every_ratio_is_compared_with_weak_labels_alone(tmp_path):
    figures = ("IoU", "boundary F", "2D to the detector, px", "2D joints, px", "PA-MPJPE, mm", "MPJPE, mm")

    def result(run):
        better = 1 + 0.1 * run.settings.ratio if run.arm == TEXTURE else 1.0
        return {"weight": 2 * run.settings.ratio, "errors": {name: [better] * 3 for name in figures}}

    examples = SimpleNamespace(kind=torch.arange(3), person=torch.arange(3))
    experiment = SimpleNamespace(result=result, test=SimpleNamespace(examples=examples))
    run_ratios(SimpleNamespace(seeds=[0, 1], output=tmp_path / "ratios.json"), experiment, Settings())
    found = json.loads((tmp_path / "ratios.json").read_text())
    people = {row["arm"]: row for row in found["tables"]["people"]}
    assert list(people) == [WEAK, *(f"{TEXTURE}, ratio {ratio:g}" for ratio in RATIOS)]
    assert people[f"{TEXTURE}, ratio 2"]["IoU: change"].startswith("+0.200")
    assert found["weights"][f"{TEXTURE}, ratio 4"] == [8.0, 8.0]


@pytest.fixture(scope="module")
def encoder_trainer(examples):
    torch.manual_seed(0)
    return Trainer(
        Encoder(), examples, PhotographViews(examples.image), UVTextureEncoder.from_pretrained(), torch.zeros(21, 2)
    )


# Two steps of labels, two with a term.
TWO_EPOCHS = Settings(epochs=4, late=0.5, world_anchor=0.0, depth_anchor=0.0)


def test_shares_of_a_crop_are_where_it_shows_a_point():
    crop = Crop(torch.tensor([[60.0, 70.0], [64.0, 64.0]]), torch.tensor([100.0, 150.0]), torch.tensor([0.4, -1.0]))
    points = 40 * torch.randn(2, 21, 2) + 64
    assert torch.allclose(crop.image_points(CROP * crop.shares(points)), points, atol=1e-3)


def test_the_encoder_reads_no_keypoint(encoder_trainer, examples):
    moved = replace(examples, detections=examples.detections + 20, joints=examples.joints + 1, marks=-examples.marks)
    views = PhotographViews(moved.image)
    joints = seen_joints(encoder_trainer.start, moved, views)
    assert torch.equal(joints, seen_joints(encoder_trainer.start, examples, encoder_trainer.views))


def test_all_arms_are_shown_the_same_in_the_same_order(encoder_trainer):
    rows = torch.arange(8)
    shown = [encoder_trainer.views.drawn(rows, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(shown[0].image, shown[1].image)
    assert torch.equal(shown[0].crop.turn, shown[1].crop.turn)
    one, other = (encoder_trainer.batches(Run(arm, 1, TWO_EPOCHS), 2) for arm in (WEAK, TEXTURE))
    assert all(torch.equal(mine, its) for mine, its in zip(one, other))


def test_arms_of_the_same_labels_begin_as_one_training(encoder_trainer, examples):
    weak = weak_labels(examples.detections, 0)
    labels = labels_of(WEAK, examples, examples.detections, weak, weak)
    begun = [encoder_trainer.begun(Run(arm, 0, TWO_EPOCHS), labels) for arm in (WEAK, SILHOUETTE)]
    assert begun[0] is begun[1]
    assert encoder_trainer.begun(Run(CLEAN, 0, TWO_EPOCHS), labels) is not begun[0]
    before = {name: value.clone() for name, value in begun[0].network.state_dict().items()}
    trained, _ = encoder_trainer.train(Run(SILHOUETTE, 0, TWO_EPOCHS), weak, weak, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in begun[0].network.state_dict().items())
    assert not torch.equal(trained.head.out.weight, begun[0].network.head.out.weight)


def test_photographs_without_labels_teach_an_encoder_nothing_but_what_is_added(encoder_trainer, examples):
    nowhere = torch.full_like(examples.detections, torch.nan)
    labels = labels_of(FEW, examples, examples.detections, nowhere, nowhere)
    rows, term = torch.arange(8), encoder_trainer.term(TEXTURE)
    draws = torch.Generator().manual_seed(0)
    alone, added = encoder_trainer.objectives(encoder_trainer.start, Run(FEW, 0, TWO_EPOCHS), rows, labels, term, draws)
    assert added.isfinite()  # A logarithm of likelihoods: it may be negative.
    (gradient,) = torch.autograd.grad(added, encoder_trainer.start.head.out.weight, retain_graph=True)
    assert gradient.isfinite().all()
    assert gradient.any()
    keypoints = labels_of(WEAK, examples, examples.detections, examples.detections, nowhere)
    told, _ = encoder_trainer.objectives(
        encoder_trainer.start, Run(WEAK, 0, TWO_EPOCHS), rows, keypoints, None, torch.Generator().manual_seed(0)
    )
    assert (alone < told - 4).all()  # The maps' cross-entropy alone is nearly five nats, weighted by four.


def test_joints_in_space_lie_in_the_crops_axes():
    joints = torch.randn(3, 21, 3) * 0.05 + torch.tensor([0.0, 0.0, 0.6])
    joints[:, 0, :2] = 0  # The line of sight through the wrist is the optical axis.
    crop = Crop(torch.full((3, 2), 64.0), torch.full((3,), 128.0), torch.tensor([0.0, 0.5, math.pi / 2]))
    space = seen_in_space(joints, crop)
    assert torch.allclose(space.square().sum(dim=-1).mean(dim=1), torch.ones(3), atol=1e-5)
    middle = joints - joints.mean(dim=1, keepdim=True)
    back = crop.image_directions(space)
    size = middle.square().sum(dim=-1).mean(dim=1).sqrt()[:, None, None]
    assert torch.allclose(back * size, middle, atol=1e-5)


def test_generated_images_are_rehearsed_with_full_labels(encoder_trainer):
    rehearsal = Rehearsal(generated_samples(8, 128, torch.Generator().manual_seed(1)))
    value, again = (rehearsal(encoder_trainer.start, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(value, again)
    assert value > 10  # An untrained network's hands are centimetres off, and 2 cm count one.


def test_generated_hands_are_whole_in_their_crops_and_point_up():
    samples = generated_samples(12, 128, torch.Generator().manual_seed(1))
    batch, shown = generated_hands(samples, torch.arange(12), torch.Generator().manual_seed(2))
    marks = batch.camera.project(batch.joints)
    shares = shown.crop.shares(marks)
    assert ((shares > 0) & (shares < 1)).all()
    # Two deviations of the roll.
    assert (around(CROP * shares).turn.abs() <= math.radians(80) + 1e-3).all()


def test_an_interrupted_start_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("image_only.encoder.KEPT_EVERY", 1)
    samples = generated_samples(16, 128, torch.Generator().manual_seed(1))

    def trained(file, *stops):
        torch.manual_seed(0)
        encoder = Encoder()
        for stop in stops:
            train_seeing(encoder, samples, tmp_path / file, 3, stop)
        return encoder.state_dict()

    whole_run, halves = trained("one.pt", 3), trained("two.pt", 1, 3)
    assert all(torch.equal(value, halves[name]) for name, value in whole_run.items())


def test_an_encoders_checkpoint_is_evaluated_on_a_folder(tmp_path, encoder_trainer):
    write_folder(tmp_path / "people", 4, 128, left_share=0, person=np.array([0, 0, 1, 1]), vertices_cam_cm=None, seed=3)
    state = {"network": encoder_trainer.start.state_dict(), "offset": torch.zeros(21, 2)}
    torch.save(state, tmp_path / "run.pt")
    found = evaluated(EncoderAlone(), tmp_path / "run.pt", tmp_path / "people", tmp_path, False, (0.0, 0.0))
    assert found["people"] == 2
    assert 0 <= found["IoU"] <= 1
    assert found["2D to the detector, px"] > 0


@pytest.mark.slow
def test_the_head_learns_to_lay_hands_on_landmarks():
    torch.manual_seed(0)
    head, hands = MeshHead(), posed_hands(HandModel(), 64, 128, torch.Generator().manual_seed(7))

    def distance():
        with torch.no_grad():
            said = head(hands.landmarks, hands.world, hands.batch.camera)
        return (hands.batch.camera.project(said.joints) - hands.batch.keypoints).norm(dim=-1).mean().item()

    before = distance()
    train_head(head, 80, 32)
    assert distance() < 0.7 * before


@pytest.mark.slow
def test_a_run_is_kept_and_its_checkpoint_evaluated(tmp_path, backbone, monkeypatch):
    person = np.repeat([0, 1, 2], 4)
    for name in ("sld", "hgr"):
        write_folder(tmp_path / name, 12, 128, left_share=0, person=person, vertices_cam_cm=None, seed=3)
    write_folder(tmp_path / "video", 8, 128, left_share=0, first=0, vertices_cam_cm=None)
    split = Split((0, 1), 4, (0, 1), 4, range(8))
    monkeypatch.setattr(examples_module, "VIEWS", 2)
    keep = tmp_path / "keep"
    keep.mkdir()
    torch.save(MeshHead().state_dict(), keep / "head.pt")
    experiment = ImageOnlyExperiment(Landmarks(backbone), tmp_path, tmp_path / "video", keep)
    experiment.splits = (split, replace(split, sld=(2,), hgr=(2,)))
    run = Run(SILHOUETTE, 0, Settings(epochs=1))
    result = experiment.result(run)
    assert experiment.result(run) == result
    assert result["weight"] > 0
    assert all(len(values) == len(experiment.test.examples) for values in result["errors"].values())
    found = evaluated(Landmarks(backbone), experiment.file(run, "pt"), tmp_path / "sld", keep, False, (0.0, 0.0))
    assert found["people"] == 3
    assert 0 <= found["IoU"] <= 1


def test_the_network_read_from_the_file_says_what_its_interpreter_says():
    pytest.importorskip("tflite")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file, folder = os.environ.get("TEXALIGN_LANDMARK_MODEL"), os.environ.get("TEXALIGN_REAL_DATA")
    if not file or not folder:
        pytest.skip("needs TEXALIGN_LANDMARK_MODEL, hand_landmark_full.tflite, and TEXALIGN_REAL_DATA")
    network, image = read_backbone(file).eval(), read_photographs(Path(folder), range(0, 40, 10)).image
    crops = crops_of(network, image).cut(image)
    with torch.no_grad():
        landmarks, world = network.tail(network.stem(crops))
    model = interpreter.Interpreter(model_path=file, num_threads=1)
    model.allocate_tensors()
    outputs = model.get_output_details()
    for crop, seen, space in zip(crops, landmarks, world):
        model.set_tensor(model.get_input_details()[0]["index"], crop.permute(1, 2, 0)[None].contiguous().numpy())
        model.invoke()
        said = [torch.from_numpy(model.get_tensor(each["index"])) for each in outputs]
        points = [each[0] for each in said if each.shape == (1, 63)]
        assert torch.allclose(points[0], seen, atol=1e-2)
        assert torch.allclose(points[1], space, atol=1e-5)

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import smplx
import torch

import texalign as ta
from texalign.cli import synthetic_hands
from texalign.hand import (
    JOINT_ORDER,
    HandModel,
    ManoParameters,
    mano_hand,
    refine_mano,
    rotation_matrices,
    sample_pose,
)
from texalign.mano import write_mano

B, SIZE = 3, 64


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """smplx's two layers and one with manotorch's interface, all of the bundled hand."""
    path = str(write_mano(tmp_path_factory.mktemp("mano") / "MANO_RIGHT.pkl"))
    plain = smplx.MANO(path, is_rhand=True, use_pca=False, flat_hand_mean=True)
    matrices = smplx.MANOLayer(path, is_rhand=True)

    class Manotorch:
        th_faces = torch.from_numpy(plain.faces.astype("int64"))

        def __call__(self, pose, betas):
            hand = HandModel()(pose.view(-1, 16, 3), betas)
            return SimpleNamespace(verts=hand.vertices, joints=hand.joints)

    return {"axis-angle": plain, "matrices": matrices, "manotorch": Manotorch()}


@pytest.fixture(params=["axis-angle", "matrices", "manotorch"])
def case(request, layers):
    """A layer, parameters as it takes them, and the hand that they pose."""
    generator = torch.Generator().manual_seed(0)
    pose, betas = sample_pose(B, generator), torch.randn(B, 10, generator=generator)
    translation = torch.tensor([[0.0, 0.05, 0.6]]).repeat(B, 1)
    posed = HandModel()(pose, betas)
    if request.param == "matrices":
        turns = rotation_matrices(pose)
        parameters = ManoParameters(turns[:, :1], turns[:, 1:], betas, translation)
    else:
        parameters = ManoParameters(pose[:, 0], pose[:, 1:].flatten(1), betas, translation)
    return layers[request.param], parameters, posed.vertices + translation[:, None], posed.joints + translation[:, None]


CAMERA = ta.PinholeCamera(torch.full((B, 2), 150.0), torch.full((B, 2), SIZE / 2))
IMAGE = torch.zeros(B, 3, SIZE, SIZE)


def distance_to(target):
    """A loss that knows where the vertices belong: (B,) centimetres."""
    return lambda vertices, *inputs, **options: 100 * (vertices - target).norm(dim=-1).mean(dim=1)


def test_a_layer_poses_vertices_and_the_21_joints(case):
    layer, parameters, vertices, joints = case
    found = mano_hand(layer, parameters)
    torch.testing.assert_close(found[0], vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], joints, atol=1e-5, rtol=0)
    assert len(JOINT_ORDER) == found[1].shape[1]


def test_it_follows_the_loss_and_leaves_the_prediction_alone(case):
    layer, parameters, vertices, _ = case
    target = vertices + torch.tensor([0.004, -0.003, 0.01])
    kept = [tensor.clone() for tensor in vars(parameters).values()]
    refined = refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(target), anchor=1e-3, steps=25)
    with torch.no_grad():
        before, after = (
            (mano_hand(layer, some)[0] - target).norm(dim=-1).mean(dim=1) for some in (parameters, refined)
        )
    assert (after < 0.4 * before).all()
    assert all(torch.equal(tensor, old) for tensor, old in zip(vars(parameters).values(), kept))
    assert torch.equal(refined.betas, parameters.betas)
    assert not any(tensor.requires_grad for tensor in vars(refined).values())
    if refined.hand_pose.dim() == 4:
        identity = refined.hand_pose @ refined.hand_pose.transpose(-1, -2)
        torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)


def test_a_strong_anchor_keeps_the_prediction(case):
    layer, parameters, vertices, _ = case
    moves = []
    for anchor in (0.05, 50.0):
        refined = refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(vertices + 0.02), anchor=anchor, steps=20)
        moves.append((mano_hand(layer, refined)[0] - vertices).norm(dim=-1).mean())
    assert moves[1] < 0.3 * moves[0]


def test_the_shape_changes_if_asked(case):
    layer, parameters, vertices, _ = case
    refined = refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(1.05 * vertices), fit_shape=True, steps=5)
    assert not torch.equal(refined.betas, parameters.betas)


def test_keypoints_pull_and_unknown_ones_do_not(case):
    layer, parameters, _, joints = case
    keypoints = CAMERA.project(joints) + 3
    keypoints[:, 5] = torch.nan

    def nothing(vertices, *inputs, **options):
        return 0 * vertices.sum(dim=(1, 2))

    refined = refine_mano(layer, parameters, CAMERA, IMAGE, nothing, keypoints=keypoints, anchor=1e-2, steps=20)
    with torch.no_grad():
        gap = (CAMERA.project(mano_hand(layer, refined)[1]) - keypoints).norm(dim=-1).nanmean()
    assert gap < 3  # from 4.2


def test_everything_else_goes_to_the_loss(case):
    layer, parameters, _, _ = case
    given = {
        "mask": torch.ones(B, 1, SIZE, SIZE),
        "valid": torch.ones(B, 1, SIZE, SIZE),
        "is_right": torch.ones(B, dtype=torch.bool),
        "group": torch.zeros(B, dtype=torch.int64),
        "generator": torch.Generator(),
    }

    def loss(vertices, camera, image, **options):
        assert camera is CAMERA and image is IMAGE
        assert all(options[name] is value for name, value in given.items())
        return vertices.sum(dim=(1, 2))

    refine_mano(layer, parameters, CAMERA, IMAGE, loss, **given, steps=1)


def test_what_does_not_fit_is_refused(case):
    layer, parameters, vertices, _ = case
    mean = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE)
    with pytest.raises(ValueError, match=r'refine_mano: expected a loss with reduction="none", got \'mean\''):
        refine_mano(layer, parameters, CAMERA, IMAGE, mean)
    with pytest.raises(ValueError, match=r"refine_mano: expected anchor > 0 and steps > 0"):
        refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(vertices), anchor=0.0)
    with pytest.raises(ValueError, match=r"refine_mano: expected image \(3, 3, H, W\)"):
        refine_mano(layer, parameters, CAMERA, IMAGE[:2], distance_to(vertices))
    for change, said in (
        ({"betas": parameters.betas[:, :3]}, r".*its betas, got .*betas \(3, 3\)"),
        ({"hand_pose": parameters.hand_pose[:, :5]}, "axis-angles or rotation matrices, whichever"),
        ({"translation": torch.full((B, 3), torch.nan)}, r"finite translation, got others in samples \[0, 1, 2\]"),
    ):
        with pytest.raises(ValueError, match=f"refine_mano: expected {said}"):
            refine_mano(layer, replace(parameters, **change), CAMERA, IMAGE, distance_to(vertices))
    normalised = torch.rand(B, 21, 2)
    with pytest.raises(ValueError, match="refine_mano: expected keypoints in pixels, got normalised ones"):
        refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(vertices), keypoints=normalised)
    with pytest.raises(TypeError, match="refine_mano: expected smplx's or manotorch's layer, got SimpleNamespace"):
        refine_mano(SimpleNamespace(), parameters, CAMERA, IMAGE, distance_to(vertices))


def test_predictions_of_inference_mode_are_refined_in_it(case):
    layer, parameters, vertices, _ = case
    with torch.inference_mode():
        predicted = ManoParameters(*(tensor.clone() for tensor in vars(parameters).values()))
        found = refine_mano(layer, predicted, CAMERA, IMAGE, distance_to(vertices + 0.01), steps=2)
    expected = refine_mano(layer, parameters, CAMERA, IMAGE, distance_to(vertices + 0.01), steps=2)
    assert all(torch.equal(mine, other) for mine, other in zip(vars(found).values(), vars(expected).values()))


@pytest.mark.slow
def test_misplaced_predictions_come_nearer_in_the_image_without_keypoints(layers):
    hands, model, start = synthetic_hands(8, SIZE, seed=3)
    turns = model.pose_from_angles(start.angles, start.orientation)
    predicted = ManoParameters(turns[:, :1], turns[:, 1:], model.betas, start.translation)
    loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=SIZE, reduction="none")
    generator = torch.Generator().manual_seed(0)
    refined = refine_mano(layers["matrices"], predicted, hands.camera, hands.image, loss, steps=40, generator=generator)
    true = hands.camera.project(hands.vertices)
    with torch.no_grad():
        before, after = (
            (hands.camera.project(mano_hand(layers["matrices"], some)[0]) - true).norm(dim=-1).mean()
            for some in (predicted, refined)
        )
    # Over 64 hands it is half; docs/your-photographs.md has the numbers.
    assert after < 0.75 * before

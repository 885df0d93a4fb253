from __future__ import annotations

import pytest
import torch

import texalign as ta
from texalign.adapters import IMAGENET_STD

pytest_plugins = ("real_hamer",)

F32, F64 = torch.float32, torch.float64
PARAMETERS = {"global_orient": 3, "hand_pose": 45, "betas": 10}


def flat(batch, prefix=""):
    for name, value in batch.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_batch_has_the_loaders_keys_shapes_and_dtypes(hamer):
    batch = hamer.training_batch(2, seed=0)
    expected = {
        "img": ((2, 3, 256, 256), F32),
        "mask": ((2, 256, 256), F32),
        "keypoints_2d": ((2, 21, 3), F32),
        "keypoints_3d": ((2, 21, 4), F32),
        "orig_keypoints_2d": ((2, 21, 3), F32),
        "box_center": ((2, 2), F64),
        "box_size": ((2,), F64),
        "img_size": ((2, 2), F64),
        **{f"mano_params.{name}": ((2, size), F32) for name, size in PARAMETERS.items()},
        **{f"has_mano_params.{name}": ((2,), F64) for name in PARAMETERS},
        **{f"mano_params_is_axis_angle.{name}": ((2,), torch.bool) for name in PARAMETERS},
        "_scale": ((2, 2), F64),
        "_trans": ((2, 2, 3), F64),
        "imgname": None,
    }
    found = {n: None if isinstance(v, list) else (tuple(v.shape), v.dtype) for n, v in flat(batch)}
    assert found == expected
    assert "right" not in batch
    joint = hamer.joint_batch(2, seed=0)
    assert all(value.is_contiguous() for _, value in flat(joint) if torch.is_tensor(value))  # HaMeR takes views
    assert [batch["mano_params_is_axis_angle"][name].all().item() for name in PARAMETERS] == [True, True, False]
    mocap = joint["mocap"]
    assert {n: (tuple(v.shape), v.dtype) for n, v in mocap.items()} == {
        "hand_pose": ((4, 45), F32),
        "betas": ((4, 10), F32),
    }


def test_output_has_the_networks_keys_shapes_and_dtypes(hamer):
    model, batch = hamer.make_model(0), hamer.training_batch(2, seed=0)
    output = model.forward_step(batch, train=True)
    rotations = {"global_orient": (2, 1, 3, 3), "hand_pose": (2, 15, 3, 3), "betas": (2, 10)}
    expected = {
        "pred_cam": (2, 3),
        **{f"pred_mano_params.{name}": shape for name, shape in rotations.items()},
        "pred_cam_t": (2, 3),
        "focal_length": (2, 2),
        "pred_keypoints_3d": (2, 21, 3),
        "pred_vertices": (2, 778, 3),
        "pred_keypoints_2d": (2, 21, 2),
    }
    assert {name: tuple(value.shape) for name, value in flat(output)} == expected
    assert {value.dtype for _, value in flat(output)} == {F32}
    assert set(output["focal_length"].flatten().tolist()) == {5000.0}
    camera, translation = ta.PinholeCamera.from_hamer(output["pred_cam"], pixel_offset=0.0)
    pixels = camera.project(output["pred_keypoints_3d"] + translation[:, None])
    torch.testing.assert_close(256 * (output["pred_keypoints_2d"] + 0.5), pixels, rtol=1e-4, atol=1e-2)
    loss = model.compute_loss(batch, output, train=True)
    names = ["loss", "loss_keypoints_2d", "loss_keypoints_3d", *(f"loss_{name}" for name in PARAMETERS)]
    assert list(output["losses"]) == names
    assert all(value.dim() == 0 and not value.requires_grad for value in output["losses"].values())
    assert loss.requires_grad and loss.dtype == F32 and loss.item() == output["losses"]["loss"].item()
    weights = dict(zip(names[1:], (0.01, 0.05, 0.001, 0.001, 0.0005)))
    assert loss.item() == pytest.approx(sum(w * output["losses"][n].item() for n, w in weights.items()), rel=1e-5)


@pytest.mark.parametrize("left_share", [0.0, 1.0], ids=["right", "left"])
def test_the_true_hand_lies_on_keypoints_and_mask(hamer, left_share):
    batch = hamer.training_batch(2, seed=1, left_share=left_share)
    output = hamer.truth(batch)
    error = 256 * (output["pred_keypoints_2d"] - batch["keypoints_2d"][..., :2]).norm(dim=-1)
    assert error.max() < 2.0 and error.mean() < 0.7
    camera, translation = ta.PinholeCamera.from_hamer(output["pred_cam"])
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size=256)
    out = renderer(output["pred_vertices"] + translation[:, None], camera, torch.ones(1, 3, 1, 1))
    drawn, mask = out.coverage[:, 0] > 0.5, batch["mask"] > 0.5
    assert ((drawn & mask).sum((1, 2)) / (drawn | mask).sum((1, 2)) > 0.93).all()
    model = hamer.make_model(0)
    assert model.compute_loss(batch, output) < 2e-3 * model.compute_loss(batch, model.forward_step(batch))
    assert (output["pred_cam"][:, 0] > 4).all() and (output["pred_cam_t"][:, 2] > 2).all()


def test_both_loaders_make_the_same_batch(stand_in_hamer, real_hamer):
    ours, theirs = (
        dict(flat(kind.training_batch(4, seed=0, augment=False, box_scale=1.8)))
        for kind in (stand_in_hamer, real_hamer)
    )
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        if name == "imgname":
            assert ours[name] == value
        elif name == "img":
            # One grey level, where OpenCV's fixed-point interpolation rounds the other way.
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1.1 / 255 / min(IMAGENET_STD))
            assert (ours[name] - value).abs().mean() < 1e-3
        elif name == "mask":
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1.1 / 255)
        else:
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-4 if name == "_trans" else 1e-6)


def test_both_compute_the_same_losses(stand_in_hamer, real_hamer):
    batch = real_hamer.training_batch(2, seed=0)
    batch["has_mano_params"]["betas"][0] = 0.0
    batch["keypoints_2d"][0, 3, 2] = batch["keypoints_3d"][1, 5, 3] = 0.0
    real = real_hamer.make_model(0)
    output = real.forward_step(batch)
    theirs = real.compute_loss(batch, output)
    expected = output.pop("losses")
    ours = stand_in_hamer.make_model(0).compute_loss(batch, output)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    torch.testing.assert_close(output["losses"], expected, rtol=1e-5, atol=1e-7)


def test_both_pose_and_project_the_same_hand(stand_in_hamer, real_hamer):
    import hamer_stand_in

    real = real_hamer.make_model(0)
    output = real.forward_step(real_hamer.training_batch(2, seed=0))
    parameters, cam = output["pred_mano_params"], output["pred_cam"]
    ours = hamer_stand_in.outputs(stand_in_hamer.make_model(0).mano, parameters, cam)
    torch.testing.assert_close(ours, output, rtol=1e-5, atol=1e-5)

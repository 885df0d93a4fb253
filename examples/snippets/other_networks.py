import torch

import texalign as ta

# --8<-- [start:imports]
from texalign.adapters import (
    full_image,
    orthographic,
    root_relative,
    translation_from_joints,
    weak_perspective,
)

# --8<-- [end:imports]
from texalign.hand import HandModel
from texalign.loss import LossInputs

hand = HandModel()(torch.zeros(2, 16, 3))
vertices = hand.vertices
pred_vertices, pred_camera, images = vertices, torch.tensor([[8.0, 0.09, 0.0]]).repeat(2, 1), torch.rand(2, 3, 224, 224)
loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(224)
# --8<-- [start:orthographic]
loss = loss_fn(*orthographic(pred_vertices, pred_camera, images))
# --8<-- [end:orthographic]
assert loss.isfinite()

pred_verts, cams, vertex_order = vertices, pred_camera, torch.arange(778)
# --8<-- [start:weak_perspective]
loss = loss_fn(*weak_perspective(pred_verts, cams, images, vertex_order=vertex_order))
# --8<-- [end:weak_perspective]
assert loss.isfinite()

calib = torch.tensor([[400.0, 0, 128, 0], [0, 400, 64, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).repeat(2, 1, 1)
out = {"verts": vertices / 0.2}
data = {"img": torch.rand(2, 3, 128, 128), "calib": calib, "root": torch.tensor([[0.0, 0, 0.5]]).repeat(2, 1)}
data["mask"] = torch.ones(2, 128, 128)
loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(128)
# --8<-- [start:root_relative]
loss = loss_fn(*root_relative(out["verts"], data["root"], data["calib"], data["img"], data["mask"]))
# --8<-- [end:root_relative]
assert loss.isfinite()

loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(256)
batch = {
    "img": torch.rand(1, 2, 3, 256, 256),
    "center": torch.full((1, 2, 2), 300.0),
    "scale": torch.full((1, 2), 1.0),
    "img_focal": torch.full((1, 2), 600.0),
    "img_center": torch.tensor([[[320.0, 240.0]]]).repeat(1, 2, 1),
}
output = {"out": {"trans_full": torch.tensor([[[0.06, 0.05, 0.6]]]).repeat(2, 1, 1)}}
# --8<-- [start:full_image]
inputs = full_image(
    vertices,  # model.mano.query(output["out"]).vertices
    output["out"]["trans_full"],
    batch["img"],
    batch["center"],
    batch["scale"],
    batch["img_focal"],
    batch["img_center"],
    do_flip="do_flip" in batch,
)
loss = loss_fn(*inputs)
# --8<-- [end:full_image]
assert loss.isfinite()

mesh_coord_cam, manojoints2cam, images = vertices, hand.joints, torch.rand(2, 3, 256, 256)
joints_coord_img = 0.5 + 2 * manojoints2cam[..., :2]
focal = torch.full((2, 2), 600.0)
# --8<-- [start:translation_from_joints]
camera = ta.PinholeCamera(focal, torch.full_like(focal, 128.5))
translation = translation_from_joints(manojoints2cam, joints_coord_img * 256 + 0.5, camera)
loss = loss_fn(*LossInputs(mesh_coord_cam + translation[:, None], camera, images))
# --8<-- [end:translation_from_joints]
assert loss.isfinite()

angles = torch.tensor([0.5, -0.9])
turn = torch.stack([torch.stack([angles.cos(), -angles.sin()], 1), torch.stack([angles.sin(), angles.cos()], 1)], 1)
img2bb_trans = torch.cat([1.5 * turn, torch.tensor([[[40.0], [-30.0]]]).expand(2, -1, -1)], dim=2)
K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]).expand(2, -1, -1)
# --8<-- [start:rotated]
scale = img2bb_trans[:, :, 0].norm(dim=1, keepdim=True)  # crop pixels per pixel of the photograph
angle = torch.atan2(img2bb_trans[:, 1, 0], img2bb_trans[:, 0, 0])
camera, rotation = ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5).rotated(angle, about=(0, 0))
camera = camera.cropped(-img2bb_trans[:, :, 2] / scale, scale)  # sees vertices @ rotation.transpose(1, 2)
# --8<-- [end:rotated]
photograph = ta.PinholeCamera.from_intrinsics(K, pixel_offset=0.5).project(vertices + torch.tensor([0.0, 0.0, 0.5]))
expected = photograph @ img2bb_trans[:, :, :2].transpose(1, 2) + img2bb_trans[:, None, :, 2]
seen = camera.project((vertices + torch.tensor([0.0, 0.0, 0.5])) @ rotation.transpose(1, 2))
assert (seen - expected).abs().max() < 0.01

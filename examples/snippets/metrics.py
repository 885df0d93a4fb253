"""What a validation loop measures."""

from __future__ import annotations

import torch

import texalign as ta

# --8<-- [start:import]
from texalign import metrics

# --8<-- [end:import]
from texalign.hand import HandModel, sample_pose

# Stands for your network and its validation batches of 2 hands each.
hand = HandModel()
place = torch.tensor([0.0, 0.0, 0.6])
pose = sample_pose(4, torch.Generator().manual_seed(0))
true = hand(pose)
predicted = hand(pose + 0.1 * torch.randn(pose.shape, generator=torch.Generator().manual_seed(1)))
joints, true_joints = predicted.joints + place, true.joints + place
vertices, true_vertices = predicted.vertices + place, true.vertices + place
annotated = torch.ones(4, 21, dtype=torch.bool)
visible = annotated & (torch.arange(21) < 16)
batches = torch.arange(4).split(2)

# --8<-- [start:points]
errors = []
for batch in batches:
    errors.append(metrics.pa_mpjpe_mm(joints[batch], true_joints[batch]))  # (B,) millimetres
print("PA-MPJPE:", torch.cat(errors).nanmean())
# --8<-- [end:points]

camera = ta.PinholeCamera(torch.full((4, 2), 150.0), torch.full((4, 2), 32.0))
points, true_points = camera.project(joints), camera.project(true_joints)
box_size = (true_points.amax(dim=1) - true_points.amin(dim=1)).amax(dim=1)

# --8<-- [start:pck]
correct = []
for batch in batches:
    correct.append(
        metrics.correct_joints(
            points[batch],  # (B, 21, 2) pixels
            true_points[batch],
            box_size[batch],  # (B,) pixels
            threshold=0.05,
            among=(annotated & ~visible)[batch],  # (B, 21) bool
        )
    )
by_joint = torch.cat(correct).nanmean(dim=0)  # NaN for joints that are never occluded
print("PCK@0.05 of occluded joints:", by_joint.nanmean())
# --8<-- [end:pck]

renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size=64)
image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
mask = renderer(true_vertices, camera, torch.full((4, 3, 64, 64), 0.5)).coverage
rendering = renderer(vertices, camera, torch.full((4, 3, 64, 64), 0.5))

# --8<-- [start:images]
overlap = metrics.mask_iou(rendering.coverage, mask)
outline = metrics.boundary_f_score(rendering.coverage, mask)
decibels = metrics.psnr_db(rendering.image, image, mask)
# --8<-- [end:images]

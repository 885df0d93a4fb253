"""What a validation loop measures, and the files that evaluation servers take."""

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

# --8<-- [start:freihand]
scores = metrics.MeanOverSamples()
for batch in batches:
    scores.update(
        metrics.freihand_scores(joints[batch], true_joints[batch], vertices[batch], true_vertices[batch]),
    )
for name, value in scores.compute().items():
    print(f"{name:14} {value:.3f}")
# --8<-- [end:freihand]

camera = ta.PinholeCamera(torch.full((4, 2), 150.0), torch.full((4, 2), 32.0))
points, true_points = camera.project(joints), camera.project(true_joints)
box_size = (true_points.amax(dim=1) - true_points.amin(dim=1)).amax(dim=1)

# --8<-- [start:pck]
occluded_pck = metrics.MeanOverSamples()
for batch in batches:
    occluded_pck.update(
        metrics.correct_joints(
            points[batch],  # (B, 21, 2) pixels
            true_points[batch],
            box_size[batch],  # (B,) pixels
            threshold=0.05,
            among=(annotated & ~visible)[batch],  # (B, 21) bool
        )
    )
print("PCK@0.05 of occluded joints:", occluded_pck.compute().nanmean())  # over joints that occur
# --8<-- [end:pck]

renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size=64)
image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
mask = renderer(true_vertices, camera, torch.full((4, 3, 64, 64), 0.5)).coverage
rendering = renderer(vertices, camera, torch.full((4, 3, 64, 64), 0.5))

# --8<-- [start:images]
overlap = metrics.mask_iou(rendering.coverage, mask)
outline = metrics.boundary_f_score(rendering.coverage, mask)
decibels = metrics.psnr_db(rendering.image, image, mask)
similarity = metrics.ssim(rendering.image, image, mask)
# --8<-- [end:images]

# --8<-- [start:files]
metrics.write_freihand_predictions("freihand.zip", joints, vertices)
metrics.write_ho3d_predictions("ho3d.zip", joints, vertices)
# --8<-- [end:files]

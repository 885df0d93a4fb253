import torch

import texalign as ta
from texalign import synthetic

# --8<-- [start:imports]
from texalign.adapters import check, unnormalised
from texalign.loss import LossInputs

# --8<-- [end:imports]

# What a loader and a network of nobody's give: here synthetic hands, and the truth in place of a prediction.
batch = synthetic.generate(8, image_size=128, generator=torch.Generator().manual_seed(1), left_share=0)
mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
network_input = (batch.image - mean) / std
K = torch.eye(3).repeat(8, 1, 1)
K[:, [0, 1], [0, 1]], K[:, :2, 2] = batch.camera.focal, batch.camera.principal
pred_translation = batch.joints[:, 0].clone().requires_grad_()
pred_vertices = (batch.vertices - batch.joints[:, :1]).requires_grad_()

# --8<-- [start:once]
loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128)
# --8<-- [end:once]

# --8<-- [start:step]
vertices = pred_vertices + pred_translation[:, None]  # metres, x right, y down, z forward from the camera
camera = ta.PinholeCamera.from_intrinsics(K)  # of the crop, in its pixels
image = unnormalised(network_input)  # RGB in [0, 1]
inputs = LossInputs(vertices, camera, image)
loss = loss_fn(*inputs)
# --8<-- [end:step]
loss.backward()

# --8<-- [start:check]
report = check(*inputs, path="check.png")
print(report)
# --8<-- [end:check]

assert report.ok, str(report)
for output in (pred_vertices, pred_translation):
    assert output.grad is not None and output.grad.abs().sum() > 0

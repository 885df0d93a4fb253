# --8<-- [start:imports]
import torch

import texalign as ta

# --8<-- [end:imports]
from texalign.hand import HandModel

pred_vertices = HandModel()(torch.zeros(1, 16, 3)).vertices.requires_grad_()
pred_cam, image = torch.tensor([[6.0, 0.07, 0.0]]), torch.rand(1, 3, 256, 256)

# --8<-- [start:shown]
loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256)  # MANO's topology, the bundled prior

camera, translation = ta.PinholeCamera.from_hamer(pred_cam)  # (B, 3), as HaMeR predicts it
vertices = pred_vertices + translation[:, None]  # (B, 778, 3) metres, camera frame

loss = loss_fn(vertices, camera, image)  # image (B, 3, 256, 256) in [0, 1]
loss.backward()
# --8<-- [end:shown]

assert pred_vertices.grad is not None and pred_vertices.grad.abs().sum() > 0

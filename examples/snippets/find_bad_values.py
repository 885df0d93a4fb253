import torch

import texalign as ta
from texalign.hand import HandModel

camera, translation = ta.PinholeCamera.from_hamer(torch.tensor([[6.0, 0.07, 0.0]]))
vertices = HandModel()(torch.zeros(1, 16, 3)).vertices + translation[:, None]
normalised_image = torch.rand(1, 3, 256, 256) * 4 - 2

# --8<-- [start:shown]
texture_loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256, validate=True)
try:
    texture_loss(vertices, camera, normalised_image)
except ValueError as error:
    said = str(error)
# --8<-- [end:shown]

print(said)
assert "an ImageNet-normalised image? Undo it first" in said

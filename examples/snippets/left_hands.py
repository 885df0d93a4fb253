import torch

import texalign as ta
from texalign import synthetic

batch = synthetic.generate(6, image_size=128, generator=torch.Generator().manual_seed(3), left_share=0.5)
vertices, camera, image, is_right = batch.vertices, batch.camera, batch.image, batch.is_right
texture_loss = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128, reduction="none")

torch.manual_seed(0)

# --8<-- [start:shown]
# Left-hand vertices on images of left hands: the loss mirrors these samples into the right hand's atlas.
loss = texture_loss(vertices, camera, image, is_right=is_right)
# --8<-- [end:shown]

assert bool(is_right.any()) and not bool(is_right.all())
mirrored = batch.canonical()
torch.manual_seed(0)  # the same draw of observations
same = texture_loss(mirrored.vertices, mirrored.camera, mirrored.image)
assert loss.shape == (6,) and torch.isfinite(loss).all()
torch.testing.assert_close(loss, same)

import torch

import texalign as ta
from texalign import synthetic

batch = synthetic.generate(2, image_size=64, generator=torch.Generator().manual_seed(1), left_share=0)
vertices, camera, image = batch.vertices, batch.camera, batch.image
renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), image_size=64)
before = ta.UVTextureEncoder.from_pretrained().state_dict()

# --8<-- [start:shown]
encoder = ta.UVTextureEncoder.from_pretrained().train()
texture_loss = ta.DenseTextureAlignmentLoss(renderer, encoder, train_texture=True)
prior_optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-5)  # the network's own optimizer does not hold these

texture_loss(vertices, camera, image).backward()
prior_optimizer.step()
prior_optimizer.zero_grad()
# --8<-- [end:shown]

assert any((tensor != before[name]).any() for name, tensor in encoder.state_dict().items())

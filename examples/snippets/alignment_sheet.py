"""The same picture in a loop of one's own."""

from __future__ import annotations

import torch

import texalign as ta
from texalign import synthetic, viz

loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=128)

hands = synthetic.generate(3, 128, torch.Generator().manual_seed(3))  # stands for a batch
vertices = hands.vertices + torch.tensor([0.012, 0.004, 0.0])  # and for what a network made of it

# --8<-- [start:shown]
loss, details = loss_fn(vertices, hands.camera, hands.image, is_right=hands.is_right, return_details=True)
sheet = viz.alignment_sheet(hands.image, details, hands.is_right, loss_fn.renderer.surface)
viz.save_png("alignment.png", sheet)
# --8<-- [end:shown]

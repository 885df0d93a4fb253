"""HaMeR trained with the texture's loss; the stand-in stands for `hamer.models.HAMER`, and its loader for HaMeR's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the stand-in lies in examples/

import pytorch_lightning as pl
from hamer_batches import joint_batch
from hamer_stand_in import make_model
from torch.utils.data import DataLoader

model = make_model()
batches: Any = [joint_batch(2, seed) for seed in range(2)]
loader = DataLoader(batches, batch_size=None)

# --8<-- [start:attach]
import texalign as ta
from texalign.adapters import hamer

loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256)
handle = hamer.attach(model, loss_fn, warm_up=1000)
# --8<-- [end:attach]

# --8<-- [start:train]
from texalign.lightning import TextureAlignmentLogger

pictures = TextureAlignmentLogger(handle.loss_fn, every_n_batches=1000)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[pictures])
trainer.fit(model, loader)  # as before
handle.detach()
# --8<-- [end:train]
assert handle.batches == 2

# --8<-- [start:prior]
loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=256, train_texture=True)
handle = hamer.attach(model, loss_fn)
# --8<-- [end:prior]

# --8<-- [start:loop]
batch = batches[0]["img"]
output = model.forward_step(batch, train=True)
loss = model.compute_loss(batch, output, train=True)  # its own loss, and the texture's
loss.backward()
handle.save("texture.pt")  # what the handle has to remember: beside your checkpoint
handle.load("texture.pt")
# --8<-- [end:loop]

# --8<-- [start:look]
from texalign.adapters import check
from texalign.viz import alignment_sheet, save_png

inputs = handle.loss_inputs(batch, output)
_, details = handle.loss_fn(*inputs, return_details=True)
save_png("hands.png", alignment_sheet(inputs.image, details))
print(check(*inputs, path="check.png"))  # what looks wrong with the wiring, in words
# --8<-- [end:look]

"""Pictures of what the loss sees, written by Lightning's logger while a network trains."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl  # or: import pytorch_lightning as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

import texalign as ta
from texalign.hand import HandModel

# --8<-- [start:import]
from texalign.lightning import TextureAlignmentLogger

# --8<-- [end:import]


class Network(pl.LightningModule):
    """Stands for yours: it moves one hand about, and looks at no image."""

    def __init__(self) -> None:
        super().__init__()
        self.translation = torch.nn.Parameter(torch.tensor([0.02, 0.0, 0.6]))
        self.hand = HandModel()
        self.loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=64)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The loss, and nothing else."""
        vertices = self.hand(torch.zeros(len(batch), 16, 3)).vertices + self.translation
        camera = ta.PinholeCamera(torch.full((len(batch), 2), 150.0), torch.full((len(batch), 2), 32.0))
        loss: Tensor = self.loss_fn(vertices, camera, batch)
        self.log("train/loss_texture", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Of the network alone: the prior is frozen."""
        return torch.optim.Adam([self.translation], lr=1e-3)


# --8<-- [start:shown]
trainer = pl.Trainer(
    max_steps=4,
    accelerator="cpu",
    logger=TensorBoardLogger("logs"),
    callbacks=[TextureAlignmentLogger(every_n_batches=2, count=2)],
    enable_checkpointing=False,
)
# --8<-- [end:shown]
images: Any = torch.rand(8, 3, 64, 64)
trainer.fit(Network(), torch.utils.data.DataLoader(images, batch_size=2))

"""Two processes train HaMeR and the prior; each says where it ended. Run by adapters/test_hamer.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import pytorch_lightning as pl
import torch

import texalign as ta
from texalign.adapters import hamer


def main(kind: str, folder: str) -> None:
    if kind == "real":
        from hamer_checkout import joint_batch, make_model
    else:
        from hamer_batches import joint_batch
        from hamer_stand_in import make_model
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    model = make_model(0)
    model.cfg.TRAIN.LR = 1e-4
    renderer = ta.TexturedHandRenderer(ta.HandSurface.mano(), 64)
    loss_fn = ta.DenseTextureAlignmentLoss(renderer, ta.UVTextureEncoder.from_pretrained(), train_texture=True)
    handle = hamer.attach(model, loss_fn)
    batches = [joint_batch(2, seed=10 * rank + number) for number in range(3)]
    if rank == 1:
        batches[1]["img"].pop("_trans")
        batches[1]["img"]["img"][:] = -4.0  # all padding: nothing to compare in this process
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        # HaMeR's second optimiser needs it, with or without the texture's loss.
        strategy="ddp_find_unused_parameters_true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(Path(folder) / "last.ckpt")
    handle.detach()
    ends = {"network": model.get_parameters(), "prior": loss_fn.encoder.parameters()}
    ended = {name: torch.cat([p.detach().flatten() for p in parameters]) for name, parameters in ends.items()}
    counts = {"skipped": handle.skipped, "batches": handle.batches, "weight": handle.weight}
    torch.save({**ended, **counts}, Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])

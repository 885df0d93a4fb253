"""One loss over all processes of a distributed run: the mean over every hand that any of them sees."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import texalign as ta
from texalign.hand import HandModel


# --8<-- [start:shown]
def mean_over_processes(loss_fn: ta.DenseTextureAlignmentLoss, *inputs: Any, **options: Any) -> Tensor:
    """What one process would get for the whole batch; `loss_fn` has ``reduction="sum"``."""
    total, details = loss_fn(*inputs, **options, return_details=True)
    kept = (~details.skipped).sum()
    dist.all_reduce(kept)
    # DistributedDataParallel divides gradients by the number of processes: undo it.
    mean: Tensor = total * dist.get_world_size() / kept.clamp(min=1)
    return mean


# --8<-- [end:shown]
def main() -> None:
    """Start with torchrun, or alone."""
    if not dist.is_torchelastic_launched():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group("gloo")
    loss_fn = ta.DenseTextureAlignmentLoss.from_pretrained(image_size=64, reduction="sum")

    # Stands for your network, its batch and its camera.
    torch.manual_seed(dist.get_rank())
    translation = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.6]))
    vertices = HandModel()(torch.zeros(2, 16, 3)).vertices + translation
    camera = ta.PinholeCamera(torch.full((2, 2), 150.0), torch.full((2, 2), 32.0))
    image = torch.rand(2, 3, 64, 64)

    loss = mean_over_processes(loss_fn, vertices, camera, image)
    loss.backward()
    print(f"process {dist.get_rank()} of {dist.get_world_size()}: loss {loss.item():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import texalign as ta
from host_network import Step, batch_of, gradients, relative_difference, step_of

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"
PROCESSES, SIZE = 2, 32
# A case: the loss's reduction, and where the whole batch of 4 is cut.
CASES = {
    "mean, as many each": ("mean", 2),
    "sum": ("sum", 1),
    "nothing in sight": ("sum", 2),
    "empty batch": ("sum", 4),
}
WRAPPED = ("frozen", "together", "apart", "mean over processes")
# Gradients relative to their length: batches of other sizes are summed in other orders, which gives 1e-6, up to 1e-3
# where a pixel changes sides of a threshold; a wrong factor, sample or draw gives 0.1 and more.
ROUNDING = 1e-2


def whole_batch(name):
    batch = batch_of(4, SIZE)
    if name == "nothing in sight":  # of the second process
        batch.principal[2:] += 1e4
    return batch


def draws(first=0):
    """Where the draw of observations begins for the batch's part from this sample on: it takes a number a pixel."""
    generator = torch.Generator().manual_seed(0)
    torch.rand(first, SIZE, SIZE, generator=generator)
    return generator


class MeanOverProcesses(Step):
    def forward(self, batch, **options):
        """By the function that the page on several processes shows."""
        page, shown = PAGE.read_text(encoding="utf-8"), {}
        (code,) = re.findall(r"```python\n(import torch.distributed.*?)```", page, flags=re.DOTALL)
        exec(code, shown)
        camera = ta.PinholeCamera(batch.focal, batch.principal)
        return shown["mean_over_processes"](self.loss_fn, self.host(batch.image), camera, batch.image, **options)


def step_for(how, reduction):
    learned = how in ("together", "apart")
    step = step_of(SIZE, train_texture=learned, token_count=64, reduction=reduction)
    step.loss_fn.encoder.requires_grad_(learned)
    return step


def wrapped(how, reduction):
    """Host and loss in one wrapper, the prior frozen or not, or each in its own, as for a second optimiser."""
    if how == "mean over processes":
        step = step_for(how, "sum")
        return MeanOverProcesses(DistributedDataParallel(step.host), step.loss_fn)
    step = step_for(how, reduction)
    if how == "apart":
        return Step(DistributedDataParallel(step.host), DistributedDataParallel(step.loss_fn))
    return DistributedDataParallel(step)


def work(rank, rendezvous, folder):
    """One process: all cases, the second of two steps of each (the first would leave a bucket unreduced behind)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    found = {}
    for name, (reduction, cut) in CASES.items():
        first = cut if rank else 0
        mine = whole_batch(name).part(first, 4 if rank else cut)
        for how in WRAPPED:
            module = wrapped(how, reduction)
            for _ in range(2):
                module.zero_grad()
                loss = module(mine, generator=draws(first))
                loss.backward()
            named = {parameter.replace("module.", ""): gradient for parameter, gradient in gradients(module).items()}
            found[name, how] = (loss.detach(), named)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("processes")
    context = torch.multiprocessing.spawn(work, (str(folder / "rendezvous"), str(folder)), PROCESSES, join=False)
    try:
        for _ in range(PROCESSES):
            if context.join(timeout=120):  # False where a process is still at work, or one of them has ended
                break
        else:
            assert all(process.exitcode == 0 for process in context.processes), "a process waits for the other"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", WRAPPED)
def test_processes_get_the_gradient_of_the_whole_batch(found, name, how):
    reduction = "mean" if how == "mean over processes" else CASES[name][0]
    step = step_for(how, reduction)
    loss = step(whole_batch(name), generator=draws())
    loss.backward()
    losses, grads = zip(*(one[name, how] for one in found))
    # Gradients are averaged: a mean stays one, a sum must be multiplied by the number of processes.
    factor = 1 if reduction == "mean" else PROCESSES
    for mine in grads:
        scaled = {parameter: factor * gradient for parameter, gradient in mine.items()}
        assert relative_difference(scaled, gradients(step)) < ROUNDING
        assert all(gradient.abs().max() > 0 for parameter, gradient in scaled.items() if "host" in parameter)
    if how != "mean over processes":
        torch.testing.assert_close(sum(losses) * factor / PROCESSES, loss.detach(), rtol=0, atol=ROUNDING)
        assert losses[1] == 0 or name not in ("nothing in sight", "empty batch")

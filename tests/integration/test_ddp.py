from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import texalign as ta
from host_network import Step, batch_of, gradients, relative_difference, step_of

pytestmark = pytest.mark.slow
SNIPPETS = Path(__file__).parents[2] / "examples" / "snippets"
PROCESSES, SIZE = 2, 32
# A case: settings of the loss, and where the whole batch of 4 is cut.
CASES = {
    "mean, as many each": ({"reduction": "mean"}, 2),
    "sum": ({"reduction": "sum"}, 1),
    "nothing in sight": ({"reduction": "sum"}, 2),
    "empty batch": ({"reduction": "sum"}, 4),
}
# Gradients relative to their length: batches of other sizes are summed in other orders, which gives 1e-6, up to 1e-3
# where a pixel changes sides of a threshold; a wrong factor, sample or draw gives 0.1 and more.
ROUNDING = 1e-2
LEARNED = pytest.mark.parametrize("learned", [False, True], ids=["frozen prior", "trained prior"])


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


def step_for(settings, learned):
    step = step_of(SIZE, train_texture=learned, token_count=64, **settings)
    if not learned:
        step.loss_fn.encoder.requires_grad_(False)
    return step


def together(step):
    """One wrapper around host and loss."""
    return DistributedDataParallel(step, find_unused_parameters=False)


def apart(step):
    """A wrapper around the host, another one around the loss: the prior has an optimiser of its own, say."""
    host = DistributedDataParallel(step.host, find_unused_parameters=False)
    return Step(host, DistributedDataParallel(step.loss_fn, find_unused_parameters=False))


def named_as_alone(wrapped):
    return {name.replace("module.", ""): gradient for name, gradient in gradients(wrapped).items()}


def work(rank, rendezvous, folder):
    """One process: all cases, the second of two steps of each (the first would leave a bucket unreduced behind)."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(SNIPPETS))
    from distributed import mean_over_processes

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    found = {}
    for name, (settings, cut) in CASES.items():
        batch = whole_batch(name)
        first = cut if rank else 0
        mine = batch.part(first, 4 if rank else cut)
        for learned in (False, True):
            for wrap in (together, apart) if learned else (together,):
                wrapped = wrap(step_for(settings, learned))
                for _ in range(2):
                    wrapped.zero_grad()
                    loss = wrapped(mine, generator=draws(first))
                    loss.backward()
                found[name, learned, wrap.__name__] = (loss.detach(), named_as_alone(wrapped))
        # The mean over all processes.
        host = DistributedDataParallel(step_for({}, False).host, find_unused_parameters=False)
        loss_fn = step_for({"reduction": "sum"}, False).loss_fn
        for _ in range(2):
            host.zero_grad()
            camera = ta.PinholeCamera(mine.focal, mine.principal)
            vertices = host(mine.image)
            mean_over_processes(loss_fn, vertices, camera, mine.image, generator=draws(first)).backward()
        found[name, "mean"] = named_as_alone(host)
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


def alone(name, settings, learned):
    step = step_for(settings, learned)
    loss = step(whole_batch(name), generator=draws())
    loss.backward()
    return loss.detach(), gradients(step)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "learned, wrap", [(False, "together"), (True, "together"), (True, "apart")], ids=lambda value: str(value)
)
def test_processes_get_the_gradient_of_the_whole_batch(found, name, learned, wrap):
    settings, _ = CASES[name]
    loss, expected = alone(name, settings, learned)
    losses, grads = zip(*(one[name, learned, wrap] for one in found))
    # Gradients are averaged: a mean stays one, a sum must be multiplied by the number of processes.
    factor = 1 if settings["reduction"] == "mean" else PROCESSES
    assert any("encoder" in parameter for parameter in expected) == learned
    for mine in grads:
        scaled = {parameter.replace("step.", ""): factor * gradient for parameter, gradient in mine.items()}
        assert relative_difference(scaled, expected) < ROUNDING
        assert all(gradient.abs().max() > 0 for parameter, gradient in scaled.items() if "host" in parameter)
    torch.testing.assert_close(sum(losses) * factor / PROCESSES, loss, rtol=0, atol=ROUNDING)
    if name in ("nothing in sight", "empty batch"):
        assert losses[1] == 0


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_all_processes_is_that_of_the_whole_batch(found, name):
    _, expected = alone(name, {"reduction": "mean"}, False)
    for one in found:
        mine = {"host." + parameter: gradient for parameter, gradient in one[name, "mean"].items()}
        assert relative_difference(mine, expected) < ROUNDING


def test_the_example_runs_alone():
    process = subprocess.run(
        [sys.executable, str(SNIPPETS / "distributed.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("process 0 of 1: loss ")

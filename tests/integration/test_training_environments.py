"""Training steps of a network with the loss, as they are done in practice."""

from __future__ import annotations

import copy
import gc
import os
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import texalign as ta
from host_network import batch_of, gradients, relative_difference, step_of

SIZE = 64
# Gradients relative to their length: float32's rounding gives 1e-6, up to 1e-3 where a pixel changes sides of a median
# or a histogram's cell; a wrong factor, sample or order of pixels gives 0.1 and more.
ROUNDING = 1e-2
# A mean of values up to 6 in size, of 64² terms: 6 × 64² × 2⁻²⁴ at the worst order of summation.
BOUND = 6 * (1 + SIZE**2 * 2.0**-24)

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients_of(step, batch, **options):
    step.zero_grad()
    loss = step(batch, generator=seeded(), **options)
    loss.backward()
    return loss.detach(), gradients(step)


def cosine(found, expected):
    first, second = (torch.cat([each.flatten() for each in one.values()]) for one in (found, expected))
    return float(torch.cosine_similarity(first, second, dim=0)), float(first.norm() / second.norm())


@HALVES
@pytest.mark.parametrize("learned", [False, True], ids=["frozen prior", "trained prior"])
def test_under_autocast_the_step_is_nearly_that_of_float32(dtype, learned):
    """What differs is the host's own rounding, which moves its vertices, and the prior's."""
    step, batch = step_of(64, train_texture=learned), batch_of(4, 64)
    expected, wanted = gradients_of(step, batch)
    with torch.autocast("cpu", dtype=dtype):
        assert step.host.features(batch.image).dtype == dtype
        loss, found = gradients_of(step, batch)
    assert loss.dtype == torch.float32 and abs(loss - expected) < (0.1 if dtype == torch.bfloat16 else 0.02)
    for part in ("host", "loss_fn.encoder") if learned else ("host",):
        mine, theirs = ({k: v for k, v in one.items() if k.startswith(part)} for one in (found, wanted))
        alike, longer = cosine(mine, theirs)
        assert alike > 0.99 and 0.9 < longer < 1.1, part


@HALVES
@pytest.mark.parametrize("bound", [2.0, 500.0], ids=["bound active", "bound inactive"])
def test_a_scaler_changes_no_gradient(dtype, bound):
    step, batch, found = step_of(64, max_grad=bound), batch_of(4, 64), []
    optimizer = torch.optim.SGD(step.host.parameters(), lr=1e-4)
    for enabled in (False, True):
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = step(batch, generator=seeded())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found.append(gradients(step))
    alike, longer = cosine(found[1], found[0])
    assert alike > 0.9999 and abs(longer - 1) < 1e-2


def test_accumulated_over_parts_a_sum_is_that_of_the_whole_batch():
    step = step_of(32, reduction="sum", token_count=32 * 32)  # every pixel is observed, none is drawn
    batch = batch_of(4, 32)
    batch.principal[3] += 1e4  # out of sight: a mean would be over one in one part and over two in the other
    _, expected = gradients_of(step, batch)
    step.zero_grad()
    for first in (0, 2):
        step(batch.part(first, first + 2)).backward()
    assert relative_difference(gradients(step), expected) < ROUNDING  # batches of 2 and of 4 are summed in other orders


def test_recomputed_activations_change_nothing():
    step, batch, found = step_of(32, token_count=64, train_texture=True), batch_of(3, 32), []
    for run in (step, lambda batch: checkpoint(step, batch, use_reentrant=False)):
        step.zero_grad()
        torch.manual_seed(7)  # the draw of observations is torch's own, which is repeated
        run(batch).backward()
        found.append(gradients(step))
    assert relative_difference(found[1], found[0]) < 1e-4  # the order in which gradients are added may differ


def test_channels_last_images_change_nothing():
    step, batch = step_of(64, token_count=64 * 64), batch_of(3, 64)  # every pixel is observed, none is drawn
    expected, wanted = gradients_of(step, batch)
    last = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
    assert last.image.stride() != batch.image.stride()
    for same in (step, copy.deepcopy(step).to(memory_format=torch.channels_last)):
        loss, found = gradients_of(same, last)  # convolutions of another layout sum in another order
        assert abs(loss - expected) < ROUNDING  # a loss is about 1
        assert relative_difference(found, wanted) < ROUNDING


def test_with_deterministic_algorithms_a_run_is_repeated_bit_by_bit():
    runs = []
    torch.use_deterministic_algorithms(True)
    try:
        for seed in (1, 1, 2):
            step = step_of(32, token_count=32, train_texture=True)
            optimizer = torch.optim.Adam(step.parameters(), lr=1e-3)
            torch.manual_seed(seed)
            for number in range(2):
                optimizer.zero_grad()
                step(batch_of(3, 32, number), is_right=torch.tensor([True, False, True])).backward()
                optimizer.step()
            runs.append(torch.cat([parameter.detach().flatten() for parameter in step.parameters()]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])  # the seed is what repeats it


# Which input's first sample is filled with what; vertices are multiplied by the factor and moved by the offset.
FAULTS = [
    ("offset", torch.nan), ("offset", -2.0), ("factor", 1e20), ("focal", -5.0), ("focal", 2.0),
    ("principal", torch.nan), ("image", torch.nan), ("image", 1e20), ("mask", torch.nan), ("valid", 0.0),
]  # fmt: skip


def resident():
    """Bytes of memory this process holds; 0 where Linux does not tell."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statistics.exists() else 0


def live_tensors():
    gc.collect()
    return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)


@pytest.mark.parametrize(
    ("steps", "warm_up"), [(2 * len(FAULTS), len(FAULTS)), pytest.param(500, 100, marks=pytest.mark.slow)]
)
def test_many_steps_with_anything_in_them(steps, warm_up):
    """No parameter becomes NaN, no memory is lost, and the loss and every sample's gradient keep to their bounds."""
    step = step_of(SIZE, train_texture=True, token_count=128)
    loss_fn, draws, measured = step.loss_fn, seeded(2), []
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-4)
    batches = [batch_of(3, SIZE, seed) for seed in range(4)]
    for number in range(steps):
        if number in (warm_up, steps - 1):
            measured.append((live_tensors(), resident()))
        batch = batches[number % 4].part(0, 0 if number % 20 == 19 else 3)
        raw = step.host(batch.image)
        raw.retain_grad()
        given = {name: value.clone() for name, value in batch._asdict().items()}
        given |= {"offset": torch.zeros_like(raw), "factor": torch.ones_like(raw)}
        given |= {name: torch.ones(len(raw), 1, SIZE, SIZE) for name in ("mask", "valid")}
        name, value = FAULTS[number % len(FAULTS)]
        given[name][:1] = value
        loss, details = loss_fn(
            raw * given["factor"] + given["offset"],
            ta.PinholeCamera(given["focal"], given["principal"]),
            *(given[name] for name in ("image", "mask", "valid")),
            is_right=torch.arange(len(raw)) >= number % 2,
            generator=draws,
            return_details=True,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(details.per_sample).all() and (details.per_sample.abs() <= BOUND).all(), number
        # What the first sample's factor makes of its gradient is the caller's.
        kept = (~details.skipped).sum().clamp(min=1)
        assert (raw.grad[1:].flatten(1).norm(dim=1) <= loss_fn.max_grad / kept * 1.001).all(), number
        assert all(torch.isfinite(parameter).all() for parameter in step.parameters()), number
    (tensors, held), (tensors_after, held_after) = measured
    assert tensors_after <= tensors + 2
    assert held_after - held < 32 * 2**20


@pytest.mark.parametrize("factor", [1e6, 1e9, 1e20])
def test_a_hand_of_any_size_at_any_distance_is_harmless(factor):
    """Scaled about the camera its projection stays the same, until float32 has no numbers left for it."""
    step, batch = step_of(32), batch_of(2, 32)
    leaf = step.host(batch.image).detach().requires_grad_()
    vertices, camera = leaf * torch.tensor([factor, 1.0])[:, None, None], ta.PinholeCamera(*batch[1:])
    loss, details = step.loss_fn(vertices, camera, batch.image, generator=seeded(), return_details=True)
    loss.backward()
    assert details.skipped.tolist() == [factor > 1e7, False]
    assert torch.isfinite(leaf.grad).all() and leaf.grad[1].abs().max() > 0
    with pytest.raises(ValueError, match="vertices within 1e\\+07 metres, got sample 0"):
        ta.TexturedHandRenderer(ta.HandSurface.mano(), 32, validate=True)(leaf * 1e9, camera, torch.ones(1, 3, 8, 8))


def test_a_step_leaves_nothing_behind():
    """No cycle keeps a graph alive until the garbage collector comes."""
    step, batch = step_of(32), batch_of(2, 32)
    step(batch).backward()
    before = live_tensors()
    gc.disable()
    try:
        for _ in range(5):
            step(batch).backward()
        assert sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor) <= before
    finally:
        gc.enable()

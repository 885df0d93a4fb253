"""Training steps of a network with the loss, as they are done in practice."""

from __future__ import annotations

import copy
import gc
import os
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import texalign as ta
from host_network import Batch, batch_of, gradients, relative_difference, step_of

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


# --- half precision ------------------------------------------------------------


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


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_the_gradients_bound_is_in_units_before_the_scalers_scale(scale):
    """Per sample, per metre: the scaler's scale and the mean's 1/B come after it."""
    bound = 2.0
    step, batch = step_of(64, max_grad=bound), batch_of(4, 64)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with torch.autocast("cpu", dtype=torch.float16):
        vertices = step.host(batch.image).float()
    vertices.retain_grad()
    camera = ta.PinholeCamera(batch.focal, batch.principal)
    scaler.scale(step.loss_fn(vertices, camera, batch.image, generator=seeded())).backward()
    norms = vertices.grad.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((4,), bound * scale / 4))


@HALVES
@pytest.mark.parametrize("bound", [2.0, 500.0], ids=["bound active", "bound inactive"])
def test_a_scaler_changes_no_step(dtype, bound):
    batch, steps = batch_of(4, 64), []
    for enabled in (False, True):
        step = step_of(64, max_grad=bound)
        before = copy.deepcopy(step.host.state_dict())
        optimizer = torch.optim.SGD(step.host.parameters(), lr=1e-4)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        with torch.autocast("cpu", dtype=dtype):
            loss = step(batch, generator=seeded())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(step.host.parameters(), 1e3)
        scaler.step(optimizer)
        scaler.update()
        assert not enabled or scaler.get_scale() == 1024.0  # no overflow
        after = step.host.state_dict()
        steps.append({name: after[name] - before[name] for name, _ in step.host.named_parameters()})
    alike, longer = cosine(steps[1], steps[0])
    assert alike > 0.9999 and abs(longer - 1) < 1e-2
    assert sum(float(each.abs().max()) for each in steps[0].values()) > 1e-6


# --- compilation, accumulation, recomputation, layout --------------------------------


@pytest.mark.slow
def test_a_compiled_step_trains_like_an_uncompiled_one():
    trained = []
    for compiled in (False, True):
        step = step_of(32)
        torch._dynamo.reset()
        run = torch.compile(step, backend="eager") if compiled else step
        optimizer = torch.optim.SGD(step.host.parameters(), lr=1e-4)
        losses = []
        for seed, count in enumerate((2, 3)):
            optimizer.zero_grad()
            loss = run(batch_of(count, 32, seed), generator=seeded(seed))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        trained.append((torch.stack(losses), dict(step.host.named_parameters())))
    (losses, plain), (compiled_losses, compiled) = trained
    torch.testing.assert_close(compiled_losses, losses)
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], msg=name)


def test_accumulated_over_parts_a_sum_is_that_of_the_whole_batch():
    step = step_of(32, reduction="sum", token_count=32 * 32)  # every pixel is observed, none is drawn
    batch = batch_of(4, 32)
    batch.principal[3] += 1e4  # out of sight: a mean would be over one in one part and over two in the other
    _, expected = gradients_of(step, batch)
    step.zero_grad()
    for first in (0, 2):
        step(batch.part(first, first + 2)).backward()
    assert relative_difference(gradients(step), expected) < ROUNDING  # batches of 2 and of 4 are summed in other orders


@pytest.mark.parametrize("whole", [False, True], ids=["host", "host and loss"])
def test_recomputed_activations_change_nothing(whole):
    step, batch = step_of(32, token_count=64, train_texture=True), batch_of(3, 32)
    camera = ta.PinholeCamera(batch.focal, batch.principal)
    found = []
    for recompute in (False, True):
        step.zero_grad()
        torch.manual_seed(7)
        if not recompute:
            loss = step(batch)
        elif whole:  # the draw of observations is torch's own, which is repeated
            loss = checkpoint(step, batch, use_reentrant=False)
        else:
            loss = step.loss_fn(checkpoint(step.host, batch.image, use_reentrant=False), camera, batch.image)
        loss.backward()
        found.append((loss.detach(), gradients(step)))
    assert torch.equal(found[0][0], found[1][0])
    assert relative_difference(found[1][1], found[0][1]) < 1e-4  # the order in which gradients are added may differ


def test_channels_last_images_change_nothing():
    step, batch = step_of(64, token_count=64 * 64), batch_of(3, 64)  # every pixel is observed, none is drawn
    expected, wanted = gradients_of(step, batch)
    last = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
    assert last.image.stride() != batch.image.stride()
    for same in (step, copy.deepcopy(step).to(memory_format=torch.channels_last)):
        loss, found = gradients_of(same, last)  # convolutions of another layout sum in another order
        assert abs(loss - expected) < ROUNDING  # a loss is about 1
        assert relative_difference(found, wanted) < ROUNDING
    scrambled = batch._replace(image=batch.image.permute(0, 2, 3, 1).reshape(batch.image.shape))
    loss, found = gradients_of(step, scrambled)  # what a mistaken layout would do
    assert abs(loss - expected) > 10 * ROUNDING and relative_difference(found, wanted) > 10 * ROUNDING


# --- repeatability ---------------------------------------------------------------


def trained_with_deterministic_algorithms(seed, generator):
    """Parameters, prior's included, after three steps."""
    torch.use_deterministic_algorithms(True)
    try:
        step = step_of(32, token_count=32, train_texture=True)
        optimizer = torch.optim.Adam(step.parameters(), lr=1e-3)
        torch.manual_seed(seed)
        draws = seeded(seed) if generator else None
        for number in range(3):
            optimizer.zero_grad()
            step(batch_of(3, 32, number), is_right=torch.tensor([True, False, True]), generator=draws).backward()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in step.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("generator", [False, True], ids=["global seed", "generator"])
def test_with_deterministic_algorithms_a_run_is_repeated_bit_by_bit(generator):
    first, again, other = (trained_with_deterministic_algorithms(seed, generator) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # the seed is what repeats it


# --- many steps -----------------------------------------------------------

FAULTS = (
    "nan vertex", "infinite vertex", "behind the camera", "out of frame", "focal 0", "negative focal",
    "nan principal point", "black image", "nan image", "empty mask", "nan mask", "padding only", "huge vertices",
    "huge image", "one point", "one pixel", "nothing wrong",
)  # fmt: skip


def spoil(fault, sample, vertices, batch, mask):
    """One sample of a batch, in place; (B, V, 3) vertices by a factor and an offset that keep them in the graph."""
    factor, offset = torch.ones_like(vertices), torch.zeros_like(vertices)
    if fault == "nan vertex":
        offset[sample, 17, 1] = torch.nan
    elif fault == "infinite vertex":
        offset[sample, 17, 2] = torch.inf
    elif fault == "behind the camera":
        offset[sample, :, 2] = -2.0
    elif fault == "out of frame":
        offset[sample, :, 0] = 3.0
    elif fault == "focal 0":
        batch.focal[sample] = 0.0
    elif fault == "negative focal":
        batch.focal[sample] = -5.0
    elif fault == "nan principal point":
        batch.principal[sample, 1] = torch.nan
    elif fault == "black image":
        batch.image[sample] = 0.0
    elif fault == "nan image":
        batch.image[sample, :, 5:9] = torch.nan
    elif fault == "empty mask":
        mask[sample] = 0.0
    elif fault == "nan mask":
        mask[sample, 0, 3] = torch.nan
    elif fault == "huge vertices":
        factor[sample] = 1e20
    elif fault == "huge image":
        batch.image[sample] *= 1e20
    elif fault == "one point":
        factor[sample], offset[sample, :, 2] = 0.0, 0.5
    elif fault == "one pixel":
        batch.focal[sample] /= 60.0
    return vertices * factor + offset


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
    loss_fn, host = step.loss_fn, step.host
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-4)
    batches = [batch_of(4, SIZE, seed) for seed in range(8)]
    choose, draws = seeded(1), seeded(2)
    losses, met, measured, faults = [], set(), [], cycle(FAULTS)
    for number in range(steps):
        if number in (warm_up, steps - 1):
            measured.append((live_tensors(), resident()))
        batch = Batch(*(each.clone() for each in batches[number % 8]))
        if number % 25 == 24:
            batch = batch.part(0, 0)
        vertices = raw = host(batches[number % 8].image[: len(batch.image)])
        raw.retain_grad()
        mask, valid = (torch.ones(len(raw), 1, SIZE, SIZE) for _ in range(2))
        spoilt = int(torch.randint(1, 3, (), generator=choose)) if len(raw) else 0
        for sample in range(spoilt):
            fault = next(faults)
            met.add(fault)
            if fault == "padding only":
                valid[sample] = 0.0
            vertices = spoil(fault, sample, vertices, batch, mask)
        camera = ta.PinholeCamera(batch.focal, batch.principal)
        is_right = torch.ones(len(raw), dtype=torch.bool)
        is_right[:spoilt] = torch.rand(spoilt, generator=choose) < 0.5
        optimizer.zero_grad()
        loss, details = loss_fn(
            vertices, camera, batch.image, mask, valid, is_right=is_right, generator=draws, return_details=True
        )
        loss.backward()
        optimizer.step()
        # What a spoilt sample's factor makes of a gradient is the caller's.
        assert torch.isfinite(details.per_sample).all() and (details.per_sample.abs() <= BOUND).all(), number
        kept = (~details.skipped).sum().clamp(min=1)
        assert (raw.grad[spoilt:].flatten(1).norm(dim=1) <= loss_fn.max_grad / kept * 1.001).all(), number
        losses.append(loss.item())
        assert all(torch.isfinite(parameter).all() for parameter in step.parameters()), number
    assert met == set(FAULTS)
    assert max(map(abs, losses)) <= BOUND
    (tensors, held), (tensors_after, held_after) = measured
    assert tensors_after <= tensors + 2
    assert held_after - held < 32 * 2**20


@pytest.mark.parametrize("factor", [1e6, 1e9, 1e13, 1e16, 1e20, 1e30])
def test_a_hand_of_any_size_at_any_distance_is_harmless(factor):
    """Scaled about the camera its projection stays the same, until float32 has no numbers left for it."""
    step, batch = step_of(32), batch_of(2, 32)
    scale = torch.tensor([factor, 1.0])[:, None, None]
    leaf = step.host(batch.image).detach().requires_grad_()
    camera = ta.PinholeCamera(batch.focal, batch.principal)
    loss, details = step.loss_fn(leaf * scale, camera, batch.image, generator=seeded(), return_details=True)
    loss.backward()
    assert details.skipped.tolist() == [factor > 1e7, False]
    assert torch.isfinite(leaf.grad).all() and leaf.grad[1].abs().max() > 0
    assert torch.isfinite(details.rendering.uv).all()
    with pytest.raises(ValueError, match="vertices within 1e\\+07 metres, got sample 0"):
        ta.TexturedHandRenderer(ta.HandSurface.mano(), 32, validate=True)(leaf * 1e9, camera, torch.ones(1, 3, 8, 8))


def test_a_step_leaves_nothing_behind():
    """No cycle keeps a graph alive until the garbage collector comes."""
    step, batch = step_of(32), batch_of(2, 32)
    step(batch).backward()
    gc.collect()
    gc.disable()
    try:
        before = sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)
        for _ in range(5):
            step(batch).backward()
        assert sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor) <= before
    finally:
        gc.enable()

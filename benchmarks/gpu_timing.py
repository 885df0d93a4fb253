"""Time, memory, kernels and waits of a function on a device: CUDA's own events there, the wall clock on a CPU."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from renderer import peak_memory

Function = Callable[[], Any]


class Work(NamedTuple):
    """What a profiler saw in one call.

    Attributes:
        launches: kernels and copies on a CUDA device, operators on a CPU.
        busy: milliseconds in which they ran, added up.
        longest: the names that took most of it, with their calls and milliseconds.
    """

    launches: int
    busy: float
    longest: list[dict[str, Any]]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(function: Function, device: torch.device, repeats: int, warm_up: int = 3) -> list[float]:
    """Of each of `repeats` calls, after `warm_up` that are not counted."""
    for _ in range(warm_up):
        function()
    synchronise(device)
    if device.type != "cuda":
        times = [time.perf_counter()]
        for _ in range(repeats):
            function()
            times.append(time.perf_counter())
        return [1000 * (after - before) for before, after in pairwise(times)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    synchronise(device)
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def over_input_sets(
    functions: list[Function], device: torch.device, repeats: int, warm_up: int = 3
) -> dict[str, float]:
    """Median and quartiles of the milliseconds of all calls of functions that differ in their inputs."""
    times = [each for function in functions for each in milliseconds(function, device, repeats, warm_up)]
    low, _, high = quantiles(times, n=4)
    return {"median": median(times), "lower quartile": low, "upper quartile": high}


def peak_mib(function: Function, device: torch.device) -> float:
    """MiB that a call needs at most beside what was held before; on a CPU the growth of the resident set (Linux)."""
    if device.type != "cuda":
        before = peak_memory(reset=True)
        function()
        return peak_memory() - before
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    function()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20


def work(function: Function, device: torch.device, rows: int = 12) -> Work:
    """Profile one call."""
    on_gpu = device.type == "cuda"
    function()
    synchronise(device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        function()
        synchronise(device)
    calls: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for event in profiler.events():
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device != on_gpu or not (on_gpu or event.name.startswith("aten::")):
            continue
        calls[event.name] += 1
        spent[event.name] += (event.device_time if on_gpu else event.self_cpu_time_total) / 1000
    longest = [
        {"what": name[:90], "calls": calls[name], "ms": value, "share": f"{value / max(spent.total(), 1e-9):.0%}"}
        for name, value in spent.most_common(rows)
    ]
    return Work(calls.total(), spent.total(), longest)


def waits(function: Function, device: torch.device) -> dict[str, int] | None:
    """Where a call makes the host wait for the device, and how often; None on a CPU.

    What torch itself does: nvdiffrast's rasterizer waits once more, in its own code.
    """
    if device.type != "cuda":
        return None
    function()
    synchronise(device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    seen = [each for each in caught if "synchronizing" in str(each.message)]
    return dict(Counter(f"{Path(each.filename).name}:{each.lineno}" for each in seen))


def launch_cost(device: torch.device, count: int = 1000) -> float:
    """Milliseconds that one small operation takes, one after the other."""
    tiny = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(count):
            tiny.add_(1)

    return median(milliseconds(launch, device, 5)) / count


def bandwidth(device: torch.device, mebibytes: int) -> float:
    """Bytes a millisecond, read and written, in copying a block of that size."""
    source = torch.zeros(mebibytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median(milliseconds(lambda: target.copy_(source), device, 9))

"""How many windows a device holds at once: measured before a fit, and given way to when it runs out of memory in one.

Nothing here changes what is learned: the physical batch is a part of the effective one.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import psutil
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.training.hardware import Compute

# Shares of memory that an automatic batch may take: other processes and fragmentation need the rest.
CPU_SHARE = 0.25
GPU_SHARE = 0.8
# A larger batch must be so much faster on a CPU to be worth its memory, and timing must not decide by its noise.
WORTHWHILE = 1.05
SMALLEST_CPU_CANDIDATE = 16
# Model size, as squared width times layers in billions, up to which so many windows are tried first.
FIRST_GUESS = ((0.05, 128), (0.2, 64), (0.5, 32), (1.0, 16))
LAST_GUESS = 8
# Bytes of memory above which so many windows are taken where nothing can be measured.
UNMEASURED = ((16e9, 2048), (8e9, 1024))
LAST_UNMEASURED = 512


class DeviceMemoryError(RuntimeError):
    """Not even one window fits the device."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device has no memory left; the CPU's and Metal's allocators say so in words."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator: can't allocate memory" in text or "MPS backend out of memory" in text


def too_large_for(device: torch.device) -> DeviceMemoryError:
    """Make the error that says what to do where one window is too many."""
    return DeviceMemoryError(
        f"one window at a time is out of memory on {device}: use Hardware.gradient_checkpointing=True, data='host' or "
        "precision='bfloat16', end other processes on it, or take a smaller network or window"
    )


def first_guess(config: Config) -> int:
    """Guess a physical batch from the network's size: 128 windows for small ones down to 8."""
    size = config.d_model**2 * config.n_layers / 1e9
    return next((windows for limit, windows in FIRST_GUESS if size < limit), LAST_GUESS)


def unmeasured_batch(total_memory: int) -> int:
    """Guess a physical batch from a device's bytes of memory: 2048, 1024 or 512 windows."""
    return next((windows for limit, windows in UNMEASURED if total_memory > limit), LAST_UNMEASURED)


def measured_batch(config: Config, compute: Compute, reserve: int, trial: Callable[[int], None]) -> int:
    """Windows to hold at once, never more than the effective batch.

    On a GPU it is the largest of a first guess, doubled or halved, that fits; on a CPU, whose memory is rarely the
    limit but whose caches are, the fastest of a few; where the device tells neither, a guess from its memory.

    Parameters
    ----------
    config
        The effective batch and the network's size.
    compute
        Where.
    reserve
        Bytes that the fit will need besides what a trial needs: the optimizer's state.
    trial
        Runs a forward and backward pass of that many windows, and leaves no trace.

    Raises
    ------
    DeviceMemoryError
        Where not even one window fits.
    """
    limit = config.effective_batch_size
    if compute.device.type == "cuda":
        return _largest(
            min(first_guess(config), limit), limit, lambda size: _fits(compute.device, size, reserve, trial)
        )
    if compute.device.type == "cpu":
        return _fastest(limit, trial)
    return min(limit, unmeasured_batch(psutil.virtual_memory().total))


def _largest(guess: int, limit: int, fits: Callable[[int], bool]) -> int:
    batch = guess
    if not fits(batch):
        while batch > 1:
            batch //= 2
            if fits(batch):
                return batch
        raise too_large_for(torch.device("cuda"))
    while batch < limit and fits(min(2 * batch, limit)):
        batch = min(2 * batch, limit)
    return batch


def _fits(device: torch.device, size: int, reserve: int, trial: Callable[[int], None]) -> bool:
    torch.cuda.reset_peak_memory_stats(device)
    exhausted = False
    try:
        trial(size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        exhausted = True
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    return not exhausted and peak + reserve <= GPU_SHARE * torch.cuda.mem_get_info(device)[1]


def _fastest(limit: int, trial: Callable[[int], None]) -> int:
    # The first pass of a process loads kernels, and would be counted against the smallest batch.
    trial(1)
    batch, speed, budget = 1, 0.0, CPU_SHARE * psutil.virtual_memory().available
    candidate = min(SMALLEST_CPU_CANDIDATE, limit)
    while True:
        before = peak_memory(torch.device("cpu"))
        began = time.perf_counter()
        trial(candidate)
        reached = candidate / (time.perf_counter() - began)
        if reached < speed * WORTHWHILE or peak_memory(torch.device("cpu")) - before > budget:
            return batch
        batch, speed = candidate, reached
        if candidate == limit:
            return batch
        candidate = min(2 * candidate, limit)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the device's allocator has held; on a CPU the most this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

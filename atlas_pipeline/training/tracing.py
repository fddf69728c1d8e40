"""A profiler trace of a few steps of a fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

# One step to settle and one for the profiler to warm up on, then those that are recorded.
SETTLING_STEPS, WARMUP_STEPS, TRACED_STEPS = 1, 1, 3


@contextlib.contextmanager
def tracing(path: Path | None, device: torch.device) -> Iterator[Callable[[], None]]:
    """Record the third to fifth step that are taken inside; they are told by calling what this yields.

    Parameters
    ----------
    path
        Where the trace goes, in Chrome's format, for chrome://tracing or Perfetto; None records nothing.
    device
        Of a GPU its kernels are recorded too.
    """
    if path is None:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=SETTLING_STEPS, warmup=WARMUP_STEPS, active=TRACED_STEPS, repeat=1),
        on_trace_ready=lambda profile: profile.export_chrome_trace(str(path)),
        record_shapes=True,
        profile_memory=True,
    ) as profile:
        yield profile.step

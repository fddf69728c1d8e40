"""What ``Hardware`` means on this machine: device, autocast, threads, physical batch, peak memory.

Nothing here changes what is learned: the physical batch is a part of the effective one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from atlas_pipeline.config import Config, Hardware

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Beyond 64 windows a CPU's caches overflow and throughput falls.
LARGEST_CPU_BATCH = 64
# Shares of free memory that an automatic batch may take: other processes and fragmentation need the rest.
CPU_SHARE = 0.25
GPU_SHARE = 0.8


@dataclass(frozen=True)
class Compute:
    """A resolved ``Hardware``: where and in which number format to run.

    ``dtype`` is the autocast type; float32 means no autocast. ``scaled`` says that gradients need loss
    scaling.
    """

    device: torch.device
    dtype: torch.dtype
    gradient_checkpointing: bool
    compile: bool
    deterministic: bool

    @property
    def scaled(self) -> bool:
        """Whether gradients underflow without a loss scale (Micikevicius et al., ICLR 2018, sec. 3.2)."""
        return self.dtype == torch.float16

    def autocast(self) -> torch.autocast:
        """Make a fresh autocast context of this type."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def resolve(hardware: Hardware) -> Compute:
    """Find the device and number format that ``hardware`` asks for.

    Raises
    ------
    ValueError
        Where the device is not there, or does not compute in the precision asked for.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = hardware.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        raise ValueError(f"Hardware.device={device!r}: torch {torch.__version__} finds none here; use 'auto' or 'cpu'")
    if hardware.precision == "float16" and device == "cpu":
        raise ValueError("Hardware.precision='float16': no loss-scaled float16 on a CPU; use 'bfloat16' or 'float32'")
    return Compute(
        device=torch.device(device),
        dtype=_DTYPES[hardware.precision],
        gradient_checkpointing=hardware.gradient_checkpointing,
        compile=hardware.compile,
        deterministic=hardware.deterministic,
    )


@contextlib.contextmanager
def settings(hardware: Hardware) -> Iterator[Compute]:
    """Resolve ``hardware`` and hold its process-wide settings (threads, determinism) inside only."""
    compute = resolve(hardware)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if compute.deterministic:
        # cuBLAS is reproducible only with a fixed workspace (NVIDIA cuBLAS manual, sec. 2.1.4).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield compute
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def activation_bytes(config: Config) -> int:
    """Guess the bytes that one window's activations take in training, in float32.

    A pre-norm layer keeps about ten arrays of model width, three of feed-forward width and two attention
    maps.
    """
    tokens = (config.seq_length - config.patch_length) // config.stride + 1
    layer = tokens * (10 * config.d_model + 3 * config.ff_dim) + 2 * config.n_heads * tokens**2
    return 4 * (config.n_layers * layer + config.seq_length * config.feature_size)


def physical_batch(hardware: Hardware, config: Config, compute: Compute, trial: Callable[[int], None]) -> int:
    """Windows a device processes at once; never more than the effective batch.

    Parameters
    ----------
    hardware
        A fixed ``batch_size`` is taken as it is; ``"auto"`` is measured on a GPU by doubling and reckoned
        from free memory on a CPU, which would rather swap than refuse.
    config
        The effective batch and the model's size.
    compute
        The resolved hardware.
    trial
        Runs a forward and backward pass of that many windows, and leaves no trace.
    """
    limit = config.effective_batch_size
    if hardware.batch_size != "auto":
        return min(hardware.batch_size, limit)
    if compute.device.type != "cuda":
        fits = int(CPU_SHARE * _free_memory() / activation_bytes(config))
        return max(1, min(limit, LARGEST_CPU_BATCH, fits))
    return _measured_batch(limit, trial)


def _measured_batch(limit: int, trial: Callable[[int], None]) -> int:
    budget = GPU_SHARE * torch.cuda.mem_get_info()[1]
    batch = 1
    while batch < limit:
        candidate = min(2 * batch, limit)
        torch.cuda.reset_peak_memory_stats()
        try:
            trial(candidate)
        except torch.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
        if torch.cuda.max_memory_allocated() > budget:
            break
        batch = candidate
    return batch


def _free_memory() -> int:
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        # macOS does not tell; a quarter of all memory is a cautious stand-in.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the device's allocator has held; on a CPU the most this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""What ``Hardware`` means on this machine: device, number format, and the process's settings while it runs.

How many windows the device holds at once is ``memory``'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from atlas_pipeline.config import CompileMode, Config, Hardware

SINGLE_THREAD_BELOW = 500_000
"""Multiplications a window: the demo's network has 131,072 and learns as fast on one core as on two; one of a million
learns a fifth faster on two."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Compute:
    """A resolved ``Hardware``: where and in which number format to run.

    ``dtype`` is the autocast type; float32 means no autocast. ``scaled`` says that gradients need loss
    scaling.
    """

    device: torch.device
    dtype: torch.dtype
    gradient_checkpointing: bool
    compile: CompileMode
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


def window_multiplications(config: Config) -> int:
    """Multiplications of the layers' matrices in one forward pass of a window, as of a transformer's layer."""
    tokens = 1 if config.backbone == "residual_mlp" else -(-config.seq_length // config.stride)
    if config.channels == "independent":
        tokens *= config.feature_size
    steps = config.latent_steps * config.supervision_steps if config.backbone == "recursive" else 1
    layer = 4 * config.d_model**2 + 2 * config.d_model * config.ff_dim
    return config.members * config.n_layers * steps * layer * tokens


@contextlib.contextmanager
def settings(hardware: Hardware, config: Config | None = None) -> Iterator[Compute]:
    """Resolve ``hardware`` and hold its process-wide settings inside only.

    Where it leaves the threads to torch, a network of fewer than ``SINGLE_THREAD_BELOW`` multiplications a window gets
    one: it ends no sooner with more, and beside other work these wait for one another at each of its many small steps.

    Parameters
    ----------
    hardware
        What is asked for.
    config
        Of the network that is run inside, where it is one.

    Raises
    ------
    ValueError
        As ``resolve``.
    """
    compute = resolve(hardware)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.get(_CUBLAS)
    benchmark = torch.backends.cudnn.benchmark
    # The older of torch's two interfaces: once the newer has set a backend apart, parts of torch.compile that still
    # ask the older one fail.
    matrix, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    elif config is not None and window_multiplications(config) < SINGLE_THREAD_BELOW:
        torch.set_num_threads(1)
    if compute.deterministic:
        # cuBLAS is reproducible only with a fixed workspace (NVIDIA cuBLAS manual, sec. 2.1.4).
        os.environ.setdefault(_CUBLAS, ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = hardware.benchmark
    torch.set_float32_matmul_precision("high" if hardware.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = hardware.tf32
    try:
        with torch.autograd.set_detect_anomaly(hardware.anomaly):
            yield compute
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(matrix)
        torch.backends.cudnn.allow_tf32 = convolution
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
        else:
            os.environ[_CUBLAS] = workspace

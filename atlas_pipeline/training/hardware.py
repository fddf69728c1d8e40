"""What ``Hardware`` means on this machine: device, number format, and the process's settings while it runs.

How many windows the device holds at once is ``memory``'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from atlas_pipeline.config import CompileMode, Hardware

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


@contextlib.contextmanager
def settings(hardware: Hardware) -> Iterator[Compute]:
    """Resolve ``hardware`` and hold its process-wide settings inside only."""
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

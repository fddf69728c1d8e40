"""``Hardware``: how a run is executed, which never changes what is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]
DataPath = Literal["auto", "device", "host"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How a run is executed; changing it never changes the model, and never the effective batch.

    ``compile`` is the mode of ``torch.compile``. ``batch_size`` is the physical batch on the device (``"auto"``
    measures it). ``deterministic`` keeps to reproducible kernels, ``benchmark`` lets cuDNN time its kernels and take
    the fastest, ``tf32`` lets a GPU round the factors of float32 products to ten bits. ``threads=0`` leaves torch's
    choice, or is one for a small network (``training.hardware``). ``data`` says where a fit's rows stand (``"auto"``:
    on the device where they fit); on the host, ``workers`` threads gather windows ahead, 0 gathers them as they are
    asked for. ``log_interval`` and ``save_interval`` count optimizer steps; None reports the steps once an epoch and
    leaves checkpoints to the clock. ``anomaly`` names the operation that first gave NaN in a backward pass, slowly.
    """

    device: Device = "auto"
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    compile: CompileMode = "off"
    batch_size: int | Literal["auto"] = 64
    deterministic: bool = False
    benchmark: bool = False
    tf32: bool = False
    threads: int = 0
    data: DataPath = "auto"
    workers: int = 0
    log_interval: int | None = None
    save_interval: int | None = None
    anomaly: bool = False

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, remedy: str) -> None:
            if not condition:
                raise ValueError(f"Hardware.{field}={getattr(self, field)!r}: {remedy}")

        for name, kinds in (
            ("device", Device),
            ("precision", Precision),
            ("compile", CompileMode),
            ("data", DataPath),
        ):
            choices = get_args(kinds)
            # A YAML boolean equals 0 or 1, never a name, and is refused with the names there are.
            require(getattr(self, name) in choices, name, f"use one of {', '.join(choices)}")
        require(self.batch_size == "auto" or self.batch_size >= 1, "batch_size", "use 1 or more, or auto")
        require(self.workers >= 0, "workers", "use 0 or more")
        for name in ("log_interval", "save_interval"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "use 1 or more steps, or None")
        require(
            not (self.deterministic and self.benchmark),
            "benchmark",
            "cuDNN takes whichever kernel was fastest, so runs differ: leave out benchmark or deterministic",
        )

"""Training speed, share of the chip's peak and memory on a GPU, at three sizes: ``python -m benchmarks.gpu``.

FLOPs of a window in training are ``3 (2 W T + 4 L d T^2)``: two a weight W of the backbone and token T forward, those
of the two products of attention in L layers of width d, and twice as many backward (Kaplan et al., 2020,
arXiv:2001.08361, table 1 and sec. 2.1).
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace

import torch

from atlas_pipeline.config import CompileMode, Config, Hardware
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.patchtst import patch_count
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.training.memory import peak_memory
from benchmarks import figure
from benchmarks.training import synthetic

SIZES = {
    "2m": {"d_model": 192, "n_heads": 4, "n_layers": 4, "ff_dim": 768},
    "20m": {"d_model": 512, "n_heads": 8, "n_layers": 6, "ff_dim": 2048},
    "200m": {"d_model": 1024, "n_heads": 16, "n_layers": 16, "ff_dim": 4096},
}
"""Networks of about so many weights, windows of 512 bars in patches of 16."""
PEAKS = {
    "H200 NVL": 835.5e12,
    "H200": 989e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "RTX 4090": 165.2e12,
}
"""Dense bfloat16 FLOP a second by NVIDIA's data sheets, by a part of the device's name; the first that fits counts."""
COMPILED: tuple[CompileMode, ...] = ("default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Measured:
    """Windows a second, and the most memory that was held (bytes)."""

    speed: float
    memory: int


def flops(config: Config, model: Forecaster) -> float:
    """FLOP that training on one window takes."""
    tokens, weights = patch_count(config), sum(p.numel() for p in model.backbone.parameters())
    return 3.0 * (2 * weights * tokens + 4 * config.n_layers * config.d_model * tokens**2)


def measure(config: Config, hardware: Hardware, batch: int, steps: int = 20) -> Measured:
    """Take training steps of the network on windows of noise; the median of them after three to warm up."""
    compute = resolve(hardware)
    device = compute.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    data = synthetic(config, batch * (steps + 3), device)
    model = Forecaster(config).to(device).train()
    model.backbone.gradient_checkpointing = compute.gradient_checkpointing
    forward = model if compute.compile == "off" else torch.compile(model, mode=compute.compile)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    timings = []
    for rows in torch.arange(batch * (steps + 3), device=device).split(batch):
        started = time.perf_counter()
        part = data.batch(rows)
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            _, outputs = forward(part.inputs)
        model.head.loss(outputs, part.target, part.unit).mean().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        timings.append(time.perf_counter() - started)
    return Measured(batch / statistics.median(timings[3:]), peak_memory(device))


def report(size: str, hardware: Hardware, batch: int, peak: float | None, note: str, steps: int = 20) -> None:
    """Print the figures of one size: speed and share of the peak, what AMP, checkpointing and compiling change."""
    config = Config(**SIZES[size])
    plain = measure(config, hardware, batch, steps)
    used = plain.speed * flops(config, Forecaster(config))
    if peak is None:
        # A share of an unknown peak is no number, and JSON has no other for it.
        print(f"gpu.{size}.flops: {used / 1e12:.3g} TFLOP/s; no peak is known of {note}", file=sys.stderr)
    else:
        figure(f"gpu.{size}.flops", used / 1e12, "TFLOP/s", "the chip's bf16 peak", peak / 1e12, used / peak, note)
    for name, other in (
        ("amp", replace(hardware, precision="float32")),
        ("checkpointing", replace(hardware, gradient_checkpointing=True)),
        *((f"compile.{mode}", replace(hardware, compile=mode)) for mode in COMPILED if hardware.compile == "off"),
    ):
        found = measure(config, other, batch, steps)
        memory = f"{found.memory / 2**30:.2f} GiB against {plain.memory / 2**30:.2f}; batch {batch}, {note}"
        peer = "without AMP" if name == "amp" else "without it"
        ours, theirs = (plain.speed, found.speed) if name == "amp" else (found.speed, plain.speed)
        figure(f"gpu.{size}.{name}", ours, "windows/s", peer, theirs, ours / theirs, memory)


def peak_of(device: str) -> float | None:
    """Dense bfloat16 FLOP a second of a device of this name; None where it is not known."""
    return next((flop for part, flop in PEAKS.items() if part in device), None)


def main() -> None:
    """Print ``gpu.*``, or say that there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu: left out, torch finds no CUDA device here", file=sys.stderr)
        return
    name = torch.cuda.get_device_name()
    peak = peak_of(name)
    for size, batch in (("2m", 1024), ("20m", 512), ("200m", 128)):
        report(size, Hardware(device="cuda", precision="bfloat16", tf32=True), batch, peak, name)


if __name__ == "__main__":
    main()

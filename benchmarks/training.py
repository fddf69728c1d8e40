"""What the training engine costs, and how fast the default network learns: ``python -m benchmarks.training``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.feed import Feed
from atlas_pipeline.training.hardware import Compute, resolve
from atlas_pipeline.training.loop import Loop
from atlas_pipeline.training.objective import LabelledWindows
from atlas_pipeline.windows.index import gather
from benchmarks import figure

BATCH = 64
STEPS = 4
ROUNDS = 7
CONFIG = Config(batch_size=BATCH, accumulation_steps=1, max_epochs=1)


def synthetic(config: Config, windows: int, device: torch.device) -> LabelledWindows:
    """Windows of noise; what is learned from them is of no account."""
    values = torch.randn(windows + config.seq_length, config.feature_size).to(device)
    return LabelledWindows(
        inputs=lambda ends: gather(values, ends, config.seq_length),
        ends=torch.arange(config.seq_length - 1, config.seq_length - 1 + windows, device=device),
        target=torch.randn(windows, 1, device=device),
        unit=torch.ones(windows, 1, device=device),
    )


def engine_steps(config: Config, compute: Compute, windows: LabelledWindows) -> Iterator[None]:
    """Take steps as the engine does: a pause after each, which costs nothing else."""
    model = Forecaster(config).to(compute.device).train()
    loop = Loop(model, config, compute, windows, windows, BATCH)
    with Feed(windows, compute.device, 0) as feed:
        for _ in loop._epoch(feed, Path()):
            yield


def bare_steps(config: Config, compute: Compute, windows: LabelledWindows) -> Iterator[None]:
    """Forward, backward, clip and step of the same network on the same windows, and nothing else."""
    model = Forecaster(config).to(compute.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    order = torch.randperm(len(windows), device=compute.device)
    for rows in order.split(BATCH):
        batch = windows.batch(rows)
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            _, outputs = model(batch.inputs)
        model.head.loss(outputs, batch.target, batch.unit).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        yield


def hugging_face_steps(config: Config, compute: Compute, windows: LabelledWindows) -> Iterator[None]:
    """Take the same steps with Hugging Face's PatchTST, which treats each channel as a series of its own."""
    settings = PatchTSTConfig(
        num_input_channels=config.feature_size,
        context_length=config.seq_length,
        patch_length=config.patch_length,
        patch_stride=config.stride,
        d_model=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        ffn_dim=config.ff_dim,
        prediction_length=1,
        loss="mse",
    )
    model = PatchTSTForPrediction(settings).to(compute.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    for rows in torch.randperm(len(windows), device=compute.device).split(BATCH):
        inputs: Tensor = windows.batch(rows).inputs
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            loss = model(past_values=inputs, future_values=inputs[:, -1:]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        yield


def windows_per_second(runs: dict[str, tuple[Iterator[None], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median speed of each, a few steps of one after a few of the other; a run is given with its steps a round."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for steps, _ in runs.values():
        next(steps)
    for _ in range(rounds):
        for name, (steps, count) in runs.items():
            started = time.perf_counter()
            for _ in range(count):
                next(steps)
            speeds[name].append(count * BATCH / (time.perf_counter() - started))
    return {name: statistics.median(own) for name, own in speeds.items()}


def main() -> None:
    """Print ``training.overhead.*`` and ``training.default.bf16``."""
    total = BATCH * (1 + STEPS * ROUNDS)
    for short, precision in (("float32", "float32"), ("bf16", "bfloat16")):
        compute = resolve(Hardware(device="cpu", precision=precision))
        data = synthetic(CONFIG, total, compute.device)
        runs: dict[str, tuple[Iterator[None], int]] = {
            "engine": (engine_steps(CONFIG, compute, data), STEPS),
            "bare": (bare_steps(CONFIG, compute, data), STEPS),
        }
        if short == "bf16":
            runs["peer"] = (hugging_face_steps(CONFIG, compute, data), 1)
        found = windows_per_second(runs)
        unit, ratio = "windows/s", found["engine"] / found["bare"]
        note = f"{precision}, batch {BATCH}, 4.8M weights, 512 bars; asked: at least 0.95"
        figure(f"training.overhead.{short}", found["engine"], unit, "a bare loop", found["bare"], ratio, note)
        if "peer" in found:
            peer = f"Hugging Face PatchTST, transformers {version('transformers')}"
            note = "the same width, depth, patches and window; theirs runs each of the eight channels by itself"
            figure(
                "training.default.bf16",
                found["engine"],
                unit,
                peer,
                found["peer"],
                found["engine"] / found["peer"],
                note,
            )


if __name__ == "__main__":
    main()

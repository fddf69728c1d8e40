"""A market whose law is known, and settings small enough to train in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.hardware import resolve
from atlas_pipeline.training.loop import Loop
from atlas_pipeline.training.objective import LabelledWindows
from atlas_pipeline.windows.index import gather
from atlas_pipeline.windows.panel import Panel

SMALL: dict[str, Any] = {
    "seq_length": 32,
    "patch_length": 8,
    "stride": 8,
    "feature_size": 2,
    "d_model": 16,
    "n_heads": 2,
    "n_layers": 1,
    "ff_dim": 32,
    "policy_years": 1,
    "batch_size": 32,
    "accumulation_steps": 1,
    "max_epochs": 2,
    "learning_rate": 3e-3,
    "gradient_clip": 1.0,
    "ema_decay": 0.9,
}


def _make_panel(signal: float = 0.0, rows: int = 800, seed: int = 0) -> Panel:
    """Daily returns ``signal * x[t] + sqrt(1 - signal^2) * noise``, percent: normal, partly known before."""
    random = np.random.default_rng(seed)
    frames = []
    for symbol in ("A", "B"):
        frame = pd.DataFrame(random.standard_normal((rows, 2)), columns=["x", "z"])
        returns = np.sqrt(1 - signal**2) * random.standard_normal(rows)
        returns[1:] += signal * frame["x"].to_numpy()[:-1]
        close = 100 * np.exp(np.cumsum(returns) / 100)
        frame["symbol"] = symbol
        frame["available_at"] = pd.bdate_range("2000-01-03", periods=rows, tz="UTC", unit="us")
        for name in ("open", "high", "low", "close"):
            frame[name] = close
        frame["volume"] = 1.0
        frame["split"], frame["dividend"] = 1.0, 0.0
        frame["volatility_ewma"] = 1.0
        frames.append(frame)
    return Panel.from_frame(pd.concat(frames), ["x", "z"])


@pytest.fixture
def make_panel() -> Callable[..., Panel]:
    return _make_panel


@pytest.fixture
def small() -> Callable[..., Config]:
    return lambda **changes: Config(**(SMALL | changes))


@pytest.fixture
def hardware() -> Hardware:
    return Hardware(device="cpu", threads=1)


def _make_loop(config, hardware, batch, n=40):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(n + 31, 2, generator=generator)
    windows = LabelledWindows(
        inputs=lambda ends: gather(values, ends, config.seq_length),
        ends=torch.arange(31, n + 31),
        target=torch.randn(n, 1, generator=generator),
        unit=torch.full((n, 1), 2.0),
    )
    return Loop(Forecaster(config), config, resolve(hardware), windows, windows, batch)


@pytest.fixture
def make_loop() -> Callable[..., Loop]:
    return _make_loop

"""A small market of two symbols, an untrained base, untrained heads: the mechanics need no skill."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from atlas_pipeline.adaptation.lora import Adapter, attach, empty_adapter, extract
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.trading.state import state_dim
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaler import RobustScaler

DAY = 86_400_000_000
BARS = 160


@pytest.fixture(scope="session")
def config():
    return Config(
        seq_length=32,
        patch_length=8,
        stride=8,
        d_model=16,
        n_heads=2,
        n_layers=2,
        ff_dim=32,
        lora_rank=4,
        online_batch_size=64,
        sharpe_warmup=5,
    )


@pytest.fixture(scope="session")
def hardware():
    return Hardware(device="cpu", precision="float32")


@pytest.fixture(scope="session")
def panel():
    """160 daily bars of two symbols; the second starts three bars later."""
    generator = np.random.default_rng(0)
    bars = {"AAA": BARS, "BBB": BARS - 3}
    symbol = np.repeat(np.arange(2, dtype=np.int32), list(bars.values()))
    available_at = np.concatenate([np.arange(BARS - count, BARS) for count in bars.values()]) * DAY
    close = np.concatenate([100 * np.exp(generator.normal(0, 0.01, n).cumsum()) for n in bars.values()])
    opening = close * np.exp(generator.normal(0, 0.002, len(close)))
    prices = np.column_stack([opening, np.maximum(opening, close), np.minimum(opening, close), close, close])
    return Panel(
        symbols=tuple(bars),
        features=tuple(f"f{i}" for i in range(8)),
        symbol=symbol,
        available_at=available_at.astype(np.int64),
        values=generator.normal(size=(len(close), 8)).astype(np.float32),
        prices=prices,
        volatility=np.full(len(close), 1.0),
        split=np.ones(len(close)),
        dividend=np.zeros(len(close)),
    )


@pytest.fixture(scope="session")
def forecaster(config, panel):
    torch.manual_seed(0)
    model = Forecaster(config).eval()
    # Untrained weights are so small that attention changes nothing; these let every layer speak.
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    zeros, ones = np.zeros(8), np.ones(8)
    scaler = RobustScaler(
        features=panel.features,
        fold=2016,
        train_end=datetime(2011, 1, 1, tzinfo=UTC),
        lowest=np.full(8, -4, np.float32),
        highest=np.full(8, 4, np.float32),
        centre=zeros,
        scale=ones,
    )
    return TrainedForecaster(model, scaler, config, 2016, panel.symbols, {})


@pytest.fixture(scope="session")
def actor_critic(config):
    torch.manual_seed(1)
    model = ActorCritic(state_dim(config.d_model), config.policy_hidden).eval()
    with torch.no_grad():
        model.actor[-1].weight.mul_(60)
    return model


@pytest.fixture(scope="session")
def base(forecaster, actor_critic, config):
    live = LivePolicy.of_base(forecaster, actor_critic, config, "base")
    assert isinstance(live.adapter, Adapter)
    return live


@pytest.fixture(scope="session")
def learned(base, config):
    """An adapter with non-zero B, as after an update."""
    network = attach(base.forecaster.model.backbone, config, base.adapter, 0)
    generator = torch.Generator().manual_seed(1)
    tensors = {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in extract(network).items()}
    origin = empty_adapter(base.base_sha256, base.policy_sha256, config)
    return Adapter(**origin.provenance() | {"env_step": 100}, tensors=tensors)

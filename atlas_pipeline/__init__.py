"""Keeps a trading model alive: validated bars, a probabilistic forecaster, a policy, gated LoRA adapters.

The public names are loaded when first used, so that importing the package costs neither torch nor numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_pipeline.adaptation.agent import SOTATradingAgent
    from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
    from atlas_pipeline.config import Config
    from atlas_pipeline.trading.environment import TradingEnvironment
    from atlas_pipeline.trading.rewards import DifferentialSharpeRatio
    from atlas_pipeline.trading.risk import RiskManager
    from atlas_pipeline.windows.time_series_dataset import TimeSeriesDataset

__all__ = [
    "Config",
    "DifferentialSharpeRatio",
    "PrioritizedReplayBuffer",
    "RiskManager",
    "SOTATradingAgent",
    "TimeSeriesDataset",
    "TradingEnvironment",
]

_MODULES = {
    "Config": "config",
    "DifferentialSharpeRatio": "trading.rewards",
    "PrioritizedReplayBuffer": "adaptation.replay",
    "RiskManager": "trading.risk",
    "SOTATradingAgent": "adaptation.agent",
    "TimeSeriesDataset": "windows.time_series_dataset",
    "TradingEnvironment": "trading.environment",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are {__all__}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

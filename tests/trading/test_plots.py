from __future__ import annotations

from collections.abc import Callable

import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.trading.backtest import buy_and_hold, momentum
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.plots import equity_curves, training_curve

PNG = b"\x89PNG\r\n\x1a\n"


def test_draws_equity(simulated_path: Callable[..., MarketPath]) -> None:
    path = simulated_path(0, 120)
    tracks = {
        "buy_and_hold": [buy_and_hold(path, Config())],
        "momentum": [momentum(path, Config(), bars=20)],
    }
    assert equity_curves(tracks, "Fold 2016").startswith(PNG)


def test_draws_training() -> None:
    history = [{"step": 1.0, "entropy": 1.0}, {"step": 2.0, "entropy": 0.9, "sharpe_ratio": 0.5}]
    assert training_curve(history, "Fold 2016").startswith(PNG)


def test_refuses_to_draw_nothing() -> None:
    with pytest.raises(ValueError, match="no tracks"):
        equity_curves({"policy": []}, "Fold 2016")
    with pytest.raises(ValueError, match="no history"):
        training_curve([], "Fold 2016")

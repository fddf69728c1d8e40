from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from atlas_pipeline.trading.market_path import MarketPath, market_paths
from atlas_pipeline.windows.panel import Panel

Paths = Callable[..., MarketPath]


@pytest.mark.parametrize(
    ("name", "value"),
    [("close", 0.0), ("open", float("nan")), ("volatility", -1.0), ("forecast_scale", 0.0), ("embedding", np.inf)],
)
def test_names_the_broken_bar(simulated_path: Paths, name: str, value: float) -> None:
    path = simulated_path(0, bars=50)
    array = getattr(path, name).copy()
    array[7] = value
    with pytest.raises(ValueError, match=rf"SIM: {name} is .* at bar 7"):
        replace(path, **{name: array})


def test_refuses_unequal_lengths_and_disorder(simulated_path: Paths) -> None:
    path = simulated_path(0, bars=50)
    with pytest.raises(ValueError, match="close has 49 entries"):
        replace(path, close=path.close[1:])
    with pytest.raises(ValueError, match="does not increase at bar 1"):
        replace(path, available_at=path.available_at[::-1].copy())


def test_slices_fills_and_bars_per_year(simulated_path: Paths) -> None:
    path = simulated_path(0, bars=300)
    part = path.between(10, 20)
    assert len(part) == 10
    np.testing.assert_array_equal(part.embedding, path.embedding[10:20])
    assert path.fills("open") is path.open
    assert path.fills("close") is path.close
    assert path.bars_per_year == pytest.approx(252, rel=0.01)


def panel_of_two_symbols() -> Panel:
    random = np.random.default_rng(0)
    return Panel(
        symbols=("A", "B"),
        features=("x",),
        symbol=np.repeat(np.array([0, 1], np.int32), 10),
        available_at=np.tile(np.arange(10, dtype=np.int64), 2),
        values=np.zeros((20, 1), np.float32),
        prices=random.uniform(1, 2, (20, 5)),
        volatility=np.ones(20),
    )


def test_cuts_forecasts_of_a_panel_into_paths() -> None:
    panel = panel_of_two_symbols()
    ends = np.array([3, 4, 5, 15, 16], np.int64)
    embeddings = np.arange(10, dtype=np.float32).reshape(5, 2)
    paths = market_paths(panel, ends, embeddings, np.zeros(5), np.ones(5))
    assert [(path.symbol, len(path)) for path in paths] == [("A", 3), ("B", 2)]
    np.testing.assert_array_equal(paths[1].close, panel.prices[[15, 16], 3])
    np.testing.assert_array_equal(paths[1].open, panel.prices[[15, 16], 0])
    np.testing.assert_array_equal(paths[1].embedding, embeddings[3:])


def test_refuses_a_gap() -> None:
    with pytest.raises(ValueError, match="A: no forecast for the bar after"):
        market_paths(panel_of_two_symbols(), np.array([3, 5]), np.zeros((2, 2), np.float32), np.zeros(2), np.ones(2))

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.trading.backtest import buy_and_hold
from atlas_pipeline.trading.market_path import MarketPath, market_paths
from atlas_pipeline.trading.path_file import paths_digest, read_paths, write_paths
from atlas_pipeline.windows.panel import Panel

Paths = Callable[..., MarketPath]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("close", 0.0),
        ("open", float("nan")),
        ("volatility", -1.0),
        ("forecast_scale", 0.0),
        ("embedding", np.inf),
        ("split", 0.0),
        ("dividend", -0.1),
    ],
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
        split=np.ones(20),
        dividend=np.zeros(20),
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


def test_bars_left_out_leave_their_splits_and_dividends_behind(simulated_path: Paths, as_traded) -> None:
    path = as_traded(simulated_path(0, bars=20), {4: 7.0, 5: 2.0, 12: 3.0}, {3: 0.4, 4: 0.2, 5: 0.1, 11: 0.5, 19: 1.0})
    kept = ~np.isin(np.arange(20), [3, 4, 11, 19])
    part = path.only(kept)
    assert len(part) == 16
    np.testing.assert_array_equal(part.close, path.close[kept])
    expected = {
        int(path.available_at[5]): (14.0, (0.4 / 7 + 0.2) / 2 + 0.1),
        int(path.available_at[12]): (3.0, 0.5 / 3),
    }
    found = {
        int(instant): (split, dividend)
        for instant, split, dividend in zip(part.available_at, part.split, part.dividend, strict=True)
        if (split, dividend) != (1.0, 0.0)
    }
    assert found.keys() == expected.keys()
    for instant, pair in expected.items():
        assert found[instant] == pytest.approx(pair, rel=1e-15)
    # Who holds through earns the same, seen or not: cash that is not reinvested.
    whole, thin = (buy_and_hold(each, Config(commission=0.0, slippage=0.0)) for each in (path, part))
    assert thin.equity[-1] == pytest.approx(whole.equity[-2], rel=1e-13)
    np.testing.assert_array_equal(path.only(np.ones(20, bool)).split, path.split)


def test_what_happened_before_a_path_begins_comes_to_who_may_hold() -> None:
    panel = panel_of_two_symbols()
    split, dividend = panel.split.copy(), panel.dividend.copy()
    split[[11, 13]], dividend[[13, 14, 15]] = [3.0, 2.0], [0.2, 0.3, 0.4]
    panel = replace(panel, split=split, dividend=dividend)
    ends, none = np.array([15, 16], np.int64), np.zeros(2)
    for held_from, first in ((None, (1.0, 0.4)), (5, (1.0, 0.4)), (3, (2.0, 0.9)), (0, (6.0, 0.9))):
        (path,) = market_paths(panel, ends, np.zeros((2, 1), np.float32), none, none + 1, held_from)
        assert (path.split[0], path.dividend[0]) == pytest.approx(first), held_from
        assert (path.split[1], path.dividend[1]) == (1.0, 0.0)


def test_paths_come_back_from_their_file(simulated_path: Paths, as_traded, tmp_path) -> None:
    path = as_traded(simulated_path(0, bars=20), {4: 7.0}, {3: 0.4})
    digest = write_paths([path], tmp_path / "paths", "base")
    (read,), base = read_paths(tmp_path / "paths")
    assert base == "base"
    assert digest == paths_digest([read]) != paths_digest([replace(path, dividend=0 * path.dividend)])
    np.testing.assert_array_equal(read.split, path.split)
    np.testing.assert_array_equal(read.dividend, path.dividend)


def test_refuses_a_gap() -> None:
    with pytest.raises(ValueError, match="A: no forecast for the bar after"):
        market_paths(panel_of_two_symbols(), np.array([3, 5]), np.zeros((2, 2), np.float32), np.zeros(2), np.ones(2))

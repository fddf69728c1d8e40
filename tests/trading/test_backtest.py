from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.trading.backtest import (
    Track,
    buy_and_hold,
    momentum,
    summary,
    toward,
    trade,
    trade_policy,
)
from atlas_pipeline.trading.backtest_table import BACKTEST
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.ppo import new_policy

Paths = Callable[..., MarketPath]
CONFIG = Config()
FREE = Config(commission=0.0, slippage=0.0)


def test_buy_and_hold_earns_the_market_from_its_first_fill(simulated_path: Paths) -> None:
    path = simulated_path(0, 300)
    track = buy_and_hold(path, FREE)
    np.testing.assert_allclose(track.equity[1:], 10_000 * path.close[1:] / path.close[1])
    paid = buy_and_hold(path, CONFIG)
    # One trade: commission and slippage of one unit, once.
    assert paid.equity[-1] / track.equity[-1] == pytest.approx(1 / (1 + 1e-4 + 1e-4 * 1.0001))
    assert (paid.traded > 0).sum() == 1


def test_opens_fill_at_the_open(simulated_path: Paths) -> None:
    path = simulated_path(0, 50)
    track = buy_and_hold(path, replace(FREE, fill="open"))
    assert track.net_return[0] == pytest.approx(path.close[1] / path.open[1] - 1)


def test_momentum_follows_the_sign_of_the_past_and_nothing_later(simulated_path: Paths) -> None:
    path = simulated_path(3, 400)
    track = momentum(path, CONFIG, 100, bars=100)
    for t in range(2, 300):
        wanted = [1.0 if path.close[100 + s] > path.close[s] else -1.0 for s in (t - 2, t - 1)]
        # Reversing takes two bars.
        if wanted[0] == wanted[1]:
            assert track.position[t] == wanted[1]
    cut = momentum(path.between(0, 250), CONFIG, 100, bars=100)
    np.testing.assert_array_equal(cut.equity, track.equity[:150])
    assert (momentum(path.between(100, 400), CONFIG, bars=301).position == 0).all()
    assert momentum(path, replace(CONFIG, min_position=0), 100, bars=100).position.min() == 0


@pytest.mark.parametrize("seed", [None, 7])
def test_a_policy_decides_by_nothing_later(simulated_path: Paths, seed: int | None) -> None:
    path = simulated_path(4, 120, 4)
    model = new_policy(4, CONFIG)
    whole = trade_policy(model, path, CONFIG, seed)
    later = replace(
        path,
        close=np.r_[path.close[:60], path.close[60:] * 2],
        embedding=path.embedding * (np.arange(120) < 60)[:, None],
    )
    changed = trade_policy(model, later, CONFIG, seed)
    np.testing.assert_array_equal(whole.equity[:60], changed.equity[:60])
    np.testing.assert_array_equal(whole.position[:60], changed.position[:60])


def test_sampled_trading_follows_from_its_seed(simulated_path: Paths) -> None:
    path, model = simulated_path(4, 80, 4), new_policy(4, CONFIG)
    tracks = [trade_policy(model, path, CONFIG, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(tracks[0].position, tracks[1].position)
    assert (tracks[0].position != tracks[2].position).any()


def test_frame_fits_its_table(simulated_path: Paths) -> None:
    tracks = [buy_and_hold(simulated_path(seed, 40, symbol=str(seed)), CONFIG) for seed in (0, 1)]
    rows = BACKTEST.schema().validate(pd.concat([track.frame("2016", "buy_and_hold") for track in tracks]), lazy=True)
    assert len(rows) == 78
    assert tuple(rows.columns) == BACKTEST.names
    first = rows[rows["symbol"] == "0"]
    np.testing.assert_allclose(first["equity"].iloc[-1], 10_000 * (1 + first["net_return"]).prod())


def test_summary_adds_the_accounts_up(simulated_path: Paths) -> None:
    tracks = [buy_and_hold(simulated_path(seed, 300), CONFIG) for seed in (0, 1)]
    result = summary(tracks)
    assert result["portfolio_value"] == pytest.approx(np.mean([t.equity[-1] for t in tracks]))
    assert result["total_return"] == pytest.approx(result["portfolio_value"] / 10_000 - 1)
    assert result["sharpe_lower"] < result["sharpe_ratio"] < result["sharpe_upper"]
    assert 0 < result["max_drawdown"] < 1
    assert result["turnover"] == pytest.approx(252 / 299, rel=0.02)
    assert result["episode_reward"] == pytest.approx(np.mean([t.reward.sum() for t in tracks]))
    pooled = np.concatenate([t.net_return[1:] for t in tracks])
    assert result["win_rate"] == pytest.approx((pooled > 0).mean())


def test_summary_of_standing_aside_is_honest(simulated_path: Paths) -> None:
    track = trade(simulated_path(0, 30), CONFIG, toward(np.zeros(30)))
    result = summary([track])
    assert (result["total_return"], result["turnover"], result["max_drawdown"]) == (0.0, 0.0, 0.0)
    assert math.isnan(result["sharpe_ratio"])
    assert math.isnan(result["win_rate"])


def test_refuses_what_cannot_be_traded_or_compared(simulated_path: Paths) -> None:
    path = simulated_path(0, 30, 4)
    with pytest.raises(ValueError, match="1 bars cannot be traded"):
        buy_and_hold(path.between(0, 1), CONFIG)
    with pytest.raises(ValueError, match="the policy takes 13"):
        trade_policy(new_policy(5, CONFIG), path, CONFIG)
    with pytest.raises(ValueError, match="no track"):
        summary([])
    tracks: list[Track] = [buy_and_hold(path, CONFIG), buy_and_hold(path.between(1, 30), CONFIG)]
    with pytest.raises(ValueError, match="do not cover the same bars"):
        summary(tracks)


SPLITS, DIVIDENDS = {60: 7.0, 100: 2.0, 150: 0.25}, {40: 0.8, 100: 0.05, 101: 0.06, 200: 0.2}


def test_buy_and_hold_with_its_dividends_in_cash_is_the_closed_form(simulated_path: Paths, as_traded) -> None:
    path = as_traded(simulated_path(0, 300), SPLITS, DIVIDENDS)
    track = buy_and_hold(path, FREE)
    shares = np.cumprod(np.where(np.arange(300) > 1, path.split, 1.0))
    cash = np.cumsum(shares * path.dividend)
    value = 10_000 / path.close[1] * (shares * path.close + cash)
    np.testing.assert_allclose(track.equity[1:], value[1:], rtol=1e-12)
    # Each bar's return of who holds nothing but the share is the total return.
    index = path.total_return_close
    fresh = [buy_and_hold(path.between(bar - 2, bar + 1), FREE).net_return[1] for bar in (40, 60, 100, 101, 150)]
    np.testing.assert_allclose(fresh, [index[b] / index[b - 1] - 1 for b in (40, 60, 100, 101, 150)], atol=1e-12)


def test_splits_move_no_strategy(simulated_path: Paths, as_traded) -> None:
    plain = simulated_path(3, 300, 4)
    path, model = as_traded(plain, SPLITS, {}), new_policy(4, CONFIG)
    for strategy in (
        lambda p: trade_policy(model, p, CONFIG, 1),
        lambda p: momentum(p, CONFIG, 100, bars=50),
        lambda p: buy_and_hold(p, replace(CONFIG, fill="open")),
    ):
        np.testing.assert_allclose(strategy(path).equity, strategy(plain).equity, rtol=1e-11)
        np.testing.assert_array_equal(strategy(path).position, strategy(plain).position)


def test_momentum_counts_what_was_paid(simulated_path: Paths, as_traded) -> None:
    falling = replace(simulated_path(0, 60), close=100 * np.exp(-0.002 * np.arange(60)))
    falling = replace(falling, open=falling.close)
    assert momentum(falling, CONFIG, bars=20).position.min() == -1
    paid = as_traded(falling, {}, dict.fromkeys(range(1, 60), 0.5))
    assert momentum(paid, CONFIG, bars=20).position.min() == 0

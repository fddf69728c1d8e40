from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Config
from atlas_pipeline.trading.backtest import buy_and_hold
from atlas_pipeline.trading.environment import TradingEnvironment, gymnasium_environment
from atlas_pipeline.trading.layout import BUY, CONTEXT, HOLD, SELL
from atlas_pipeline.trading.market_path import MarketPath


def market(bars: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.01 * random.standard_normal(bars)))
    return random.standard_normal((bars, 8)), close


def environment(**changes: object) -> TradingEnvironment:
    data, close = market()
    arguments: dict[str, object] = {"prices": close} | changes
    return TradingEnvironment(data, seq_length=32, **arguments)  # type: ignore[arg-type]


def test_walks_to_the_end_as_documented() -> None:
    data, close = market()
    env = TradingEnvironment(data, 5_000.0, 32, prices=close)
    series, context = env.reset()
    assert (series.shape, context.shape) == ((1, 32, 8), (1, len(CONTEXT)))
    assert series.dtype == context.dtype == torch.float32
    np.testing.assert_allclose(series[0], data[:32], rtol=1e-6)
    done, steps, value = False, 0, 0.0
    while not done:
        (series, context), reward, done, info = env.step([BUY, HOLD, SELL][steps % 3])
        steps += 1
        value = info["portfolio_value"]
        assert isinstance(reward, float)
    assert steps == 120 - 32
    np.testing.assert_allclose(series[0], data[-32:], rtol=1e-6)
    assert value != 5_000.0
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(HOLD)
    env.reset()
    assert env.step(HOLD)[3]["portfolio_value"] == 5_000.0


@pytest.mark.parametrize("fill", ["close", "open"])
def test_is_the_backtest_seen_through_windows(fill: str) -> None:
    data, close = market()
    opening = close * 1.001
    config = Config(fill=fill)  # type: ignore[arg-type]
    env = TradingEnvironment(
        data, seq_length=32, prices=np.stack([opening, close], 1), volatility=np.ones(120), config=config
    )
    path = MarketPath(
        "A",
        np.arange(89, dtype=np.int64) * 10**9,
        opening[31:],
        close[31:],
        np.ones(89),
        np.zeros((89, 1), np.float32),
        np.zeros(89),
        np.ones(89),
        np.ones(89),
        np.zeros(89),
    )
    track = buy_and_hold(path, config)
    env.reset()
    results = [env.step(BUY) for _ in range(88)]
    np.testing.assert_array_equal([info["portfolio_value"] for *_, info in results], track.equity[1:])
    np.testing.assert_array_equal([reward for _, reward, *_ in results], track.reward)


def test_books_splits_and_dividends_as_the_backtest_does(as_traded) -> None:
    data, close = market()
    arrays = (close, close, np.ones(120), np.zeros((120, 1), np.float32), np.zeros(120), np.ones(120))
    path = MarketPath("A", np.arange(120, dtype=np.int64) * 10**9, *arrays, np.ones(120), np.zeros(120))
    path = as_traded(path, {50: 7.0, 80: 0.5}, {60: 0.3, 80: 0.2})
    booked = np.stack([path.split, path.dividend], axis=1)
    env = TradingEnvironment(data, seq_length=32, prices=path.close, volatility=np.ones(120), corporate_actions=booked)
    infos = [env.step(BUY)[3] for _ in range(88)]
    track = buy_and_hold(path.between(31, 120), Config())
    np.testing.assert_array_equal([info["portfolio_value"] for info in infos], track.equity[1:])
    assert [info["bar"] for info in infos if info["dividend"]] == [60, 80]
    measured = TradingEnvironment(data, seq_length=32, prices=path.close, corporate_actions=booked)
    # The volatility of a split is that of no move; of the dividends' returns, about the market's own.
    np.testing.assert_allclose(measured.volatility[31:], environment().volatility[31:], rtol=0.1)


def test_nothing_later_changes_what_is_seen() -> None:
    data, close = market()
    one = TradingEnvironment(data, seq_length=32, prices=close)
    two = TradingEnvironment(np.r_[data[:60], data[60:] * 3], seq_length=32, prices=np.r_[close[:60], close[60:] * 2])
    for _ in range(60 - 32):
        a, b = one.step(BUY), two.step(BUY)
        assert torch.equal(a[0][0], b[0][0])
        assert torch.equal(a[0][1], b[0][1])
        assert a[1:] == b[1:]


def test_ruin_ends_the_episode() -> None:
    data, close = market()
    env = TradingEnvironment(data, seq_length=32, prices=np.r_[close[:40], close[40:] * 4])
    results = []
    while not env.done:
        results.append(env.step(SELL))
    assert results[-1][3]["ruined"]
    assert results[-1][3]["bar"] == 40
    assert results[-1][3]["portfolio_value"] < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corporate_actions": np.ones((3, 2))}, r"corporate_actions have shape \(3, 2\): pass \(120, 2\)"),
        ({"corporate_actions": np.zeros((120, 2))}, "splits, positive"),
        ({"prices": np.ones(7)}, r"prices have shape \(7, 2\)"),
        ({"prices": np.zeros(120)}, r"prices are \[0. 0.\] at bar 0"),
        ({"prices": np.ones(120)}, "volatility is 0.0 at bar 31"),
        ({"config": Config(fill="open")}, "pass .open, close. a bar"),
        ({"volatility": np.full(120, np.nan)}, "volatility is not finite at bar 31"),
        ({"forecasts": np.ones(120)}, "forecasts has shape"),
    ],
)
def test_refuses_what_cannot_be_traded(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environment(**changes)


def test_refuses_too_few_bars_gaps_and_unknown_actions() -> None:
    data, close = market(32)
    with pytest.raises(ValueError, match="seq_length \\+ 1 = 33"):
        TradingEnvironment(data, seq_length=32, prices=close)
    data, close = market()
    data[5, 2] = np.nan
    with pytest.raises(ValueError, match="data is not finite at bar 5"):
        TradingEnvironment(data, seq_length=32, prices=close)
    with pytest.raises(ValueError, match="action=3"):
        environment().step(3)


def test_gymnasium_agrees_with_its_checker() -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Unbounded boxes and a missing spec are meant; anything else the checker says is a fault.
        warnings.filterwarnings("ignore", message=".*(infinity|spec).*")
        check_env(gymnasium_environment(environment()), skip_render_check=True)


def test_gymnasium_truncates_at_the_end_and_terminates_on_ruin() -> None:
    data, close = market()
    for prices, action, expected in (
        (close, HOLD, (False, True)),
        (np.r_[close[:40], close[40:] * 4], SELL, (True, False)),
    ):
        env = gymnasium_environment(TradingEnvironment(data, seq_length=32, prices=prices))
        env.reset(seed=0)
        terminated = truncated = False
        while not (terminated or truncated):
            _, _, terminated, truncated, _ = env.step(action)
        assert (terminated, truncated) == expected


def test_costs_follow_the_configuration() -> None:
    free = environment(config=replace(Config(), commission=0.0, slippage=0.0))
    assert free.step(BUY)[3]["costs"] == 0.0
    assert environment().step(BUY)[3]["costs"] == pytest.approx(2.0, rel=1e-3)

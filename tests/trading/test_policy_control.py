"""Controls for learning: what is knowable must be learned, what is noise must not.

The embedding has 16 columns of noise; with the leak one of them is the return between the next two fills.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from atlas_pipeline.config import Config
from atlas_pipeline.trading.backtest import toward, trade, trade_policy
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.ppo import train_policy
from atlas_pipeline.trading.statistics import sharpe

Paths = Callable[..., MarketPath]


def growth(equity: np.ndarray) -> float:
    return math.log(equity[-1] / equity[0])


def with_foresight(path: MarketPath, config: Config) -> float:
    """Log growth, net of costs, of the best sequence of orders there is: dynamic programming backward in time."""
    positions = range(config.min_position, config.max_position + 1)
    cost = config.commission + config.slippage
    ratios = path.close[1:] / path.close[:-1]
    value = dict.fromkeys(positions, 0.0)
    best: list[dict[int, int]] = []
    for ratio in ratios[::-1]:
        choice = {
            held: max(
                (after for after in positions if abs(after - held) <= 1),
                key=lambda after, held=held, value=value: value[after] + math.log(1 - cost * abs(after - held)),
            )
            for held in positions
        }
        value = {
            held: math.log(1 + held * (ratio - 1)) + value[after] + math.log(1 - cost * abs(after - held))
            for held, after in choice.items()
        }
        best.append(choice)
    target, held = np.zeros(len(path)), 0
    for t, choice in enumerate(reversed(best)):
        held = choice[held]
        target[t] = held
    # Played in the simulator: what the recursion promises (its exposures do not drift) is really to be had.
    return growth(trade(path, config, toward(target)).equity)


def knowing_the_next_return(path: MarketPath, config: Config) -> float:
    """Log growth of the best use of the next return alone: value iteration over returns of the path's law."""
    returns = 0.01 * np.random.default_rng(0).standard_normal(20_000)
    positions, cost = (-1, 0, 1), config.commission + config.slippage
    relative = dict.fromkeys(positions, 0.0)

    def options(held: int, coming: np.ndarray) -> np.ndarray:
        return np.array(
            [
                after * coming + relative[after] - cost * abs(after - held)
                if abs(after - held) <= 1
                else np.full_like(coming, -np.inf)
                for after in positions
            ]
        )

    for _ in range(50):
        gain = {held: float(options(held, returns).max(0).mean()) for held in positions}
        relative = {held: gain[held] - gain[0] for held in positions}
    target, held = np.zeros(len(path)), 0
    for t, coming in enumerate(path.embedding[:, 0].astype(float)):
        held = positions[int(options(held, np.array([coming]))[:, 0].argmax())]
        target[t] = held
    return growth(trade(path, config, toward(target)).equity)


def test_a_leaked_return_earns_what_is_attainable(simulated_path: Paths) -> None:
    """Long or flat, every position is one order away, so the next return is all that foresight needs."""
    config = Config(min_position=0, ppo_steps=100_000)
    trained = train_policy([simulated_path(1, leak=True), simulated_path(2, leak=True, symbol="B")], config)
    for seed in (11, 12, 13):
        path = simulated_path(seed, 504, leak=True)
        earned = growth(trade_policy(trained.model, path, config).equity)
        assert earned >= 0.9 * with_foresight(path, config)


def test_a_leaked_return_earns_what_is_attainable_when_reversing_takes_two_orders(
    simulated_path: Paths,
) -> None:
    """With shorts, one return ahead is not all: the yardstick is the best that knows no more than the policy."""
    config = Config(ppo_steps=100_000)
    trained = train_policy([simulated_path(1, leak=True), simulated_path(2, leak=True, symbol="B")], config)
    for seed in (11, 12, 13):
        path = simulated_path(seed, 504, leak=True)
        attainable = knowing_the_next_return(path, config)
        assert attainable > 0.8 * with_foresight(path, config)
        assert growth(trade_policy(trained.model, path, config).equity) >= 0.9 * attainable


def test_noise_earns_nothing(simulated_path: Paths) -> None:
    config = Config(ppo_steps=40_000)
    trained = train_policy([simulated_path(1), simulated_path(2, symbol="B")], config)
    returns = np.concatenate(
        [trade_policy(trained.model, simulated_path(seed, 504), config).net_return for seed in range(20, 26)]
    )
    assert sharpe(returns, 252, confidence=0.95).lower <= 0.0

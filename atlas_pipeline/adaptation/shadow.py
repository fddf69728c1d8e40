"""Shadow runs: what a contender would have earned, in the simulator that trades on paper, without trading.

Contenders draw their actions with common random numbers along several sampled paths, and the paths are
averaged: what is compared is the expected net return of the policies that would trade, which are sampled
ones, and not the luck of one path or a likeliest action that nobody takes. The same numbers on both sides
leave in the difference mostly what the policies make different (Law, Simulation Modeling and Analysis, 5th
ed., 2015, sec. 11.2). The verdict is ``gate``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atlas_pipeline.adaptation.gate import ShadowResult
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.compiled import compiled
from atlas_pipeline.config import Config
from atlas_pipeline.trading.layout import CONTEXT, EQUITY, PEAK
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy import decide
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import state_vector, write_context

SAMPLED_PATHS = 64


class _Track(NamedTuple):
    net_returns: npt.NDArray[np.float64]
    drawdowns: npt.NDArray[np.float64]
    turnover: npt.NDArray[np.float64]


def shadow(policy: LivePolicy, paths: Sequence[MarketPath], config: Config, seed: int) -> ShadowResult:
    """Trade the paths from flat accounts, many times at once, and average.

    Parameters
    ----------
    policy
        A contender; its own ``market_paths`` are what it sees.
    paths
        The bars after the candidate's creation, one path a symbol, at least two bars each and the same bars.
    config
        Costs, bounds and the fill price.
    seed
        Of the common random numbers: the same for all contenders.

    Returns
    -------
    ShadowResult
        One net return for each bar after the first; NaN from where the policy's outputs are not finite.

    Raises
    ------
    ValueError
        Where there is no path, a path has fewer than two bars, or paths hold different bars.
    """
    if not paths or len(paths[0]) < 2:
        raise ValueError("a shadow run needs a path of at least two bars; wait for more bars")
    for path in paths[1:]:
        if not np.array_equal(path.available_at, paths[0].available_at):
            raise ValueError(
                f"{path.symbol} and {paths[0].symbol} hold different bars: run the gate on their common bars"
            )
    bars = len(paths[0]) - 1
    tracks = []
    for number, path in enumerate(sorted(paths, key=lambda each: each.symbol)):
        uniforms = np.random.default_rng([seed, number]).random((bars, SAMPLED_PATHS))
        tracks.append(_run(policy, path, config, uniforms))
    return ShadowResult(
        net_returns=np.mean([track.net_returns for track in tracks], axis=0),
        max_drawdown=float(np.mean([track.drawdowns for track in tracks])),
        turnover=float(np.mean([track.turnover for track in tracks])),
        steps=bars * len(paths),
    )


def broken(paths: Sequence[MarketPath]) -> ShadowResult:
    """Stand in for a contender whose embedding is not finite, over the bars of another's paths."""
    bars = len(paths[0]) - 1
    return ShadowResult(np.full(bars, np.nan), float("nan"), float("nan"), bars * len(paths))


def _run(policy: LivePolicy, path: MarketPath, config: Config, uniforms: npt.NDArray[np.float64]) -> _Track:
    rules = Rules.of(config)
    bars, count = uniforms.shape
    accounts = np.tile(open_account(config.initial_balance, float(path.volatility[0])), (count, 1))
    contexts = np.empty((count, len(CONTEXT)), np.float32)
    net_returns, traded, drawdowns = np.full(bars, np.nan), np.full(bars, np.nan), np.zeros(count)
    fills = path.fills(config.fill)
    for t in range(bars):
        view = (path.close[t], path.volatility[t], path.forecast_location[t], path.forecast_scale[t])
        _observe(accounts, *view, rules, contexts)
        embedding = np.broadcast_to(path.embedding[t], (count, path.embedding.shape[1]))
        try:
            actions, _, _ = decide(policy.actor_critic, state_vector(embedding, contexts), uniforms[t])
        except FloatingPointError:
            # The gate refuses what is not finite; the bars from here on stay NaN.
            break
        net_returns[t], traded[t] = _advance(
            accounts,
            actions,
            fills[t + 1],
            path.close[t + 1],
            path.volatility[t],
            rules,
            path.split[t + 1],
            path.dividend[t + 1],
            drawdowns,
        )
    return _Track(net_returns, drawdowns, traded)


@compiled
def _observe(
    accounts: npt.NDArray[np.float64],
    close: float,
    volatility: float,
    location: float,
    scale: float,
    rules: Rules,
    contexts: npt.NDArray[np.float32],
) -> None:
    for n in range(len(accounts)):
        write_context(accounts[n], close, volatility, location, scale, rules, contexts[n])


@compiled
def _advance(
    accounts: npt.NDArray[np.float64],
    actions: npt.NDArray[np.int64],
    fill_price: float,
    close: float,
    volatility: float,
    rules: Rules,
    split: float,
    dividend: float,
    drawdowns: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """Step every account; mean net return, and mean traded notional over equity."""
    net_return, traded = 0.0, 0.0
    for n in range(len(accounts)):
        before = accounts[n, EQUITY]
        outcome = step(accounts[n], actions[n], fill_price, close, volatility, rules, split, dividend)
        net_return += outcome.net_return
        if before > 0.0:
            traded += abs(outcome.traded) * outcome.price / before
        drawdowns[n] = max(drawdowns[n], 1.0 - accounts[n, EQUITY] / accounts[n, PEAK])
    return net_return / len(accounts), traded / len(accounts)

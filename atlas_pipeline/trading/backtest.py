"""Trading a market path bar by bar through the core: a policy, and the baselines that it has to beat.

The baselines pay the same costs through the same core. Statistics are in `statistics`, pictures in `plots`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.config import TradingSettings
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.backtest_table import BACKTEST
from atlas_pipeline.trading.layout import BUY, EQUITY, HOLD, POSITION, SELL
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy import decide
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import context_vector, state_vector
from atlas_pipeline.trading.statistics import max_drawdown, sharpe, total_return, turnover, win_rate

if TYPE_CHECKING:
    import pandas as pd

MOMENTUM_BARS = 252

# Action at bar t, of the bar's number and the account marked at its close.
Decision = Callable[[int, NDArray[np.float64]], int]


@dataclass(frozen=True, eq=False)
class Track:
    """What one strategy did on one path of T bars.

    ``equity`` and ``position`` have T entries, the first of the opened account; the others T-1, one a step,
    dated by the bar in which the step ends.
    """

    path: MarketPath
    equity: NDArray[np.float64]
    position: NDArray[np.float64]
    net_return: NDArray[np.float64]
    traded: NDArray[np.float64]
    reward: NDArray[np.float64]

    def frame(self, fold: str, strategy: str) -> pd.DataFrame:
        """Rows of the table `BACKTEST`, one a step."""
        import pandas as pd

        columns = {
            "fold": fold,
            "strategy": strategy,
            "symbol": self.path.symbol,
            "available_at": pd.to_datetime(self.path.available_at[1:], unit="us", utc=True).as_unit("us"),
            "equity": self.equity[1:],
            "position": self.position[1:],
            "traded": self.traded,
            "net_return": self.net_return,
            "reward": self.reward,
        }
        return pd.DataFrame(columns, columns=list(BACKTEST.names))


def trade(path: MarketPath, config: TradingSettings, decision: Decision) -> Track:
    """Walk one account along a path.

    Parameters
    ----------
    path : MarketPath
        At least two bars.
    config : TradingSettings
        Costs, bounds and fill.
    decision : callable
        Action at bar t, from t and the account (float64 vector) marked at its close. It is asked at every bar
        but the last, whose order could not fill.

    Returns
    -------
    Track

    Raises
    ------
    ValueError
        Where the path has fewer than two bars.
    """
    if len(path) < 2:
        raise ValueError(f"{path.symbol}: {len(path)} bars cannot be traded: pass at least 2")
    rules = Rules.of(config)
    fills = path.fills(config.fill)
    account = open_account(config.initial_balance, float(path.volatility[0]))
    bars = len(path)
    equity, position = np.empty(bars), np.empty(bars)
    net_return, traded, reward = np.empty(bars - 1), np.empty(bars - 1), np.empty(bars - 1)
    equity[0], position[0] = account[EQUITY], account[POSITION]
    for t in range(bars - 1):
        action = decision(t, account)
        outcome = step(
            account,
            action,
            fills[t + 1],
            path.close[t + 1],
            path.volatility[t],
            rules,
            path.split[t + 1],
            path.dividend[t + 1],
        )
        equity[t + 1], position[t + 1] = account[EQUITY], account[POSITION]
        net_return[t], reward[t] = outcome.net_return, outcome.reward
        traded[t] = abs(outcome.traded) * outcome.price / equity[t]
    return Track(path, equity, position, net_return, traded, reward)


def trade_policy(model: ActorCritic, path: MarketPath, config: TradingSettings, seed: int | None = None) -> Track:
    """Let a policy trade a path: its likeliest actions, or with ``seed`` sampled ones.

    Raises
    ------
    ValueError
        Where the path's embedding does not fit the network.
    """
    rules = Rules.of(config)
    random = None if seed is None else np.random.default_rng(seed)

    def decision(t: int, account: NDArray[np.float64]) -> int:
        context = context_vector(
            account,
            path.close[t],
            path.volatility[t],
            path.forecast_location[t],
            path.forecast_scale[t],
            rules,
        )
        state = state_vector(path.embedding[t], context)
        if len(state) != model.state_dim:
            raise ValueError(
                f"{path.symbol}: the state has {len(state)} entries, the policy takes {model.state_dim}: "
                "use embeddings of the forecaster the policy was trained on"
            )
        uniforms = None if random is None else random.random(1)
        return int(decide(model, state[None], uniforms)[0][0])

    return trade(path, config, decision)


def toward(target: NDArray[np.float64]) -> Decision:
    """Decide for the action that moves the position one unit toward ``target[t]`` (units of equity)."""

    def decision(t: int, account: NDArray[np.float64]) -> int:
        gap = target[t] - account[POSITION]
        return BUY if gap > 0 else SELL if gap < 0 else HOLD

    return decision


def buy_and_hold(path: MarketPath, config: TradingSettings) -> Track:
    """Buy one unit at the first bar and keep it."""
    return trade(path, config, toward(np.ones(len(path))))


def momentum(path: MarketPath, config: TradingSettings, start: int = 0, bars: int = MOMENTUM_BARS) -> Track:
    """Trade the sign of the total return over the last ``bars`` bars: long when it is positive, otherwise short.

    Time-series momentum of Moskowitz, Ooi and Pedersen (2012), Journal of Financial Economics 104(2), sec. 3,
    at one unit of equity instead of constant volatility. Where shorts are not allowed it stands aside
    instead.

    Parameters
    ----------
    path : MarketPath
    config : TradingSettings
    start : int
        First bar to trade; those before it are looked back at. While they are too few it stands aside.
    bars : int
        Length of the look back.
    """
    closes = path.total_return_close
    target = np.zeros(len(path))
    for t in range(bars, len(path)):
        target[t] = 1.0 if closes[t] > closes[t - bars] else max(-1.0, config.min_position)
    return trade(path.between(start, len(path)), config, toward(target[start:]))


def summary(tracks: list[Track], confidence: float = 0.95) -> dict[str, float]:
    """Summarise one strategy over its symbols, each having been given the same balance.

    Returns
    -------
    dict
        ``episode_reward`` (mean over symbols of the summed reward), ``portfolio_value`` (mean final equity,
        currency), ``total_return`` (fraction), ``sharpe_ratio`` (annualised) with ``sharpe_lower`` and
        ``sharpe_upper``, ``max_drawdown`` (fraction), ``win_rate`` (NaN where never in the market) and
        ``turnover`` (multiples of equity a year). All but the first, the win rate and the turnover are those
        of the accounts' common equity.

    Raises
    ------
    ValueError
        Where there is no track, or the tracks do not cover the same bars.
    """
    if not tracks:
        raise ValueError("no track to summarise: trade at least one path")
    for track in tracks[1:]:
        if not np.array_equal(track.path.available_at, tracks[0].path.available_at):
            raise ValueError(
                f"{track.path.symbol} and {tracks[0].path.symbol} do not cover the same bars: summarise them apart"
            )
    equity = np.mean([track.equity for track in tracks], axis=0)
    net_return = np.diff(equity) / equity[:-1]
    bars_per_year = tracks[0].path.bars_per_year
    ratio = sharpe(net_return, bars_per_year, confidence)
    return {
        "episode_reward": float(np.mean([track.reward.sum() for track in tracks])),
        "portfolio_value": float(equity[-1]),
        "total_return": total_return(net_return),
        "sharpe_ratio": ratio.ratio,
        "sharpe_lower": ratio.lower,
        "sharpe_upper": ratio.upper,
        "max_drawdown": max_drawdown(equity),
        "win_rate": win_rate(
            np.concatenate([track.net_return for track in tracks]),
            np.concatenate([track.position[:-1] for track in tracks]),
        ),
        "turnover": turnover(np.concatenate([track.traded for track in tracks]), bars_per_year),
    }

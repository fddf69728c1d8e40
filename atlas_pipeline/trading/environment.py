"""The simulator as an environment that hands out windows: in the documents' form, and in Gymnasium's.

Both walk one account along one series through the core in `simulator`. Training does not use them: it knows
the embedding of every bar beforehand and walks many accounts at once (`rollout`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from atlas_pipeline.config import Config
from atlas_pipeline.features.compute import trailing_volatility
from atlas_pipeline.market.adjustment import forward_factors
from atlas_pipeline.trading.layout import ACTIONS, CONTEXT, EQUITY, PEAK, POSITION
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import context_vector

if TYPE_CHECKING:
    import gymnasium

Observation = tuple[Tensor, Tensor]


class TradingEnvironment:
    """One account on one series of bars, observed as the last window of features and the account's context.

    Parameters
    ----------
    data : array_like, shape (n_samples, n_features)
        Features as the model takes them, oldest first, causal.
    initial_balance : float
        Currency.
    seq_length : int
        Bars in a window; the first decision is at the first bar with a full one.
    prices : array_like, shape (n_samples,) or (n_samples, 2)
        Close of each bar, or open and close, in currency: scaled features hold no price to trade at.
    volatility : array_like, shape (n_samples,), optional
        Percent per bar, known at that bar. By default the exponentially weighted volatility of total returns
        with ``config.volatility_decay`` that the features have.
    forecasts : array_like, shape (n_samples, 2), optional
        Location and scale of the coming return, percent. By default zero and the volatility, which is what is
        known without a model.
    corporate_actions : array_like, shape (n_samples, 2), optional
        Split (shares for one before) and dividend (cash on each share, after the split) of each bar, where prices are
        as traded; by default there are none.
    config : Config, optional
        Costs, bounds and fill.

    Raises
    ------
    ValueError
        Where lengths differ, there are too few bars, a number is not finite or a price not positive.
    """

    def __init__(
        self,
        data: ArrayLike,
        initial_balance: float = 10_000.0,
        seq_length: int = 512,
        *,
        prices: ArrayLike,
        volatility: ArrayLike | None = None,
        forecasts: ArrayLike | None = None,
        corporate_actions: ArrayLike | None = None,
        config: Config | None = None,
    ) -> None:
        self.config = Config() if config is None else config
        self.data = np.ascontiguousarray(data, np.float32)
        self.initial_balance = float(initial_balance)
        self.seq_length = seq_length
        table = np.asarray(prices, np.float64)
        if table.ndim == 1:
            if self.config.fill == "open":
                raise ValueError("prices hold closes only, but Config.fill is 'open': pass (open, close) a bar")
            table = np.stack([table, table], axis=1)
        bars = len(self.data)
        if self.data.ndim != 2 or bars < seq_length + 1:
            raise ValueError(
                f"data has shape {self.data.shape}: pass (n_samples, n_features) with at least "
                f"seq_length + 1 = {seq_length + 1} samples"
            )
        if table.shape != (bars, 2):
            raise ValueError(f"prices have shape {table.shape}: pass ({bars},) closes or ({bars}, 2) open, close")
        if not (np.isfinite(table) & (table > 0)).all():
            bar = int(np.argwhere(~(np.isfinite(table) & (table > 0)))[0][0])
            raise ValueError(f"prices are {table[bar]} at bar {bar}: a price is positive and finite")
        self.close = np.ascontiguousarray(table[:, 1])
        self.fill = self.close if self.config.fill == "close" else np.ascontiguousarray(table[:, 0])
        booked = (
            np.tile([1.0, 0.0], (bars, 1)) if corporate_actions is None else np.asarray(corporate_actions, np.float64)
        )
        if booked.shape != (bars, 2) or not (np.isfinite(booked) & (booked >= 0)).all() or not (booked[:, 0] > 0).all():
            raise ValueError(
                f"corporate_actions have shape {booked.shape}: pass ({bars}, 2) splits, positive (1 for none), and "
                "dividends, not negative (0 for none), all finite"
            )
        self.split, self.dividend = (np.ascontiguousarray(column) for column in booked.T)
        index = self.close * forward_factors(self.close, self.split, self.dividend)
        self.volatility = (
            trailing_volatility(index, self.config.volatility_decay)
            if volatility is None
            else np.asarray(volatility, np.float64)
        )
        self.forecasts = (
            np.stack([np.zeros(bars), self.volatility], axis=1)
            if forecasts is None
            else np.asarray(forecasts, np.float64)
        )
        for name, array, shape in (
            ("data", self.data, self.data.shape),
            ("volatility", self.volatility, (bars,)),
            ("forecasts", self.forecasts, (bars, 2)),
        ):
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            # Before the first window is full nothing but its features is looked at.
            used = array if name == "data" else array[seq_length - 1 :]
            if not np.isfinite(used).all():
                bar = len(array) - len(used) + int(np.argwhere(~np.isfinite(used))[0][0])
                raise ValueError(f"{name} is not finite at bar {bar}: leave out the indicators' warm-up")
        if not (self.volatility[seq_length - 1 :] > 0).all():
            bar = seq_length - 1 + int(np.argmin(self.volatility[seq_length - 1 :] > 0))
            raise ValueError(f"volatility is {self.volatility[bar]} at bar {bar}: prices must move, or pass it")
        self.rules = Rules.of(self.config)
        self.reset()

    def reset(self) -> Observation:
        """Open a new account at the first bar with a full window.

        Returns
        -------
        time_series : Tensor of float32, shape (1, seq_length, n_features)
        context : Tensor of float32, shape (1, len(CONTEXT))
        """
        self.bar = self.seq_length - 1
        self.done = False
        self.account = open_account(self.initial_balance, float(self.volatility[self.bar]))
        return self.observation()

    def observation(self) -> Observation:
        """Return the present window and context (`reset`)."""
        window = self.data[self.bar - self.seq_length + 1 : self.bar + 1]
        context = context_vector(
            self.account,
            self.close[self.bar],
            self.volatility[self.bar],
            self.forecasts[self.bar, 0],
            self.forecasts[self.bar, 1],
            self.rules,
        )
        return torch.tensor(window)[None], torch.from_numpy(context)[None]

    def step(self, action: int) -> tuple[Observation, float, bool, dict[str, Any]]:
        """Send an order and go on to the next bar, in which it fills.

        Parameters
        ----------
        action : int
            0 HOLD, 1 BUY, 2 SELL.

        Returns
        -------
        observation : tuple of Tensor
            See `reset`.
        reward : float
            Differential Sharpe ratio of the net return; zero during warm-up.
        done : bool
            The bars are used up or the equity is.
        info : dict
            ``portfolio_value`` (currency), ``net_return`` (fraction), ``position`` (units of equity),
            ``traded`` (shares), ``price`` (of the fill), ``costs`` and ``dividend`` (currency), ``drawdown``
            (fraction), ``ruined``, ``bar``.

        Raises
        ------
        ValueError
            Where the action is none of the three.
        RuntimeError
            After the end of the episode.
        """
        if self.done:
            raise RuntimeError("the episode has ended: call reset() before the next step()")
        if action not in range(len(ACTIONS)):
            raise ValueError(f"action={action!r}: use 0 (HOLD), 1 (BUY) or 2 (SELL)")
        following = self.bar + 1
        outcome = step(
            self.account,
            int(action),
            self.fill[following],
            self.close[following],
            self.volatility[self.bar],
            self.rules,
            self.split[following],
            self.dividend[following],
        )
        self.bar = following
        self.done = bool(outcome.ruined or following == len(self.close) - 1)
        info = {
            "portfolio_value": float(self.account[EQUITY]),
            "net_return": float(outcome.net_return),
            "position": float(self.account[POSITION]),
            "traded": float(outcome.traded),
            "price": float(outcome.price),
            "costs": float(outcome.commission + outcome.slippage),
            "dividend": float(outcome.dividend),
            "drawdown": float(1.0 - self.account[EQUITY] / self.account[PEAK]),
            "ruined": bool(outcome.ruined),
            "bar": following,
        }
        return self.observation(), float(outcome.reward), self.done, info


def gymnasium_environment(environment: TradingEnvironment) -> gymnasium.Env[dict[str, Any], int]:
    """Wrap the environment as Gymnasium has it: dictionary observations, and five results of a step.

    Returns
    -------
    gymnasium.Env
        Observations ``time_series`` (seq_length, n_features) and ``context`` (len(CONTEXT),), float32;
        actions ``Discrete(3)``. Ruin terminates, the end of the bars truncates.
    """
    import gymnasium
    from gymnasium import spaces

    class Environment(gymnasium.Env[dict[str, Any], int]):
        def __init__(self) -> None:
            def unbounded(*shape: int) -> spaces.Box:
                return spaces.Box(-np.inf, np.inf, shape, np.float32)

            self.observation_space = spaces.Dict(
                {
                    "time_series": unbounded(environment.seq_length, environment.data.shape[1]),
                    "context": unbounded(len(CONTEXT)),
                }
            )
            self.action_space = cast("gymnasium.Space[int]", spaces.Discrete(len(ACTIONS)))

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            super().reset(seed=seed)
            return self._named(environment.reset()), {}

        def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
            observation, reward, done, info = environment.step(int(action))
            ruined = info["ruined"]
            return self._named(observation), reward, ruined, done and not ruined, info

        @staticmethod
        def _named(observation: Observation) -> dict[str, Any]:
            return {"time_series": observation[0][0].numpy(), "context": observation[1][0].numpy()}

    return Environment()

"""Many accounts side by side on the bars of some market paths: what the policy's training collects.

Each account walks an episode from a random bar; the step is the one core of `simulator`. Losses and
optimisation are in `ppo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.compiled import compiled
from atlas_pipeline.config import Config
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.layout import ACCOUNT, CONTEXT, EQUITY, PEAK
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.policy import decide
from atlas_pipeline.trading.simulator import Rules, reopen, step
from atlas_pipeline.trading.state import write_context

EPISODE_BARS = 252
# Sums an episode keeps: steps, reward, net return and its square, deepest drawdown.
TALLY = 5


class Market(NamedTuple):
    """Bars of several paths one after another; a tuple, because compiled code takes no dataclass."""

    fill: NDArray[np.float64]
    close: NDArray[np.float64]
    volatility: NDArray[np.float64]
    forecast_location: NDArray[np.float64]
    forecast_scale: NDArray[np.float64]
    split: NDArray[np.float64]
    dividend: NDArray[np.float64]
    first: NDArray[np.int64]  # of each path, its first row
    last: NDArray[np.int64]  # and its last


class Experience(NamedTuple):
    """One rollout of T steps in N environments, time first.

    ``rows`` point into the bars, ``final_rows`` and ``final_contexts`` (T, N, ...) are the states that
    followed each step (where an episode ended: before the restart). ``episodes`` (n, 6): length, reward, sum
    and sum of squares of net returns, deepest drawdown, final equity of the episodes that ended.
    """

    rows: NDArray[np.int64]
    contexts: NDArray[np.float32]
    actions: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]
    values: NDArray[np.float64]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    final_rows: NDArray[np.int64]
    final_contexts: NDArray[np.float32]
    episodes: NDArray[np.float64]


@compiled
def _observe(account: NDArray[np.float64], row: int, market: Market, rules: Rules, out: NDArray[np.float32]) -> None:
    write_context(
        account,
        market.close[row],
        market.volatility[row],
        market.forecast_location[row],
        market.forecast_scale[row],
        rules,
        out,
    )


@compiled
def _restart(
    account: NDArray[np.float64],
    uniform: float,
    balance: float,
    market: Market,
    path_of_row: NDArray[np.int64],
) -> tuple[int, int]:
    """Open the account at a random bar that has a next one; returns the row and the last row of its path."""
    pick = int(uniform * len(path_of_row))
    path = path_of_row[min(pick, len(path_of_row) - 1)]
    # Rows that start an episode are all but the last of each path: skip one row for each path before.
    row = min(pick, len(path_of_row) - 1) + path
    reopen(account, balance, market.volatility[row])
    return row, market.last[path]


@compiled
def _advance(
    accounts: NDArray[np.float64],
    places: NDArray[np.int64],
    tallies: NDArray[np.float64],
    actions: NDArray[np.int64],
    starts: NDArray[np.float64],
    balance: float,
    market: Market,
    path_of_row: NDArray[np.int64],
    rules: Rules,
    contexts: NDArray[np.float32],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    ended: NDArray[np.bool_],
    final_rows: NDArray[np.int64],
    final_contexts: NDArray[np.float32],
    episodes: NDArray[np.float64],
) -> int:
    """Step every environment, in place; the number of ended episodes, whose sums are in ``episodes``."""
    count = 0
    for n in range(len(accounts)):
        account, tally = accounts[n], tallies[n]
        row = places[n, 0]
        outcome = step(
            account,
            actions[n],
            market.fill[row + 1],
            market.close[row + 1],
            market.volatility[row],
            rules,
            market.split[row + 1],
            market.dividend[row + 1],
        )
        row += 1
        places[n, 0] = row
        places[n, 2] += 1
        tally[0] += 1.0
        tally[1] += outcome.reward
        tally[2] += outcome.net_return
        tally[3] += outcome.net_return**2
        tally[4] = max(tally[4], 1.0 - account[EQUITY] / account[PEAK])
        rewards[n] = outcome.reward
        terminated[n] = outcome.ruined
        ended[n] = outcome.ruined or places[n, 2] >= EPISODE_BARS or row >= places[n, 1]
        final_rows[n] = row
        _observe(account, row, market, rules, final_contexts[n])
        if ended[n]:
            episodes[count, :TALLY] = tally
            episodes[count, TALLY] = account[EQUITY]
            count += 1
            tally[:] = 0.0
            places[n, 0], places[n, 1] = _restart(account, starts[n], balance, market, path_of_row)
            places[n, 2] = 0
            _observe(account, places[n, 0], market, rules, contexts[n])
        else:
            contexts[n] = final_contexts[n]
    return count


@dataclass
class VectorEnvironment:
    """N accounts, each in its own episode of at most `EPISODE_BARS` bars, opened at random bars.

    ``accounts`` (N, len(ACCOUNT)), ``places`` (N, 3: row, last row of its path, age) and ``tallies`` are the
    whole state: written back, they continue the run exactly.
    """

    market: Market
    embedding: NDArray[np.float32]
    rules: Rules
    balance: float
    accounts: NDArray[np.float64]
    places: NDArray[np.int64]
    tallies: NDArray[np.float64]

    @classmethod
    def of(cls, paths: list[MarketPath], config: Config, uniforms: NDArray[np.float64]) -> VectorEnvironment:
        """Open the accounts; ``uniforms`` (2, N) in [0, 1) choose bars and first ages.

        The first episodes begin at different ages, or all would end in the same step for ever.

        Raises
        ------
        ValueError
            Where no path has two bars.
        """
        usable = [path for path in paths if len(path) >= 2]
        if not usable:
            raise ValueError("no market path has 2 bars: nothing can be traded; use more policy_years")
        lengths = np.array([len(path) for path in usable])
        last = lengths.cumsum() - 1

        def joined(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.ascontiguousarray(np.concatenate(arrays), np.float64)

        market = Market(
            joined([path.fills(config.fill) for path in usable]),
            joined([path.close for path in usable]),
            joined([path.volatility for path in usable]),
            joined([path.forecast_location for path in usable]),
            joined([path.forecast_scale for path in usable]),
            joined([path.split for path in usable]),
            joined([path.dividend for path in usable]),
            last - lengths + 1,
            last,
        )
        count = uniforms.shape[1]
        environment = cls(
            market,
            np.ascontiguousarray(np.concatenate([path.embedding for path in usable]), np.float32),
            Rules.of(config),
            float(config.initial_balance),
            np.zeros((count, len(ACCOUNT))),
            np.zeros((count, 3), np.int64),
            np.zeros((count, TALLY)),
        )
        for n in range(count):
            environment.places[n, :2] = _restart(
                environment.accounts[n],
                uniforms[0, n],
                environment.balance,
                market,
                environment._path_of_row,
            )
        environment.places[:, 2] = (uniforms[1] * EPISODE_BARS).astype(np.int64)
        return environment

    def __post_init__(self) -> None:
        self._path_of_row = np.repeat(np.arange(len(self.market.last)), self.market.last - self.market.first)

    def states(self, rows: NDArray[np.int64], contexts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Policy inputs, float32 (..., state_dim), of bars and account contexts."""
        return np.concatenate([self.embedding[rows], contexts], axis=-1)

    def rollout(self, model: ActorCritic, uniforms: NDArray[np.float64], starts: NDArray[np.float64]) -> Experience:
        """Act for T steps with the sampled policy.

        Parameters
        ----------
        model : ActorCritic
        uniforms, starts : ndarray of float64, shape (T, N), in [0, 1)
            They decide the actions, and the bars at which new episodes open.

        Returns
        -------
        Experience
        """
        steps, count = uniforms.shape
        context_shape = (steps, count, len(CONTEXT))
        experience = Experience(
            np.empty((steps, count), np.int64),
            np.empty(context_shape, np.float32),
            np.empty((steps, count), np.int64),
            np.empty((steps, count)),
            np.empty((steps, count)),
            np.empty((steps, count)),
            np.empty((steps, count), np.bool_),
            np.empty((steps, count), np.bool_),
            np.empty((steps, count), np.int64),
            np.empty(context_shape, np.float32),
            np.empty((steps * count, TALLY + 1)),
        )
        contexts = np.empty((count, len(CONTEXT)), np.float32)
        for n in range(count):
            _observe(self.accounts[n], self.places[n, 0], self.market, self.rules, contexts[n])
        ended = 0
        for t in range(steps):
            experience.rows[t] = self.places[:, 0]
            experience.contexts[t] = contexts
            states = self.states(experience.rows[t], contexts)
            actions, log_probabilities, values = decide(model, states, uniforms[t])
            experience.actions[t] = actions
            experience.log_probabilities[t] = log_probabilities
            experience.values[t] = values
            ended += _advance(
                self.accounts,
                self.places,
                self.tallies,
                actions,
                starts[t],
                self.balance,
                self.market,
                self._path_of_row,
                self.rules,
                contexts,
                experience.rewards[t],
                experience.terminated[t],
                experience.ended[t],
                experience.final_rows[t],
                experience.final_contexts[t],
                experience.episodes[ended:],
            )
        return experience._replace(episodes=experience.episodes[:ended].copy())

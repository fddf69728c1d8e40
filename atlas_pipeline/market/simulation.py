"""The process of a market whose true drift, volatility and density are known: its law and its settings.

Return t of a symbol, from one close to the next with splits and dividends taken out, is

``r[t] = d[s]·q[t] + v[t]·(√R²·f[t−1] + √(1 − R²)·u[t])``, ``v[t] = L[s]·√(h[t]·q[t])``

- ``s`` is the regime of the session, a Markov chain that moves between sessions; ``d`` and ``L`` are its drift and the
  standard deviation of a session, ``q`` the bar's share of a session's variance (the first bar of a session holds the
  gap since the last one).
- ``h[t+1] = ω + (α + γ·1{z[t] < 0})·h[t]·z[t]² + β·h[t]`` with mean 1 is GJR-GARCH (Glosten, Jagannathan and Runkle,
  Journal of Finance 48, 1993), stepping with every bar; ``z`` is the news, Student's t with variance 1.
- ``u = z·√((1 + k·j²) / c)``, ``k`` jumps of Poisson number and standard deviation ``j``, ``c`` such that the variance
  is 1: a mixture of Student's t, the same in all bars of one kind. Jumps leave no trace in ``h`` and ``f``.
- ``f[t] = φ·f[t−1] + √(1 − φ²)·z[t]``, an AR(1) of variance 1, is the planted signal: an average of past news that
  anyone can compute who knows volatility. ``R²`` is the share of the variance of ``(r − d·q) / v`` that it explains,
  hence the R² of the best forecast of that return; a forecast in nats gains ``−log(1 − R²) / 2`` where ``u`` is normal,
  and more where tails are fat. With ``R² = 0`` nothing but volatility can be predicted.

So everything that the density of the next return needs is known at the bar before. With one regime and without jumps it
is a function of past bars alone; regimes are hidden, and cost an observer at most the entropy of their chain.

Symbols share a Gaussian factor behind ``z``, which leaves each one's own density as it is. The interval is part of the
process: minutes and days of one seed are two markets, not two views of one. Paths are drawn in ``simulated_path``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

SESSIONS_PER_YEAR = 252
MAX_JUMPS = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One state of the market.

    Attributes
    ----------
    drift
        Mean log return per year of 252 sessions.
    volatility
        Standard deviation of the log return per root year, jumps and signal included.
    sessions
        Sessions it lasts on average.
    """

    drift: float
    volatility: float
    sessions: float


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """Parameters of the process, in the notation of the module.

    Attributes
    ----------
    regimes
        Each is left for any other one with equal probability.
    alpha, gamma, beta
        GJR-GARCH, per bar; ``alpha + gamma / 2 + beta`` is below 1.
    degrees_of_freedom
        Of the news, above 2; infinite for normal news.
    jumps_per_year, jump_size
        Their mean number, and their standard deviation in standard deviations of a session.
    overnight
        Share of a whole session's variance that falls before it opens.
    signal_r2, signal_persistence
        ``R²`` and ``φ``, per bar.
    correlation
        Of the Gaussian shocks behind any two symbols' news.
    initial_price
        Before the first bar, in currency.
    turnover
        Currency traded in a quiet session; volume rises with volatility and with the size of the news.
    spread
        Bid to ask, as a fraction of the mid, at the long-run volatility; it widens with volatility.
    imbalance_signal
        Correlation of the log ratio of the quoted sizes with the signal ``f``, from -1 to 1.
    dividend_yield
        Cash a year as a fraction of the price, paid quarterly.
    split_above
        A session that closes above this price is followed by a split of two for one.
    """

    regimes: tuple[Regime, ...] = (
        Regime(drift=0.10, volatility=0.13, sessions=250.0),
        Regime(drift=-0.10, volatility=0.28, sessions=60.0),
    )
    alpha: float = 0.03
    gamma: float = 0.06
    beta: float = 0.91
    degrees_of_freedom: float = 6.0
    jumps_per_year: float = 3.0
    jump_size: float = 3.0
    overnight: float = 0.2
    signal_r2: float = 0.0
    signal_persistence: float = 0.8
    correlation: float = 0.3
    initial_price: float = 100.0
    turnover: float = 1e8
    spread: float = 2e-4
    imbalance_signal: float = 0.0
    dividend_yield: float = 0.0
    split_above: float | None = None

    @classmethod
    def parse(cls, settings: SimulationSettings | Mapping[str, Any] | None) -> SimulationSettings:
        """Take settings as they are, or make them from a mapping as YAML gives it.

        Raises
        ------
        ValueError
            Where a name is unknown or a value cannot work.
        """
        if isinstance(settings, SimulationSettings):
            return settings
        given = dict(settings or {})
        _require_fields(cls, given)
        if "regimes" in given:
            for regime in given["regimes"]:
                _require_fields(Regime, regime)
            given["regimes"] = tuple(Regime(**regime) for regime in given["regimes"])
        return cls(**given)

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if name != "regimes" and value is not None}
        for regime in self.regimes:
            numbers |= {f"{name} of a regime": value for name, value in vars(regime).items()}
        for name, value in numbers.items():
            # YAML reads 2e-4 as text.
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
                raise ValueError(f"{name}={value!r} is no number: write it with a decimal point, such as 2.0e-4")
        rules = {
            "regimes": (len(self.regimes) > 0, "name at least one"),
            "alpha": (self.alpha >= 0, "use 0 or more"),
            "gamma": (self.alpha + self.gamma >= 0, "use at least -alpha"),
            "beta": (self.beta >= 0 and self.persistence < 1, "keep alpha + gamma / 2 + beta below 1"),
            "degrees_of_freedom": (self.degrees_of_freedom > 2, "use more than 2, or infinity for normal news"),
            "jumps_per_year": (0 <= self.jumps_per_year <= SESSIONS_PER_YEAR / 2, "use 0 to 126"),
            "jump_size": (self.jump_size >= 0, "use 0 or more"),
            "overnight": (0 <= self.overnight < 1, "use 0 or more, below 1"),
            "signal_r2": (0 <= self.signal_r2 < 1, "use 0 (no signal) or more, below 1"),
            "signal_persistence": (0 <= self.signal_persistence < 1, "use 0 or more, below 1"),
            "correlation": (0 <= self.correlation < 1, "use 0 or more, below 1"),
            "initial_price": (self.initial_price > 0, "use a positive price"),
            "turnover": (self.turnover > 0, "use a positive amount"),
            "spread": (0 < self.spread < 0.1, "use more than 0, below 0.1"),
            "imbalance_signal": (-1 <= self.imbalance_signal <= 1, "use -1 to 1"),
            "dividend_yield": (0 <= self.dividend_yield < 1, "use 0 or more, below 1"),
            "split_above": (self.split_above is None or self.split_above > 0, "use a positive price, or none"),
        }
        for name, (possible, remedy) in rules.items():
            if not possible:
                raise ValueError(f"{name}={getattr(self, name)!r} cannot be simulated: {remedy}")
        for regime in self.regimes:
            if not (regime.volatility > 0 and regime.sessions >= 1):
                raise ValueError(f"{regime} cannot be simulated: use a volatility above 0 and 1 session or more")

    @property
    def persistence(self) -> float:
        """Part of a shock to ``h`` that is expected to remain one bar later."""
        return self.alpha + self.gamma / 2 + self.beta

    @property
    def deviations(self) -> Floats:
        """Standard deviation of a session's log return in each regime, ``h`` at its mean."""
        return np.array([regime.volatility for regime in self.regimes]) / math.sqrt(SESSIONS_PER_YEAR)

    @property
    def stationary(self) -> Floats:
        """Long-run probability of each regime: in proportion to how long it lasts, since all are entered alike."""
        lengths = np.array([regime.sessions for regime in self.regimes])
        result: Floats = lengths / lengths.sum()
        return result

    @property
    def transition(self) -> Floats:
        """Probability of each regime (columns) in the session after each regime (rows)."""
        count = len(self.regimes)
        leaving = self.leaving
        result = np.tile(leaving[:, None] / max(count - 1, 1), (1, count))
        np.fill_diagonal(result, 1 - leaving)
        return result

    @property
    def leaving(self) -> Floats:
        """Probability that each regime ends with its session; 0 for the only one."""
        if len(self.regimes) == 1:
            return np.zeros(1)
        return 1 / np.array([regime.sessions for regime in self.regimes])

    @property
    def long_run_deviation(self) -> float:
        """Standard deviation of a whole session's log return over all regimes, their drifts aside."""
        return math.sqrt(float(self.stationary @ self.deviations**2))

    def jump_law(self, share: Floats) -> tuple[Floats, Floats]:
        """Law of the number of jumps in bars, and what they do to the standard deviation.

        Parameters
        ----------
        share
            Share of a session's variance that each bar has, float64 [n].

        Returns
        -------
        weights, inflations
            float64 [n, 4]: probability of 0 to 3 jumps, where 3 stands for more as well, and ``√((1 + k·j²) / c)``.
        """
        rate = np.asarray(share)[:, None] * self.jumps_per_year / SESSIONS_PER_YEAR
        number = np.arange(MAX_JUMPS + 1)
        factorial = np.array([math.factorial(n) for n in number])
        weights = np.exp(-rate) * rate**number / factorial
        weights[:, -1] = np.maximum(0.0, 1 - weights[:, :-1].sum(axis=1))
        # Jumps are as large in a short bar as in a long one, hence more of the short bar's deviations.
        variances = 1 + number * self.jump_size**2 / np.asarray(share)[:, None]
        return weights, np.sqrt(variances / (weights * variances).sum(axis=1, keepdims=True))


def _require_fields(kind: type[Regime | SimulationSettings], given: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(kind)]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"unknown settings of {kind.__name__} {unknown}; it has: {', '.join(known)}")

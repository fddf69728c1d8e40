"""What is true of a simulated market: the density of every return, as it was known at the bar before.

The process itself stands in ``simulation``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.bars import AVAILABLE_AT, INTERVAL, MONTH, SYMBOL
from atlas_pipeline.market.simulation import Floats, SimulationSettings
from atlas_pipeline.market.table import Column, Table

SIMULATED_TRUTH = Table(
    name="simulated_truth",
    description="Density of the return that ends at each bar, as known at the bar before, and what the return became",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        Column(
            "known_at",
            "timestamp",
            "Completion of the bar before, when all columns but log_return could be known; null for the first bar",
            "UTC",
            nullable=True,
        ),
        Column("regime", "int64", "Position in the settings' regimes", minimum=0),
        Column("drift", "float64", "Part of the mean that the regime gives", "percent a bar"),
        Column("signal", "float64", "Part of the mean that the planted signal gives", "percent a bar"),
        Column("mean", "float64", "Conditional mean of log_return: drift + signal", "percent a bar"),
        Column("volatility", "float64", "Conditional standard deviation of log_return", "percent a bar", minimum=0.0),
        Column("variance_share", "float64", "The bar's share of a whole session's variance", minimum=0.0),
        Column("log_return", "float64", "What came: 100 log, splits and dividends taken out", "percent a bar"),
        MONTH,
    ),
    key=("symbol", "interval", "available_at"),
    partition_by="month",
    time="available_at",
)


@dataclass(frozen=True, eq=False)
class TrueDensity:
    """Conditional densities of returns in percent: a mixture of Student's t over the number of jumps, one a bar.

    The t of k jumps has location ``mean``, ``degrees_of_freedom`` and the standard deviation
    ``volatility · inflations[k]``; the mixture's standard deviation is ``volatility``.

    Attributes
    ----------
    mean, volatility
        float64 [n], percent.
    weights, inflations
        float64 [n, jumps + 1].
    degrees_of_freedom
        Above 2; infinite for normal components.
    """

    mean: Floats
    volatility: Floats
    weights: Floats
    inflations: Floats
    degrees_of_freedom: float

    @classmethod
    def of(cls, truth: pd.DataFrame, settings: SimulationSettings) -> TrueDensity:
        """Make the densities of rows of ``SIMULATED_TRUTH``; they judge its ``log_return``.

        Change a column to ask what a wrong belief would cost: with ``mean`` replaced by ``drift``, not knowing the
        signal.
        """
        weights, inflations = settings.jump_law(truth["variance_share"].to_numpy())
        mean, volatility = truth["mean"].to_numpy(), truth["volatility"].to_numpy()
        return cls(mean, volatility, weights, inflations, settings.degrees_of_freedom)

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> TrueDensity:
        return TrueDensity(
            self.mean[rows], self.volatility[rows], self.weights[rows], self.inflations[rows], self.degrees_of_freedom
        )

    def nll(self, returns: Floats) -> Floats:
        """Negative log-likelihood of each return (percent), nats, float64 [n]; no forecast has a lower expectation."""
        scale = self._scales() * self.volatility[:, None]
        squares = ((returns - self.mean)[:, None] / scale) ** 2
        df = self.degrees_of_freedom
        if math.isfinite(df):
            log_density = (
                math.lgamma((df + 1) / 2)
                - math.lgamma(df / 2)
                - math.log(df * math.pi) / 2
                - (df + 1) / 2 * np.log1p(squares / df)
            )
        else:
            log_density = -squares / 2 - math.log(2 * math.pi) / 2
        with np.errstate(divide="ignore"):
            terms = log_density - np.log(scale) + np.log(self.weights)
        result: Floats = -np.logaddexp.reduce(terms, axis=1)
        return result

    def pit(self, returns: Floats) -> Floats:
        """Probability of a return below each one (percent), float64 [n]: independent and uniform."""
        from scipy import stats

        z = ((returns - self.mean) / self.volatility)[:, None] / self._scales()
        result: Floats = (self.weights * stats.t.cdf(z, self.degrees_of_freedom)).sum(axis=1)
        return result

    def quantile(self, levels: Sequence[float]) -> Floats:
        """Returns (percent) that are not reached with these probabilities, float64 [n, levels].

        Raises
        ------
        ValueError
            Where a level is not between 0 and 1.
        """
        if not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels={list(levels)}: a quantile needs a probability between 0 and 1, both excluded")
        # A mixture is located and scaled, not shaped, by its bar: bars of one kind share their standard quantiles.
        kinds, kind = np.unique(np.hstack([self.weights, self.inflations]), axis=0, return_inverse=True)
        jumps = self.weights.shape[1]
        standard = np.array([[self._standard_quantile(row, jumps, level) for level in levels] for row in kinds])
        result: Floats = self.mean[:, None] + self.volatility[:, None] * standard[kind]
        return result

    def _standard_quantile(self, row: Floats, jumps: int, level: float) -> float:
        from scipy import optimize, stats

        one = TrueDensity(np.zeros(1), np.ones(1), row[None, :jumps], row[None, jumps:], self.degrees_of_freedom)
        # It lies between the quantiles of the narrowest and of the widest component, give or take a rounding.
        components = stats.t.ppf(level, self.degrees_of_freedom) * one._scales()[0]
        found = optimize.brentq(
            lambda value: float(one.pit(np.array([value]))[0]) - level,
            components.min() - 1e-6,
            components.max() + 1e-6,
            xtol=1e-13,
        )
        return float(found)

    def _scales(self) -> Floats:
        df = self.degrees_of_freedom
        return self.inflations * (math.sqrt((df - 2) / df) if math.isfinite(df) else 1.0)

"""Forecasts of a simulated market against its truth: nats lost to the true density, and the signal that was found.

The true densities are ``market.truth``'s; scores against outcomes alone are ``density``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.market.instants import EPOCH
from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.training.calibration import Array
from atlas_pipeline.training.density import DensityForecast, nll
from atlas_pipeline.windows.index import labels
from atlas_pipeline.windows.panel import Panel


@dataclass(frozen=True)
class Divergence:
    """What a forecaster loses to the truth.

    Attributes
    ----------
    nll, true_nll
        Mean negative log-likelihood of the forecaster and of the true densities, nats.
    excess
        Their difference: an estimate of the mean Kullback-Leibler divergence of the forecast from the truth, nats.
    standard_error
        Of ``excess``; bars count as independent, as under the truth they are up to the forecaster's own errors.
    coefficient, coefficient_error
        Slope of the forecast's mean on the mean that was planted, by least squares, and its standard error: 1 where
        the signal is found, 0 where nothing of it is; NaN where none was planted.
    """

    nll: float
    true_nll: float
    excess: float
    standard_error: float
    coefficient: float
    coefficient_error: float


def true_rows(panel: Panel, ends: NDArray[np.int64], source: SimulatedSource) -> pd.DataFrame:
    """Rows of ``SIMULATED_TRUTH`` about the return after each of these rows of the panel, in their order.

    Raises
    ------
    ValueError
        Where a bar is none of this market's, or none follows it.
    """
    last = EPOCH + timedelta(microseconds=int(panel.available_at[ends].max()))
    first = EPOCH + timedelta(microseconds=int(panel.available_at[ends].min()))
    # The return that a bar is forecast at ends within the longest closure after it.
    truth = source.truth(panel.symbols, first, last + timedelta(days=31)).dropna(subset=["known_at"])
    wanted = pd.MultiIndex.from_arrays(
        [
            np.array(panel.symbols)[panel.symbol[ends]],
            pd.to_datetime(panel.available_at[ends], unit="us", utc=True).as_unit("us"),
        ]
    )
    known_at = truth["known_at"].dt.as_unit("us")
    place = pd.MultiIndex.from_arrays([truth["symbol"].astype(str), known_at]).get_indexer(wanted)
    if (place < 0).any():
        symbol, instant = wanted[int(np.flatnonzero(place < 0)[0])]
        raise ValueError(f"the simulated market has no return after {symbol}'s bar of {instant}: pass its own bars")
    return truth.iloc[place].reset_index(drop=True)


def divergence(panel: Panel, ends: NDArray[np.int64], forecast: DensityForecast, source: SimulatedSource) -> Divergence:
    """Measure one-bar forecasts of a simulated market against its true densities.

    Parameters
    ----------
    panel
        Bars of ``source``.
    ends
        Rows that were forecast from, int64 [n].
    forecast
        Their densities, n of them, of the return one bar ahead, percent.
    source
        The market, which knows its truth.

    Raises
    ------
    ValueError
        As ``true_rows``.
    """
    truth = true_rows(panel, ends, source)
    outcome = labels(panel, ends, 1)
    own, best = nll(outcome, forecast), source.density(truth).nll(outcome)
    lost = own - best
    slope, error = _slope(truth["signal"].to_numpy(), forecast.mean)
    return Divergence(
        float(own.mean()),
        float(best.mean()),
        float(lost.mean()),
        float(lost.std(ddof=1) / np.sqrt(len(lost))),
        slope,
        error,
    )


def _slope(planted: Array, predicted: Array) -> tuple[float, float]:
    x, y = planted - planted.mean(), predicted - predicted.mean()
    square = float(x @ x)
    if square <= 1e-18 * len(x):
        return float("nan"), float("nan")
    slope = float(x @ y) / square
    residual = y - slope * x
    return slope, float(np.sqrt(residual @ residual / (len(x) - 2) / square))

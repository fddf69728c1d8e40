"""Forecasts of the price level on a min-max scale, as the documents of origin state their targets.

The targets look at what flatters: on the scale of a decade's closes a day's move is some thousandths, so that the
forecast "as today" has an error below 0.02, and a density as narrow as a day's move a very negative NLL. A random walk
meets them all; they tell a broken forecaster from a sound one, and no sound ones apart. That is why they are shown
beside a constant Gaussian's, and why returns are judged everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.training.calibration import Array, coverage
from atlas_pipeline.training.density import DensityForecast, nll, pit
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd

TARGET_COVERAGE = (0.93, 0.97)
"""The documents call 95% intervals that hold this share of the outcomes properly calibrated."""
TARGET_MAE = 0.02
TARGET_NLL = 0.5


@dataclass(frozen=True)
class LevelScores:
    """MAE of the median and mean NLL (nats) on the min-max scale, and coverage of the 95% interval (a share)."""

    mae: float
    nll: float
    coverage_95: float

    def met(self) -> dict[str, bool]:
        """Which of the targets are met."""
        low, high = TARGET_COVERAGE
        return {
            "mae": self.mae < TARGET_MAE,
            "nll": self.nll < TARGET_NLL,
            "coverage_95": low <= self.coverage_95 <= high,
        }


def level_scores(close: Array, target: Array, forecast: DensityForecast, training_closes: Array) -> LevelScores:
    """Score the level that a density of the return implies, scaled as ``x = (level - min) / (max - min)``.

    The level is ``close exp(return / 100)``; its density follows by change of variable, ``f_x = f_return · 100 (max -
    min) / level``. Quantiles and coverage need none: they go through any rising map.

    Parameters
    ----------
    close
        Close that each forecast is made at, float64 [n], of one symbol.
    target
        The returns that followed, percent, float64 [n].
    forecast
        Their densities, n of them.
    training_closes
        The closes whose minimum and maximum make the scale: those the forecaster was fitted on.

    Raises
    ------
    ValueError
        Where the training closes do not vary.
    """
    reach = float(np.ptp(training_closes)) if len(training_closes) else 0.0
    if not reach > 0:
        raise ValueError(
            f"{len(training_closes)} training closes with a range of {reach} make no scale: pass closes that vary"
        )
    level = close * np.exp(target / 100)
    median = close * np.exp(forecast.median / 100)
    likelihood = nll(target, forecast) - np.log(100 * reach / level)
    return LevelScores(
        float(np.abs(level - median).mean() / reach), float(likelihood.mean()), coverage(pit(target, forecast), 0.95)
    )


def level_table(
    panel: Panel,
    ends: NDArray[np.int64],
    target: Array,
    densities: Mapping[str, DensityForecast],
    fitted_before: int,
) -> pd.DataFrame:
    """Score each model on each symbol's scaled level, with the targets it misses.

    Parameters
    ----------
    panel, ends
        Rows that were forecast from, int64 [n].
    target
        The returns that followed, percent, float64 [n].
    densities
        Model to its n forecasts.
    fitted_before
        Closes before this instant (microseconds since 1970 UTC) make the scale.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``model``, ``mae``, ``nll``, ``coverage_95`` as in ``LevelScores``, ``missed`` targets.
    """
    import pandas as pd

    close = panel.total_return_close
    rows = []
    for index in np.unique(panel.symbol[ends]):
        training = close[(panel.symbol == index) & (panel.available_at < fitted_before)]
        own = panel.symbol[ends] == index
        for model, density in densities.items():
            found = level_scores(close[ends[own]], target[own], density[own], training)
            missed = [name for name, met in found.met().items() if not met]
            rows.append(
                {
                    "symbol": panel.symbols[index],
                    "model": model,
                    "mae": found.mae,
                    "nll": found.nll,
                    "coverage_95": found.coverage_95,
                    "missed": ", ".join(missed) or "none",
                }
            )
    return pd.DataFrame(rows)

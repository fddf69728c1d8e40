"""Out-of-sample forecasts as rows, one a model, symbol and bar, and the table of scores made from them.

Scores of single forecasts are ``density``'s; which models stand beside the forecaster is ``volatility_models``', and
the forecaster against the best of them ``garch_contest``'s. Heads that give no density are not judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.table import Column, Table
from atlas_pipeline.training.calibration import LEVELS, Array, within_band
from atlas_pipeline.training.density import DensityForecast, crps, nll, pit, scores
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd

FORECASTER = "forecaster"
BASELINE = "riskmetrics"
"""The model that the forecaster has to beat before anything is built on it."""

FORECASTS = Table(
    name="forecasts",
    description="Out-of-sample density forecasts of each fold's year beside the volatility models', with their scores",
    columns=(
        Column("fold", "string", "year the forecaster is judged on"),
        Column("symbol", "string", "instrument"),
        Column("available_at", "timestamp", "bar that the forecast is made at", unit="UTC"),
        Column("horizon", "int64", "bars from there to the end of the return", unit="bars", minimum=1),
        Column("model", "string", "forecaster, or the name of a volatility model"),
        Column("location", "float64", "mode of the density of the return over the horizon", unit="percent"),
        Column("scale", "float64", "scale of that density", unit="percent", minimum=0.0),
        Column("df", "float64", "degrees of freedom of Student's t; infinite for a normal density", minimum=0.0),
        Column("skew", "float64", "skew of the two-piece density; 0 for Student's t", minimum=-1.0),
        Column("outcome", "float64", "the return that followed", unit="percent"),
        Column("nll", "float64", "negative log-likelihood of the outcome", unit="nats"),
        Column("crps", "float64", "continuous ranked probability score", unit="percent", minimum=0.0),
        Column("pit", "float64", "probability integral transform of the outcome", minimum=0.0),
    ),
    key=("fold", "symbol", "available_at", "horizon", "model"),
    partition_by="fold",
    time="available_at",
)


def forecast_rows(
    fold: str,
    panel: Panel,
    ends: NDArray[np.int64],
    outcome: Array,
    densities: Mapping[str, DensityForecast],
    horizon: int = 1,
) -> pd.DataFrame:
    """Rows of ``FORECASTS``.

    Parameters
    ----------
    fold
        Year that is judged.
    panel
        Where symbols and instants stand.
    ends
        Rows of the panel that were forecast from, int64 [n].
    outcome
        The returns that followed, percent, float64 [n].
    densities
        Model to its n forecasts.
    horizon
        Bars that the returns span.
    """
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "fold": fold,
                "symbol": np.array(panel.symbols)[panel.symbol[ends]],
                "available_at": pd.to_datetime(panel.available_at[ends], unit="us", utc=True).as_unit("us"),
                "horizon": horizon,
                "model": model,
                "location": density.location,
                "scale": density.scale,
                "df": density.df,
                "skew": density.skew,
                "outcome": outcome,
                "nll": nll(outcome, density),
                "crps": crps(outcome, density),
                "pit": pit(outcome, density),
            }
        )
        for model, density in densities.items()
    ]
    return pd.concat(frames, ignore_index=True)[list(FORECASTS.names)]


def stored_densities(forecasts: pd.DataFrame) -> DensityForecast:
    """Densities of rows of ``FORECASTS``, in their order."""
    return DensityForecast(*(forecasts[name].to_numpy(float) for name in ("location", "scale", "df", "skew")))


def score_table(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each model on each symbol.

    Parameters
    ----------
    forecasts
        Rows of ``FORECASTS`` of one fold.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``horizon`` (bars), ``model``, ``nll`` (nats), ``crps``, ``mae`` of the median (percent),
        ``coverage_50``, ``_80``, ``_95`` (shares), ``calibrated``: at which of these levels the coverage lies in the
        binomial 99% band, ``width_50``, ``_80``, ``_95`` (percent), ``calibration_error`` (probability), ``bars``; the
        best NLL of each symbol and horizon first.
    """
    import pandas as pd

    rows = []
    for (symbol, horizon, model), own in forecasts.groupby(["symbol", "horizon", "model"]):
        found = scores(own["outcome"].to_numpy(float), stored_densities(own))
        transform = own["pit"].to_numpy(float)
        calibrated = [f"{level * 100:.0f}" for level in LEVELS if within_band(transform, level)]
        rows.append(
            {
                "symbol": symbol,
                "horizon": horizon,
                "model": model,
                **{name: found[name] for name in ("nll", "crps", "mae")},
                **{name: value for name, value in found.items() if name.startswith("coverage_")},
                "calibrated": ", ".join(calibrated) or "none",
                **{name: value for name, value in found.items() if name.startswith("width_")},
                "calibration_error": found["calibration_error"],
                "bars": len(own),
            }
        )
    return pd.DataFrame(rows).sort_values(["symbol", "horizon", "nll"], ignore_index=True)

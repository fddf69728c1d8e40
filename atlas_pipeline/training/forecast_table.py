"""Out-of-sample forecasts as rows, one a model, symbol and bar, and the table of scores made from them.

Scores of single forecasts are ``density``'s; which models stand beside the forecaster is ``volatility_models``'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.table import Column, Table
from atlas_pipeline.training.density import LEVELS, Array, DensityForecast, coverage, crps, nll, pit
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
        Column("model", "string", "forecaster, constant_gaussian, riskmetrics or garch_t"),
        Column("location", "float64", "location of the density of the return over the horizon", unit="percent"),
        Column("scale", "float64", "scale of that density", unit="percent", minimum=0.0),
        Column("df", "float64", "degrees of freedom of Student's t; infinite for a normal density", minimum=0.0),
        Column("outcome", "float64", "the return that followed", unit="percent"),
        Column("nll", "float64", "negative log-likelihood of the outcome", unit="nats"),
        Column("crps", "float64", "continuous ranked probability score", unit="percent", minimum=0.0),
        Column("pit", "float64", "probability integral transform of the outcome", minimum=0.0),
    ),
    key=("fold", "symbol", "available_at", "model"),
    partition_by="fold",
    time="available_at",
)


def forecast_rows(
    fold: str,
    panel: Panel,
    ends: NDArray[np.int64],
    outcome: Array,
    densities: Mapping[str, DensityForecast],
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
    """
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "fold": fold,
                "symbol": np.array(panel.symbols)[panel.symbol[ends]],
                "available_at": pd.to_datetime(panel.available_at[ends], unit="us", utc=True).as_unit("us"),
                "model": model,
                "location": density.location,
                "scale": density.scale,
                "df": density.df,
                "outcome": outcome,
                "nll": nll(outcome, density),
                "crps": crps(outcome, density),
                "pit": pit(outcome, density),
            }
        )
        for model, density in densities.items()
    ]
    return pd.concat(frames, ignore_index=True)[list(FORECASTS.names)]


def score_table(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each model on each symbol.

    Parameters
    ----------
    forecasts
        Rows of ``FORECASTS`` of one fold.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``model``, ``nll`` (nats), ``crps`` (percent), ``coverage_50``, ``_80``, ``_95`` (shares),
        ``bars``; the best NLL of each symbol first.
    """
    import pandas as pd

    rows = [
        {
            "symbol": symbol,
            "model": model,
            "nll": own["nll"].mean(),
            "crps": own["crps"].mean(),
            **{f"coverage_{level * 100:.0f}": coverage(own["pit"].to_numpy(), level) for level in LEVELS},
            "bars": len(own),
        }
        for (symbol, model), own in forecasts.groupby(["symbol", "model"])
    ]
    return pd.DataFrame(rows).sort_values(["symbol", "nll"], ignore_index=True)

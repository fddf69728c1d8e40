"""The forecaster against the best of the GARCH family, on rows of ``FORECASTS``: tables of loss differences.

The best is the model with the lowest mean NLL on the very bars that are judged: chosen with hindsight, the hardest
opponent. The test itself is ``comparison``'s; a table of every model's scores is ``forecast_table``'s.
"""

from __future__ import annotations

import pandas as pd

from atlas_pipeline.training.calibration import LEVELS, Array, coverage, coverage_band
from atlas_pipeline.training.comparison import LossComparison, diebold_mariano, mean_by_instant
from atlas_pipeline.training.conformal import conformal_coverage, conformal_levels
from atlas_pipeline.training.forecast_table import FORECASTER
from atlas_pipeline.training.volatility_models import GARCH_FAMILY


def loss_differences(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Daily NLL of the forecaster minus that of each symbol's best GARCH model over all these rows.

    Parameters
    ----------
    forecasts
        Rows of ``FORECASTS``.

    Returns
    -------
    pandas.DataFrame
        ``fold``, ``symbol``, ``available_at``, ``opponent``, ``forecaster``, ``best_garch`` and ``difference`` (nats),
        in order of symbol and time; without rows where no GARCH model stands beside the forecaster.
    """
    # The family forecasts the next bar only.
    judged = forecasts[forecasts["model"].isin([FORECASTER, *GARCH_FAMILY]) & (forecasts["horizon"] == 1)]
    frames = []
    for symbol, own in judged.groupby("symbol"):
        losses = own.pivot(index=["fold", "available_at"], columns="model", values="nll")
        family = [model for model in GARCH_FAMILY if model in losses]
        if FORECASTER not in losses or not family:
            continue
        losses = losses[[FORECASTER, *family]].dropna()
        best = str(losses[family].mean().idxmin())
        frames.append(
            losses.reset_index()[["fold", "available_at"]].assign(
                symbol=symbol,
                opponent=best,
                forecaster=losses[FORECASTER].to_numpy(),
                best_garch=losses[best].to_numpy(),
                difference=(losses[FORECASTER] - losses[best]).to_numpy(),
            )
        )
    columns = ["fold", "symbol", "available_at", "opponent", "forecaster", "best_garch", "difference"]
    if not frames:
        return pd.DataFrame(columns=columns)
    return pd.concat(frames)[columns].sort_values(["symbol", "available_at"], ignore_index=True)


def contest_table(forecasts: pd.DataFrame) -> pd.DataFrame:
    """The forecaster against the best GARCH model of each fold and symbol, with Diebold and Mariano's test.

    Returns
    -------
    pandas.DataFrame
        ``fold``, ``symbol``, ``opponent``, ``forecaster``, ``best_garch``, ``difference`` (mean NLL, nats; negative
        where the forecaster is better), ``dm_statistic``, ``dm_p_value`` (two-sided), ``bars``.
    """
    rows = []
    for fold, whole in forecasts.groupby("fold"):
        for symbol, own in loss_differences(whole).groupby("symbol"):
            test = diebold_mariano(own["difference"].to_numpy(float))
            rows.append(
                {
                    "fold": fold,
                    "symbol": symbol,
                    "opponent": own["opponent"].iloc[0],
                    "forecaster": own["forecaster"].mean(),
                    "best_garch": own["best_garch"].mean(),
                    "difference": test.mean,
                    "dm_statistic": test.statistic,
                    "dm_p_value": test.p_value,
                    "bars": test.n,
                }
            )
    columns = ["fold", "symbol", "opponent", "forecaster", "best_garch", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "dm_statistic", "dm_p_value", "bars"])


def pooled_contest(forecasts: pd.DataFrame) -> LossComparison:
    """Test the forecaster against each symbol's best GARCH model over all these rows, the symbols averaged by day."""
    found = loss_differences(forecasts)
    daily = mean_by_instant(found["difference"].to_numpy(float), found["available_at"].to_numpy())
    return diebold_mariano(daily)


def interval_table(transforms: dict[str, Array], earlier: dict[str, Array], horizon: int) -> pd.DataFrame:
    """Coverage of the raw and of the conformally adjusted intervals of each symbol.

    Parameters
    ----------
    transforms
        Symbol to the PIT of its outcomes in order of time.
    earlier
        Symbol to the PIT of outcomes that were known before the first of these.
    horizon
        Bars until an outcome is known.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``level``, ``raw``, ``conformal`` (shares), ``band_low``, ``band_high`` (99% binomial band).
    """
    rows = []
    for symbol, transform in transforms.items():
        for level in LEVELS:
            levels = conformal_levels(transform, level, horizon=horizon, earlier=earlier[symbol])
            low, high = coverage_band(len(transform), level)
            rows.append(
                {
                    "symbol": symbol,
                    "level": level,
                    "raw": coverage(transform, level),
                    "conformal": conformal_coverage(transform, levels),
                    "band_low": low,
                    "band_high": high,
                }
            )
    return pd.DataFrame(rows)

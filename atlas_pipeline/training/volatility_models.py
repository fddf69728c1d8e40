"""The econometrician's density forecasts, which a forecaster must beat: constant, RiskMetrics, GARCH(1,1)-t.

Parameters are estimated on returns before the judged period; through it the models only filter. One bar
ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.training.density import Array, DensityForecast
from atlas_pipeline.windows.panel import Panel

# RiskMetrics Technical Document, 4th ed., 1996, sec. 5.3.2.2: the decay for daily data.
RISKMETRICS_DECAY = 0.94
# Fewer returns than two years of days do not identify a GARCH process (Hwang and Valls Pereira, 2006,
# European Journal of Finance 12).
MINIMUM_RETURNS = 500


def constant_gaussian(returns: Array, fitted: int) -> DensityForecast:
    """Take mean and standard deviation of the first ``fitted`` returns, for every bar.

    Parameters
    ----------
    returns
        ``100 * log(close[i] / close[i - 1])``, percent, float64 [n].
    fitted
        How many of them lie before the judged period.

    Returns
    -------
    DensityForecast
        Row i is the density of ``returns[i + 1]``, known at bar i.
    """
    n = len(returns)
    known = returns[:fitted]
    return DensityForecast(np.full(n, known.mean()), np.full(n, known.std(ddof=1)), np.full(n, np.inf))


def riskmetrics(returns: Array, fitted: int) -> DensityForecast:
    """Filter a normal of mean zero with ``v[i+1] = 0.94 v[i] + 0.06 r[i]^2``; as ``constant_gaussian``.

    RiskMetrics Technical Document, 4th ed., 1996, eq. 5.3.
    """
    variance = _filter(returns**2, 0.0, 1 - RISKMETRICS_DECAY, RISKMETRICS_DECAY, float(np.mean(returns[:fitted] ** 2)))
    n = len(returns)
    return DensityForecast(np.zeros(n), np.sqrt(variance), np.full(n, np.inf))


def garch_t(returns: Array, fitted: int) -> DensityForecast:
    """Fit GARCH(1,1) with constant mean and Student-t innovations by ``arch``; as ``constant_gaussian``.

    Bollerslev, Review of Economics and Statistics 69, 1987, eq. 1 to 3. The recursion is run here, with the
    parameters of the fit, so that no later return reaches an earlier forecast through the estimator's own
    start values.

    Raises
    ------
    RuntimeError
        Where the likelihood's maximum is not found.
    """
    from arch import arch_model

    known = returns[:fitted]
    result = arch_model(known, mean="Constant", vol="GARCH", p=1, q=1, dist="t").fit(disp="off", show_warning=False)
    if result.convergence_flag != 0:
        raise RuntimeError(
            f"GARCH(1,1)-t did not converge on {fitted} returns (flag {result.convergence_flag}): check "
            "them for constant stretches or splits"
        )
    parameters = result.params
    residuals = returns - parameters["mu"]
    variance = _filter(
        residuals**2,
        parameters["omega"],
        parameters["alpha[1]"],
        parameters["beta[1]"],
        float(np.mean(residuals[:fitted] ** 2)),
    )
    n, df = len(returns), float(parameters["nu"])
    # arch standardises the innovations to unit variance; ours have scale times sqrt(df / (df - 2)).
    return DensityForecast(np.full(n, parameters["mu"]), np.sqrt(variance * (df - 2) / df), np.full(n, df))


VOLATILITY_MODELS: dict[str, Callable[[Array, int], DensityForecast]] = {
    "constant_gaussian": constant_gaussian,
    "riskmetrics": riskmetrics,
    "garch_t": garch_t,
}


def volatility_forecasts(
    panel: Panel, ends: NDArray[np.int64], estimated_before: datetime, horizon: int = 1
) -> dict[str, DensityForecast]:
    """Every model's densities of the return after each of the bars ``ends``.

    Parameters
    ----------
    panel
        Prices; the models see each symbol's closes from its first row on.
    ends
        Rows to forecast from, int64 [n].
    estimated_before
        Parameters are estimated on returns available strictly before this instant.
    horizon
        1: several bars ahead these models are no closed-form densities.

    Returns
    -------
    dict
        Model name to n densities, in the order of ``ends``.

    Raises
    ------
    ValueError
        For another horizon, a bar before ``estimated_before``, or too few returns to estimate on.
    """
    if horizon != 1:
        raise ValueError(
            f"horizon={horizon}: the density of a GARCH process several bars ahead has no closed form; "
            "compare forecasts of horizon 1"
        )
    limit = microseconds(estimated_before)
    result = {
        name: DensityForecast(np.empty(len(ends)), np.empty(len(ends)), np.empty(len(ends)))
        for name in VOLATILITY_MODELS
    }
    for index in np.unique(panel.symbol[ends]):
        rows = np.flatnonzero(panel.symbol == index)
        returns = 100.0 * np.diff(np.log(panel.total_return_close[rows]))
        # Return i belongs to the symbol's row i + 1, so the density after row r is at r - 1.
        fitted = int(np.searchsorted(panel.available_at[rows], limit)) - 1
        if fitted < MINIMUM_RETURNS:
            raise ValueError(
                f"{panel.symbols[index]} has {max(fitted, 0)} returns before {estimated_before:%Y-%m-%d}, "
                f"{MINIMUM_RETURNS} are needed to estimate on: ingest earlier bars or choose a later fold"
            )
        chosen = np.flatnonzero(panel.symbol[ends] == index)
        positions = ends[chosen] - rows[0] - 1
        if (positions < fitted - 1).any():
            raise ValueError(
                f"{panel.symbols[index]}: a bar to forecast from lies before {estimated_before:%Y-%m-%d}, "
                "inside the rows the models are estimated on: forecast from later bars only"
            )
        for name, model in VOLATILITY_MODELS.items():
            density = model(returns, fitted)[positions]
            result[name].location[chosen] = density.location
            result[name].scale[chosen] = density.scale
            result[name].df[chosen] = density.df
    return result


def _filter(squared: Array, constant: float, weight: float, decay: float, start: float) -> Array:
    # variance[i] is the forecast for return i + 1: it takes in return i.
    variance = np.empty_like(squared)
    current = start
    for i, square in enumerate(squared):
        current = constant + weight * square + decay * current
        variance[i] = current
    return variance

"""The econometrician's density forecasts, which a forecaster must beat: constant, RiskMetrics, the GARCH family.

Parameters are estimated on returns before the judged period; through it the models only filter. One bar
ahead. The recursions are run here, with the parameters of the fit, so that no later return reaches an earlier
forecast through the estimator's own start values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.training.calibration import Array
from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.windows.panel import Panel

# RiskMetrics Technical Document, 4th ed., 1996, sec. 5.3.2.2: the decay for daily data.
RISKMETRICS_DECAY = 0.94
# Fewer returns than two years of days do not identify a GARCH process (Hwang and Valls Pereira, 2006,
# European Journal of Finance 12).
MINIMUM_RETURNS = 500
# E|z| of a standard normal variable, which arch takes off |z| whatever the innovations are.
_MEAN_MAGNITUDE = math.sqrt(2 / math.pi)


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
    start = float(np.mean(returns[:fitted] ** 2))
    variance = _filter(returns, 0.0, 1 - RISKMETRICS_DECAY, 0.0, RISKMETRICS_DECAY, start)
    n = len(returns)
    return DensityForecast(np.zeros(n), np.sqrt(variance), np.full(n, np.inf))


def garch_normal(returns: Array, fitted: int) -> DensityForecast:
    """Fit GARCH(1,1) with constant mean and normal innovations by ``arch``; as ``constant_gaussian``.

    Bollerslev, Journal of Econometrics 31, 1986, eq. 1 and 2.

    Raises
    ------
    RuntimeError
        Where the likelihood's maximum is not found.
    """
    return _garch("GARCH(1,1)-normal", returns, fitted, dist="normal")


def garch_t(returns: Array, fitted: int) -> DensityForecast:
    """Fit GARCH(1,1) with Student-t innovations; Bollerslev, Review of Economics and Statistics 69, 1987, eq. 1 to 3.

    Otherwise as ``garch_normal``.
    """
    return _garch("GARCH(1,1)-t", returns, fitted, dist="t")


def gjr_garch_t(returns: Array, fitted: int) -> DensityForecast:
    """Fit GARCH(1,1) with leverage and Student-t innovations; otherwise as ``garch_normal``.

    Falls weigh more than rises: Glosten, Jagannathan and Runkle, Journal of Finance 48, 1993, eq. 7.
    """
    return _garch("GJR-GARCH(1,1,1)-t", returns, fitted, o=1, dist="t")


def egarch_skewt(returns: Array, fitted: int) -> DensityForecast:
    """Fit EGARCH(1,1,1) with Hansen's skewed t; otherwise as ``garch_normal``.

    The logarithm of the variance is filtered (Nelson, Econometrica 59, 1991, eq. 2.1, with the t of Hansen,
    International Economic Review 35, 1994, eq. 10 to 13).
    """
    known = returns[:fitted]
    p = _estimate("EGARCH(1,1,1)-skew-t", known, vol="EGARCH", o=1, dist="skewt")
    residuals = returns - p["mu"]
    log_variance = np.empty(len(returns))
    current = math.log(float(np.mean(residuals[:fitted] ** 2)))
    for i, residual in enumerate(residuals):
        z = residual * math.exp(-current / 2)
        shock = p["alpha[1]"] * (abs(z) - _MEAN_MAGNITUDE) + p["gamma[1]"] * z
        current = p["omega"] + shock + p["beta[1]"] * current
        log_variance[i] = current
    mean = np.full(len(returns), p["mu"])
    return DensityForecast.of_moments(mean, np.exp(log_variance / 2), p["eta"], p["lambda"])


GARCH_FAMILY: dict[str, Callable[[Array, int], DensityForecast]] = {
    "garch_normal": garch_normal,
    "garch_t": garch_t,
    "gjr_garch_t": gjr_garch_t,
    "egarch_skewt": egarch_skewt,
}
"""The models whose best a forecaster is held against."""

VOLATILITY_MODELS: dict[str, Callable[[Array, int], DensityForecast]] = {
    "constant_gaussian": constant_gaussian,
    "riskmetrics": riskmetrics,
    **GARCH_FAMILY,
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
    result = {name: DensityForecast(*(np.empty(len(ends)) for _ in range(4))) for name in VOLATILITY_MODELS}
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
            result[name].skew[chosen] = density.skew
    return result


def _garch(name: str, returns: Array, fitted: int, **specification: Any) -> DensityForecast:
    p = _estimate(name, returns[:fitted], vol="GARCH", **specification)
    residuals = returns - p["mu"]
    start = float(np.mean(residuals[:fitted] ** 2))
    leverage = p.get("gamma[1]", 0.0)
    variance = _filter(residuals, p["omega"], p["alpha[1]"], leverage, p["beta[1]"], start)
    # arch standardises the innovations to unit variance.
    return DensityForecast.of_moments(np.full(len(returns), p["mu"]), np.sqrt(variance), p.get("nu", math.inf))


def _estimate(name: str, known: Array, **specification: Any) -> Mapping[str, float]:
    from arch import arch_model

    model = arch_model(known, mean="Constant", p=1, q=1, **specification)
    result = model.fit(disp="off", show_warning=False)
    if result.convergence_flag != 0:
        # The optimizer stops early on a flat stretch now and then; from there it mostly finds the way.
        result = model.fit(disp="off", show_warning=False, starting_values=result.params.to_numpy())
    if result.convergence_flag != 0:
        raise RuntimeError(
            f"{name} did not converge on {len(known)} returns (flag {result.convergence_flag}): check "
            "them for constant stretches or splits"
        )
    return {str(parameter): float(value) for parameter, value in result.params.items()}


def _filter(residuals: Array, constant: float, weight: float, leverage: float, decay: float, start: float) -> Array:
    # variance[i] is the forecast for return i + 1: it takes in return i.
    variance = np.empty_like(residuals)
    current = start
    for i, residual in enumerate(residuals):
        response = weight + leverage if residual < 0 else weight
        current = constant + response * residual * residual + decay * current
        variance[i] = current
    return variance

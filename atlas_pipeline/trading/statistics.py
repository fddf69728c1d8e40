"""What net returns are worth: return, Sharpe ratio with its uncertainty, drawdown, win rate, turnover."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _series(values: ArrayLike, name: str, minimum: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < minimum:
        raise ValueError(f"{name} has shape {array.shape}: pass one series of at least {minimum} bars")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} is {array[where]} at bar {where}: repair the bar it comes from")
    return array


def total_return(net_returns: ArrayLike) -> float:
    """Compound net returns (fractions per bar) over the whole series, as a fraction."""
    return float(np.prod(1.0 + _series(net_returns, "net_returns", 1)) - 1.0)


def max_drawdown(equity: ArrayLike) -> float:
    """Find the deepest fall of equity (currency, from the start on) below its peak: a fraction, positive."""
    series = _series(equity, "equity", 1)
    peak = np.maximum.accumulate(series)
    return float(np.max(1.0 - series / peak))


def win_rate(net_returns: ArrayLike, positions: ArrayLike) -> float:
    """Count the share of winning bars among those in the market.

    Parameters
    ----------
    net_returns : array_like, shape (T,)
        Fractions per bar.
    positions : array_like, shape (T,)
        Position held into each bar, in units of equity; bars with zero are not counted.

    Returns
    -------
    float
        Between 0 and 1; NaN where no bar was in the market.
    """
    returns = _series(net_returns, "net_returns", 1)
    invested = _series(positions, "positions", 1) != 0
    return float((returns[invested] > 0).mean()) if invested.any() else float("nan")


def turnover(traded: ArrayLike, bars_per_year: float) -> float:
    """Annualise traded notional: the mean of ``traded`` (fractions of equity per bar) times bars a year."""
    return float(_series(traded, "traded", 1).mean() * bars_per_year)


@dataclass(frozen=True)
class SharpeRatio:
    """An annualised Sharpe ratio, its standard error and its confidence interval."""

    ratio: float
    standard_error: float
    lower: float
    upper: float
    confidence: float


def sharpe(net_returns: ArrayLike, bars_per_year: float, confidence: float = 0.95) -> SharpeRatio:
    """Estimate the annualised Sharpe ratio over cash at zero interest, and its confidence interval.

    The ratio of one bar has, for any stationary returns, the asymptotic variance ``V / T`` with V the
    long-run variance of its influence function ``z_t - S (z_t^2 - 1) / 2``, z being the standardised return
    (Lo 2002, "The statistics of Sharpe ratios", Financial Analysts Journal 58(4), eq. 13 and appendix A).
    With independent returns V is ``1 - skew S + (kurtosis - 1) S^2 / 4`` (Mertens 2002; Opdyke 2007, eq. 6).
    Autocorrelation enters through the Bartlett kernel of Newey and West (1987), with ``floor(4 (T /
    100)^(2/9))`` lags. The ratio is annualised by the square root of time.

    Parameters
    ----------
    net_returns : array_like, shape (T,), T >= 3
        Fractions per bar.
    bars_per_year : float
    confidence : float
        Of the two-sided interval.

    Returns
    -------
    SharpeRatio
        All NaN where the returns do not vary: nobody traded, and there is no ratio.
    """
    returns = _series(net_returns, "net_returns", 3)
    count = len(returns)
    deviation = returns.std()
    if deviation <= 1e-12 * (1.0 + abs(returns.mean())):
        nan = float("nan")
        return SharpeRatio(nan, nan, nan, nan, confidence)
    z = (returns - returns.mean()) / deviation
    ratio = returns.mean() / deviation
    influence = z - ratio * (z**2 - 1.0) / 2.0
    variance = float((influence**2).mean())
    lags = int(4 * (count / 100) ** (2 / 9))
    for lag in range(1, min(lags, count - 1) + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float((influence[lag:] * influence[:-lag]).sum()) / count
    error = float(np.sqrt(variance / count))
    scale = float(np.sqrt(bars_per_year))
    reach = NormalDist().inv_cdf(0.5 + confidence / 2.0) * error
    return SharpeRatio(
        float(ratio) * scale,
        error * scale,
        float(ratio - reach) * scale,
        float(ratio + reach) * scale,
        confidence,
    )

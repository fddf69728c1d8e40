"""How far the probabilities of density forecasts are those that come true, from the outcomes' PIT alone.

What the intervals would have to be to hold their share is ``conformal``'s; sharpness, which needs the densities, is
``density``'s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.95)
BAND_CONFIDENCE = 0.99
"""Of the binomial band that an observed coverage is held against."""
_QUANTILES = np.arange(1, 100) / 100


def coverage(transform: Array, level: float) -> float:
    """Share of outcomes inside the central interval of this probability, from their PIT."""
    return float(np.mean(np.abs(transform - 0.5) <= level / 2))


def coverage_band(n: int, level: float, confidence: float = BAND_CONFIDENCE) -> tuple[float, float]:
    """Shares between which the coverage of a calibrated forecast falls with at least this probability.

    The quantiles of the binomial law of n independent hits of probability ``level`` at ``(1 - confidence) / 2`` and
    at one minus that; exact, both ends belong to it (Christoffersen, International Economic Review 39, 1998, sec. 3,
    tests the same hypothesis).

    Raises
    ------
    ValueError
        Where there is no outcome, or a probability is not between 0 and 1.
    """
    from scipy import stats

    if n < 1:
        raise ValueError(f"n={n}: a band of coverage needs at least one outcome")
    for name, value in (("level", level), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: use a probability between 0 and 1, both excluded")
    tail = (1 - confidence) / 2
    low, high = stats.binom.ppf((tail, 1 - tail), n, level) / n
    return float(low), float(high)


def within_band(transform: Array, level: float) -> bool:
    """Say whether the observed coverage lies in the 99% ``coverage_band`` of as many outcomes."""
    low, high = coverage_band(len(transform), level)
    return low <= coverage(transform, level) <= high


def calibration_error(transform: Array) -> float:
    """Root mean square, over the quantiles 0.01 to 0.99, of observed minus nominal frequency below them.

    The square root of Kuleshov, Fenner and Ermon, ICML 2018, eq. 9, with equal weights: 0 where calibrated, in
    units of probability. Of n calibrated outcomes its square is 1 / (6 n) on average, not 0.
    """
    observed = np.searchsorted(np.sort(transform), _QUANTILES, side="right") / len(transform)
    return float(np.sqrt(np.mean((observed - _QUANTILES) ** 2)))

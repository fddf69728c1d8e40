"""Conformal adjustment of central intervals: the level to ask a density for, so that its intervals hold their share.

It works on the PIT alone and so serves any density. How calibrated the densities are themselves is ``calibration``'s.
"""

from __future__ import annotations

import math
from bisect import insort

import numpy as np

from atlas_pipeline.training.calibration import Array

# Gibbs and Candès 2021, sec. 2.2: small enough to be stable, large enough to follow a shift.
ADAPTATION_RATE = 0.005


def conformal_levels(
    transform: Array,
    level: float,
    *,
    rate: float = ADAPTATION_RATE,
    horizon: int = 1,
    earlier: Array | None = None,
) -> Array:
    """Nominal level of each bar's central interval, from nothing but outcomes known before it.

    The score of an outcome is ``|2 PIT - 1|``, the least central level that holds it; the interval takes the
    conformal quantile of all scores known so far (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
    2005, sec. 2.2: for exchangeable outcomes its coverage is at least ``level``, and at most 1 / (k + 1) more of k).
    The miss rate aimed at is moved after each outcome by ``rate * (aim - missed)`` (Gibbs and Candès, Adaptive
    conformal inference under distribution shift, NeurIPS 2021, eq. 2): whatever the outcomes are, the share of misses
    of n bars differs from the aim by no more than ``(max(level, 1 - level) + rate) / (rate n)`` (prop. 4.1), one bar
    ahead.

    Parameters
    ----------
    transform
        PIT of one series' outcomes in order of time, float64 [n].
    level
        Share that the intervals are to hold.
    rate
        Speed of adaptation; 0 for plain conformal intervals.
    horizon
        Bars until an outcome is known.
    earlier
        PIT of outcomes of the same forecaster known before the first bar, out of its sample.

    Returns
    -------
    float64 [n]
        Between 0 and 1, for ``DensityForecast.interval``; 1, the whole line, while too few outcomes are known.

    Raises
    ------
    ValueError
        Where ``level`` is not between 0 and 1, ``rate`` is negative, or ``horizon`` below 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: use a probability between 0 and 1, both excluded")
    if rate < 0:
        raise ValueError(f"rate={rate}: use 0 for no adaptation, or a positive rate")
    if horizon < 1:
        raise ValueError(f"horizon={horizon}: an outcome is known a bar after its forecast at the soonest")
    outcome_levels = np.abs(2 * transform - 1)
    known = sorted(np.abs(2 * earlier - 1).tolist()) if earlier is not None else []
    result = np.empty(len(transform))
    aimed = level
    for bar in range(len(transform)):
        arrived = bar - horizon
        if arrived >= 0:
            insort(known, float(outcome_levels[arrived]))
            missed = outcome_levels[arrived] > result[arrived] or result[arrived] == 0
            aimed += rate * (float(missed) - (1 - level))
        # Rounded, since (k + 1) level falls a hair above the whole number that it is.
        rank = math.ceil(round((len(known) + 1) * aimed, 9))
        result[bar] = 1.0 if rank > len(known) else known[rank - 1] if rank > 0 else 0.0
    return result


def conformal_coverage(transform: Array, levels: Array) -> float:
    """Share of outcomes inside central intervals of these levels ([n], as ``conformal_levels`` gives them)."""
    return float(np.mean(np.abs(2 * transform - 1) <= levels))

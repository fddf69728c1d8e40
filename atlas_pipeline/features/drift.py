"""How far each year's distribution of a feature has moved from that of the reference years.

It looks at one column at a time, without labels: whether a model got worse is judged by its own scores. The thresholds
were made for independent rows. What has a level, such as prices, or persists, such as volatility, is far from its
average in most years: how far the reference's own years are is the measure for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BINS = 10
MODERATE, LARGE = 0.1, 0.25
"""Conventional thresholds of the population stability index: below the first, no shift; from the second on, a large one
(Siddiqi, Credit Risk Scorecards, 2006)."""

MINIMUM_ROWS = 100
"""Of fewer, chance alone would reach the lower threshold: the index of two samples of one distribution is on average
(bins − 1) · (1/n + 1/m) (Yurdakul, Statistical Properties of Population Stability Index, 2018)."""

Values = NDArray[np.floating]


def drift(frame: pd.DataFrame, reference_end: datetime, features: Sequence[str]) -> pd.DataFrame:
    """Compare each year's values of each feature with all values before an instant.

    The population stability index is Σ (p − q) · ln(p / q) over bins between the reference's deciles; shares p and q
    are those of counts with one half added to each, so that an empty bin is finite. A value on which
    two deciles fall has a bin of its own. The Kolmogorov-Smirnov distance is the largest difference of the two
    empirical distribution functions; it needs no bins. Missing values are left aside: ``coverage`` counts them.

    Parameters
    ----------
    frame
        Rows with ``available_at`` and the features.
    reference_end
        With a time zone; rows before it are the reference, on which the bins are fitted.
    features
        Columns to compare.

    Returns
    -------
    pandas.DataFrame
        ``feature``, ``year`` (int64, of ``available_at`` in UTC; those of the reference too), ``psi``, ``ks`` (0 to 1)
        and ``rows`` (int64, values of the year). Both are NaN where the year or the reference has fewer than
        ``MINIMUM_ROWS`` values.

    Raises
    ------
    ValueError
        Where the instant has no time zone, a column is missing, or no row lies before the instant.
    """
    if reference_end.tzinfo is None:
        raise ValueError(f"reference_end={reference_end!r} has no time zone; pass an aware datetime")
    missing = [name for name in features if name not in frame.columns]
    if missing:
        raise ValueError(f"the frame lacks the features {missing}: name columns of the table 'features'")
    times = frame["available_at"]
    reference = (times < pd.Timestamp(reference_end)).to_numpy()
    if not reference.any():
        raise ValueError(f"no row lies before reference_end={reference_end}: there is nothing to compare with")
    years = times.dt.year.to_numpy()
    order = np.argsort(years, kind="stable")
    edges = np.flatnonzero(np.diff(years[order], prepend=-1, append=-1))
    found = []
    for name in features:
        column = frame[name].to_numpy()
        known = _known(column[reference])
        ordered = column[order]
        for begin, end in pairwise(edges):
            own = _known(ordered[begin:end])
            enough = min(len(own), len(known)) >= MINIMUM_ROWS
            psi = _stability(known, own) if enough else np.nan
            ks = _distance(known, own) if enough else np.nan
            found.append((name, int(years[order[begin]]), psi, ks, len(own)))
    return pd.DataFrame(found, columns=["feature", "year", "psi", "ks", "rows"]).astype(
        {"feature": "str", "year": "int64", "psi": "float64", "ks": "float64", "rows": "int64"}
    )


def _known(values: Values) -> Values:
    """Values that are not missing, sorted."""
    return np.sort(values[~np.isnan(values)])


def _stability(reference: Values, values: Values) -> float:
    """Population stability index of two sorted samples, in bins of the first."""
    deciles = reference[(np.arange(1, BINS) * len(reference)) // BINS]
    repeated = deciles[1:][deciles[1:] == deciles[:-1]]
    bounds = np.unique(np.concatenate([deciles, np.nextafter(repeated, -np.inf, dtype=repeated.dtype)]))
    shares = []
    for sample in (reference, values):
        counts = np.diff(np.searchsorted(sample, bounds, side="right"), prepend=0, append=len(sample)) + 0.5
        shares.append(counts / counts.sum())
    expected, observed = shares
    return float(((observed - expected) * np.log(observed / expected)).sum())


def _distance(reference: Values, values: Values) -> float:
    """Two-sample Kolmogorov-Smirnov distance of two sorted samples.

    ``scipy.stats.ks_2samp`` gives the same and would sort the reference anew for every year.
    """
    # Between two of the values their function is flat and the other's grows: the largest difference lies at a value,
    # or just before one.
    return max(
        float(
            np.abs(
                np.searchsorted(values, values, side=side) / len(values)
                - np.searchsorted(reference, values, side=side) / len(reference)
            ).max()
        )
        for side in ("left", "right")
    )

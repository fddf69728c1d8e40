"""Why cells of the feature matrix are empty, counted by symbol, month, feature and reason.

Which of a row's inputs are there is found by ``compute``; pictures of the counts stand in ``plots``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.features.feature import Feature
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.market.bars import INTERVAL, MONTH, SYMBOL
from atlas_pipeline.market.table import Column, Table

AGES = ("prices", "open", "volume", "volatility_index")
"""Inputs whose ages ``coverage_of`` reads, in the order of the columns; prices are high, low and close."""

NO_USABLE_PRICE, WARM_UP, UNDEFINED = "no usable price", "warm-up", "undefined"
_MISSING = {"open": "missing open", "volume": "missing volume", "volatility_index": "missing volatility index"}
REASONS = (NO_USABLE_PRICE, *_MISSING.values(), WARM_UP, UNDEFINED)

FEATURE_COVERAGE = Table(
    name="feature_coverage",
    description="Cells of the feature matrix without a value, by reason; a month, feature and reason that is not here "
    "has none",
    columns=(
        SYMBOL,
        INTERVAL,
        MONTH,
        Column("feature", "string", "Column of the feature matrix"),
        Column(
            "reason",
            "string",
            "no usable price: high, low or close is missing, infinite or not positive; missing open, volume or "
            "volatility index: it is absent at the bar or within the feature's look-back; warm-up: the series began, "
            "or anew after a missing bar or a hole, too few rows ago; undefined: the formula has no value",
        ),
        Column("rows", "int64", "Cells without a value", "bars", minimum=1),
    ),
    key=("symbol", "interval", "month", "feature", "reason"),
    partition_by="month",
)


def coverage_of(frame: pd.DataFrame, ages: NDArray[np.int32]) -> pd.DataFrame:
    """Give every empty cell its reason and count them.

    One cell has one reason, the first of these that holds: its bar has no usable price; an input of its own was absent
    at the bar or within the feature's look-back; the series is younger than the warm-up; the formula has no value, as
    of a price that never moved.

    Parameters
    ----------
    frame
        Rows of ``FEATURES``.
    ages
        int32 [rows, 4]: of each input of ``AGES`` the consecutive rows up to and including this one that have it, since
        the series began or began anew; 0 where it is absent at the row.

    Returns
    -------
    pandas.DataFrame
        Rows of ``FEATURE_COVERAGE``, sorted by its key.

    Raises
    ------
    ValueError
        Where ``ages`` has not a row for each of the frame's and a column for each of ``AGES``.
    """
    if ages.shape != (len(frame), len(AGES)):
        raise ValueError(
            f"ages have the shape {ages.shape}, expected {(len(frame), len(AGES))}: a row a feature row, columns {AGES}"
        )
    series = frame.groupby(["symbol", "interval", "month"], sort=True)
    group = series.ngroup().to_numpy()
    # Of each group its first row names it.
    first = np.zeros(series.ngroups, dtype=np.int64)
    first[group[::-1]] = np.arange(len(frame))[::-1]
    found = []
    for name, feature in REGISTRY.items():
        empty = np.flatnonzero(np.isnan(frame[name].to_numpy()))
        if len(empty):
            cells = group[empty] * len(REASONS) + _reasons(feature, ages[empty])
            counts = np.bincount(cells, minlength=series.ngroups * len(REASONS))
            present = np.flatnonzero(counts)
            found.append((name, present, counts[present]))
    cells = np.concatenate([np.zeros(0, dtype=np.int64), *(present for _, present, _ in found)])
    named = frame[["symbol", "interval", "month"]].iloc[first[cells // len(REASONS)]].reset_index(drop=True)
    coverage = named.assign(
        feature=pd.Series(np.repeat([name for name, _, _ in found], [len(own) for _, own, _ in found]), dtype="str"),
        reason=pd.Series(np.array(REASONS, dtype=object)[cells % len(REASONS)], dtype="str"),
        rows=np.concatenate([np.zeros(0, dtype=np.int64), *(counts for _, _, counts in found)]),
    )
    return coverage.sort_values(list(FEATURE_COVERAGE.key), ignore_index=True)


def summary(coverage: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Sum the counts of each feature of the registry.

    Parameters
    ----------
    coverage
        Rows of ``FEATURE_COVERAGE``.
    rows
        Rows of the feature matrix that they are of.

    Returns
    -------
    pandas.DataFrame
        ``feature``, ``rows``, ``valid_share``, and the empty cells by reason in columns of the reasons' names.
    """
    counts = coverage.pivot_table(index="feature", columns="reason", values="rows", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=list(REGISTRY), columns=list(REASONS), fill_value=0).astype("int64")
    valid = 1.0 - counts.sum(axis=1) / rows if rows else np.nan
    result = counts.rename_axis(index="feature", columns=None)
    result.insert(0, "rows", rows)
    result.insert(1, "valid_share", valid)
    return result.reset_index()


def valid_share_by_year(coverage: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    """Share of the cells that have a value, of each feature and year.

    Parameters
    ----------
    coverage
        Rows of ``FEATURE_COVERAGE``.
    rows
        Rows of the feature matrix by month (index ``YYYY-MM``), of the same symbols.

    Returns
    -------
    pandas.DataFrame
        Features of the registry by years (``YYYY``), 0 to 1.
    """
    total = rows.groupby(rows.index.str[:4]).sum().rename_axis("year")
    empty = coverage.assign(year=coverage["month"].str[:4]).pivot_table(
        index="feature", columns="year", values="rows", aggfunc="sum", fill_value=0
    )
    return 1.0 - empty.reindex(index=list(REGISTRY), columns=total.index, fill_value=0) / total


def _reasons(feature: Feature, ages: NDArray[np.int32]) -> NDArray[np.int64]:
    """Position in ``REASONS`` of each empty cell of a feature."""
    prices = ages[:, 0]
    reason = np.where(prices <= feature.warmup, REASONS.index(WARM_UP), REASONS.index(UNDEFINED))
    for name, look_back in _look_backs(feature).items():
        own = ages[:, AGES.index(name)]
        # As old as the prices, it has not been absent since the series began.
        absent = (own == 0) | ((own < prices) & (own <= look_back))
        reason[absent] = REASONS.index(_MISSING[name])
    reason[prices == 0] = REASONS.index(NO_USABLE_PRICE)
    return reason


def _look_backs(feature: Feature) -> dict[str, int]:
    """Rows before its own that a feature reads, at most, of each input that may be absent by itself.

    Rows that the inputs made without it need to warm up are not among them: a gap in multiples of a volatility reads
    this bar's open, and the closes of many.
    """
    made_of = {name: _look_backs(REGISTRY[name]) for name in feature.inputs if name in REGISTRY}
    result = {}
    for root in _MISSING:
        if root in feature.inputs or any(root in roots for roots in made_of.values()):
            without = [REGISTRY[name].warmup for name, roots in made_of.items() if root not in roots]
            result[root] = feature.warmup - max(without, default=0)
    return result

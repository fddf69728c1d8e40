"""Joining rows that were published at other instants to bars, each bar getting what was known when it was complete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pandas as pd

_KEY = ["symbol", "available_at"]


def latest_as_of(bars: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str], limit: timedelta) -> pd.DataFrame:
    """Give each bar the last row of its symbol that was available when the bar was.

    It is the row as it stands: a value that is missing in it is not looked for in an older one.

    Parameters
    ----------
    bars
        Rows with ``symbol`` and ``available_at``, in any order.
    rows
        Rows with ``symbol``, ``available_at`` and the columns wanted, in any order.
    columns
        Columns of numbers in ``rows``.
    limit
        Age above which a row says nothing any more; one of exactly this age still does.

    Returns
    -------
    pandas.DataFrame
        The columns as float64, with the index of ``bars``; NaN where no row is available, or it is too old.

    Raises
    ------
    ValueError
        Where ``limit`` is negative, or a symbol has two rows of one instant.
    """
    if limit < timedelta(0):
        raise ValueError(f"limit={limit} is negative: give the greatest age that a row may have")
    twice = rows.duplicated(_KEY)
    if twice.any():
        first = rows[twice].iloc[0]
        raise ValueError(
            f"{int(twice.sum())} rows share symbol and available_at with another, first {first['symbol']} at "
            f"{first['available_at']}: keep one a symbol and instant"
        )
    left = bars[_KEY].reset_index(drop=True)
    left = left.assign(position=np.arange(len(left))).sort_values("available_at", kind="stable")
    right = rows[[*_KEY, *columns]].sort_values("available_at", kind="stable")
    joined = pd.merge_asof(left, right, on="available_at", by="symbol", tolerance=pd.Timedelta(limit))
    return joined.sort_values("position")[list(columns)].astype("float64").set_index(bars.index)

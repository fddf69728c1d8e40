"""What a source restated: two readings of the same range, value by value.

Both readings stay readable: the tables hold the new one, the snapshot that a model names the old one.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, PRICES, empty
from atlas_pipeline.market.quarantine import month_of
from atlas_pipeline.market.table import PANDAS_DTYPE

_COMPARED = (*PRICES, "volume")

# Relative differences that are the vendor's arithmetic and no news. Prices are published in single precision (2**-24)
# divided by the splits since, so that a split announced later moves the last bits of every earlier bar; dividends then
# lose the last of six decimals. What a reverse split rounds away of volumes is more, and does count as restated.
_NOISE = {**dict.fromkeys(_COMPARED, 2.0**-22), "value": 1e-5}


def settle(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Take the stored value for every number of a new reading that differs from it by the vendor's arithmetic only.

    Parameters
    ----------
    old, new
        As stored and as read now, both in the columns of ``BARS`` or of ``CORPORATE_ACTIONS``.

    Returns
    -------
    pandas.DataFrame
        The rows of ``new``, in their order.
    """
    if old.empty or new.empty:
        return new
    table = BARS if "interval" in new else CORPORATE_ACTIONS
    key, compared = list(table.key), [name for name in _NOISE if name in new]
    stored = new[key].merge(old[[*key, *compared]], on=key, how="left")
    settled = {}
    for name in compared:
        before, now = stored[name].to_numpy(), new[name].to_numpy()
        settled[name] = np.where(np.abs(now - before) <= _NOISE[name] * np.abs(before), before, now)
    return new.assign(**settled)


def compare_bars(old: pd.DataFrame, new: pd.DataFrame, seen_at: datetime) -> pd.DataFrame:
    """Find what a source changed between two readings of the same range.

    A bar later than every old bar of its symbol and interval is an addition, not a revision. A bar that turns
    up among older ones has null ``old`` values; one that the source withdrew has null ``new`` values.

    Parameters
    ----------
    old, new
        Bars as stored and as read now, in the columns of ``BARS``; cut both to the same range of
        ``available_at``, or bars outside it count as withdrawn.
    seen_at
        Instant of the ingestion, with a time zone.

    Returns
    -------
    pandas.DataFrame
        Rows of ``BAR_REVISIONS``, one a changed value, sorted by its key; empty where nothing changed.
    """
    if old.empty:
        return empty(BAR_REVISIONS)
    key = list(BARS.key)
    both = _beside(old[[*key, *_COMPARED]], new[[*key, *_COMPARED]], key)
    newest = old.groupby(["symbol", "interval"])["available_at"].max().rename("newest").reset_index()
    both = both.merge(newest, on=["symbol", "interval"], how="left")
    both = both[both["available_at"] <= both["newest"]]
    changes = [
        both.loc[_differ(both[f"{column}_old"], both[f"{column}_new"]), [*key, f"{column}_old", f"{column}_new"]]
        .set_axis([*key, "old", "new"], axis=1)
        .assign(column=column)
        for column in _COMPARED
    ]
    return _revisions(pd.concat(changes, ignore_index=True), seen_at)


def compare_actions(old: pd.DataFrame, new: pd.DataFrame, known: pd.DataFrame, seen_at: datetime) -> pd.DataFrame:
    """Find the splits and dividends that a source restated, withdrew, or announced after their day.

    Parameters
    ----------
    old, new
        Rows of ``CORPORATE_ACTIONS`` as stored and as read now, cut to the same range.
    known
        Bars as stored: an action no later than its symbol's last stored bar is late, another one is news.
    seen_at
        Instant of the ingestion, with a time zone.

    Returns
    -------
    pandas.DataFrame
        Rows of ``BAR_REVISIONS`` whose ``column`` is ``split`` or ``dividend`` and whose ``interval`` is empty.
    """
    if known.empty or (old.empty and new.empty):
        return empty(BAR_REVISIONS)
    key = ["symbol", "available_at", "kind"]
    both = _beside(old[[*key, "value"]], new[[*key, "value"]], key)
    newest = known.groupby("symbol")["available_at"].max().rename("newest").reset_index()
    both = both.merge(newest, on="symbol", how="left")
    restated = (both["available_at"] <= both["newest"]) & _differ(both["value_old"], both["value_new"])
    changes = both[restated].rename(columns={"kind": "column", "value_old": "old", "value_new": "new"})
    return _revisions(changes.assign(interval="").drop(columns="newest"), seen_at)


def _beside(old: pd.DataFrame, new: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return old.merge(new, on=key, how="outer", suffixes=("_old", "_new"))


def _differ(old: pd.Series, new: pd.Series) -> pd.Series:
    # Nulls are equal; numbers to the last bit, since ``settle`` has gone before.
    return ~((old == new) | (old.isna() & new.isna()))


def _revisions(changes: pd.DataFrame, seen_at: datetime) -> pd.DataFrame:
    if seen_at.tzinfo is None:
        raise ValueError(f"seen_at={seen_at!r} has no time zone; pass an aware datetime")
    rows = changes.assign(seen_at=pd.Timestamp(seen_at).tz_convert("UTC"))
    rows = rows.astype(
        {column.name: PANDAS_DTYPE[column.dtype] for column in BAR_REVISIONS.columns if column.name in rows}
    )
    rows["month"] = month_of(rows["available_at"])
    return rows.sort_values(list(BAR_REVISIONS.key), ignore_index=True)[list(BAR_REVISIONS.names)]

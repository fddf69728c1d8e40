"""What of a source's answer replaces what is stored, and what is kept: frames in, frames out.

Which values differ is found in ``revisions``; which bars are let in at all, in ``validation``.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.errors import BrokenSchemaError

WITHDRAWN_LIMIT = 5
"""Bars of a symbol that a vendor may withdraw at once; more are an outage, or a retention that has run out."""
RESTATED_LEAST = 4
RESTATED_RETURN = 0.01
"""Most of a symbol's closes moving by more is a split that was announced but not applied, or adjusted prices."""


def consistent(actions: pd.DataFrame) -> pd.DataFrame:
    """Return corporate actions, each once.

    Raises
    ------
    BrokenSchemaError
        Where two of a symbol, session and kind have different values, naming them.
    """
    distinct = actions.drop_duplicates(ignore_index=True)
    twice = distinct[distinct.duplicated(list(CORPORATE_ACTIONS.key), keep=False)]
    if len(twice):
        first = twice.iloc[0]
        values = twice.loc[(twice["symbol"] == first["symbol"]) & (twice["session"] == first["session"]), "value"]
        raise BrokenSchemaError(
            f"corporate actions contradict one another: {first['symbol']} has the {first['kind']}s {values.tolist()} "
            f"on {first['session']:%Y-%m-%d}; correct the source, nothing was written"
        )
    return distinct


def answered(rows: pd.DataFrame, raw: pd.DataFrame) -> np.ndarray:
    """Which stored rows, bool [rows], lie in the time that a source's raw bars of their symbol span."""
    first, last = _span(rows, raw)
    # A session's actions are known at its opening, before its first bar.
    return ((rows["available_at"] > first - timedelta(days=1)) & (rows["available_at"] <= last)).to_numpy()


def _span(rows: pd.DataFrame, answer: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """First and last instant that an answer has of each row's symbol; missing where it has none."""
    instants = answer.groupby("symbol")["available_at"]
    first, last = (end.reindex(rows["symbol"]).set_axis(rows.index) for end in (instants.min(), instants.max()))
    return first, last


def with_silent(rows: pd.DataFrame, silent: pd.DataFrame) -> pd.DataFrame:
    """Rows as read now, and the stored ones that the source said nothing of."""
    key = [name for name in rows if name in ("symbol", "interval", "available_at", "session", "kind", "ordinal")]
    return pd.concat([rows, silent], ignore_index=True).drop_duplicates(key, keep="first", ignore_index=True)


def without(rows: pd.DataFrame, others: pd.DataFrame, key: tuple[str, ...] = BARS.key) -> pd.DataFrame:
    """Rows whose key is not among the others'."""
    if rows.empty or others.empty:
        return rows
    return rows[~pd.MultiIndex.from_frame(rows[list(key)]).isin(pd.MultiIndex.from_frame(others[list(key)]))]


def kept_bars(
    stored: pd.DataFrame,
    listed: pd.DataFrame,
    accepted: pd.DataFrame,
    refused: pd.DataFrame,
    accept_restatements: bool = False,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Stored bars that no new reading replaces, and the symbols whose answer is not to be trusted, with the reason.

    A bar is withdrawn, and not kept, only where the answer has accepted bars before and after it and does not have it,
    in no version.

    Parameters
    ----------
    stored
        Rows of ``BARS`` of one interval, as they are stored in the time asked for.
    listed
        Those of them that are their symbol's by the listings as they are now; bars of another security are not kept.
    accepted, refused
        What validation made of the answer: rows of ``BARS`` and ``QUARANTINED_BARS``.
    accept_restatements
        Trust every answer.

    Returns
    -------
    tuple
        Rows of ``BARS`` to keep, and the reason by distrusted symbol: all that is stored of it is among them.
    """
    if stored.empty:
        return stored, {}
    left = without(stored, accepted)
    first, last = _span(left, accepted)
    inside = (left["available_at"] > first) & (left["available_at"] < last)
    session = ("symbol", "interval", "session")
    withdrawn = without(left[inside], refused, session)
    distrusted: dict[str, str] = {}
    if not accept_restatements:
        for symbol, count in withdrawn.groupby("symbol").size().items():
            if count > WITHDRAWN_LIMIT:
                distrusted[str(symbol)] = f"withdraws {count} stored bars"
        both = stored.merge(accepted, on=list(BARS.key), suffixes=("_old", "_new"))
        both["off"] = (both["close_new"] / both["close_old"] - 1).abs() > RESTATED_RETURN
        for symbol, own in both.groupby("symbol"):
            if own["off"].sum() >= RESTATED_LEAST and own["off"].mean() > 0.5:
                factor = (own["close_new"] / own["close_old"]).median()
                distrusted[str(symbol)] = f"restates {own['off'].sum()} of {len(own)} stored closes, by {factor:.4g}"
    for symbol in distrusted:
        distrusted[symbol] += ": what is stored is kept; where the vendor is right, ingest with accept_restatements"
    trusted = left[~left["symbol"].isin(distrusted)]
    kept = without(trusted, withdrawn)
    kept = pd.concat([kept, stored[stored["symbol"].isin(distrusted)]], ignore_index=True)
    key = list(BARS.key)
    return kept[pd.MultiIndex.from_frame(kept[key]).isin(pd.MultiIndex.from_frame(listed[key]))], distrusted

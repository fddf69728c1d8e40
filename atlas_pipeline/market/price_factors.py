"""Splits and dividends deduced from a vendor's adjustment factors, which stand beside prices as traded.

Nothing is adjusted here: what a series looks like as of an instant is said where the actions are used.
"""

from __future__ import annotations

import logging
from fractions import Fraction

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import session_closes, sessions
from atlas_pipeline.market.quarantine import conform

logger = logging.getLogger(__name__)

PRICE_FACTOR, SPLIT_FACTOR = "price_factor", "split_factor"

_UNIT = 5e-8
"""Half a unit of the seventh decimal: to so much Lean's files state a price factor."""

_RATIO_TOLERANCE = 1e-5
"""Lean chains factors that it has rounded: the ratios of AIG's early splits are off by up to 5.6e-6."""

_LARGEST_DENOMINATOR = 100


def actions_from_factors(bars: pd.DataFrame, calendar: str) -> pd.DataFrame:
    """Find the splits and dividends that made a vendor's factors change.

    With Lean's factors the adjusted close is ``close * price_factor * split_factor``, and an action of ex-date d
    changes them from session d-1 to session d: ``split_factor(d-1) = split_factor(d) / ratio`` and
    ``price_factor(d-1) = price_factor(d) * (1 - cash / close(d-1))`` (QuantConnect Lean, ``CorporateFactorRow.Apply``;
    its files state factors to seven and eight decimals). Hence ``ratio = split_factor(d) / split_factor(d-1)`` and
    ``cash = close(d-1) * (1 - price_factor(d-1) / price_factor(d))``, a share of d-1; where both happen on one day,
    that is divided by the ratio, since prices of d count new shares.

    Rounding is undone: a ratio is the fraction of the smallest denominator (up to 100, of ratio or inverse) within
    1e-5 and the factors' own rounding, and stays as it is where there is none; cash is the shortest decimal number
    within the rounding of the factors. Changes within that rounding are no actions.

    A change across sessions without a bar has no known day, and no close to take the cash from: no action is made of
    it, and a warning names it.

    Parameters
    ----------
    bars
        ``symbol``, ``session``, ``available_at``, ``close``, and one or both of ``price_factor`` and
        ``split_factor``; any order, any interval.
    calendar
        The exchange whose sessions tell a hole from a weekend.

    Returns
    -------
    pandas.DataFrame
        Rows of ``CORPORATE_ACTIONS``.
    """
    last = _last_of_each_session(bars)
    before, after = last.iloc[:-1].reset_index(drop=True), last.iloc[1:].reset_index(drop=True)
    ratio = after[SPLIT_FACTOR] / before[SPLIT_FACTOR]
    ratio_error = _RATIO_TOLERANCE + _UNIT * (1 / before[SPLIT_FACTOR] + 1 / after[SPLIT_FACTOR])
    cash = before["close"] * (1 - before[PRICE_FACTOR] / after[PRICE_FACTOR])
    cash_error = before["close"] * _UNIT * (1 + before[PRICE_FACTOR] / after[PRICE_FACTOR]) / after[PRICE_FACTOR]
    same = before["symbol"] == after["symbol"]
    split = same & ((ratio - 1).abs() > ratio_error)
    dividend = same & (cash.abs() > cash_error)
    changed = np.flatnonzero(split | dividend)
    if not len(changed):
        return known_at_the_opening(_frame([]), calendar)
    days = sessions(last["session"].min(), last["session"].max(), calendar)["session"].to_numpy()
    found: list[tuple[str, pd.Timestamp, str, float]] = []
    for row in changed:
        symbol = str(after["symbol"].iloc[row])
        previous, ex_date = pd.Timestamp(before["session"].iloc[row]), pd.Timestamp(after["session"].iloc[row])
        missing = int(((days > previous.to_datetime64()) & (days < ex_date.to_datetime64())).sum())
        if missing:
            logger.warning(
                "%s: the factors change between %s and %s, with %d sessions without a bar between: the day and the "
                "cash of what happened cannot be told, so no action is made of it. Name it in corporate_actions",
                symbol, previous.date(), ex_date.date(), missing,
            )  # fmt: skip
            continue
        shares = _fraction(ratio[row], ratio_error[row]) if split[row] else 1.0
        if split[row]:
            found.append((symbol, ex_date, "split", shares))
        if dividend[row] and cash[row] < 0:
            logger.warning(
                "%s: price_factor falls on %s, as if a dividend were paid back: no action is made of it. "
                "Repair the factors, or name what happened in corporate_actions",
                symbol, ex_date.date(),
            )  # fmt: skip
        elif dividend[row]:
            found.append((symbol, ex_date, "dividend", _shortest(cash[row], cash_error[row]) / shares))
    return known_at_the_opening(_frame(found), calendar)


def known_at_the_opening(actions: pd.DataFrame, calendar: str) -> pd.DataFrame:
    """Label actions by the opening of their ex-date's session, from which prices trade without.

    Parameters
    ----------
    actions
        ``symbol``, ``session`` (the ex-date), ``kind`` and ``value``.
    calendar
        The exchange. A day on which it does not trade gets ``session_closes``'s label.

    Returns
    -------
    pandas.DataFrame
        Rows of ``CORPORATE_ACTIONS``.
    """
    days = actions["session"]
    closes = session_closes(days, calendar)
    if len(days):
        opens = sessions(days.min(), days.max(), calendar).set_index("session")["opens_at"]
        closes = days.map(opens).astype("datetime64[us, UTC]").fillna(closes)
    return conform(actions.assign(available_at=closes), CORPORATE_ACTIONS)


def _last_of_each_session(bars: pd.DataFrame) -> pd.DataFrame:
    """One row a symbol and session, in order, with both factors; rows without them, or without a close, left out."""
    given = [name for name in (PRICE_FACTOR, SPLIT_FACTOR) if name in bars]
    values = bars[[*given, "close"]].to_numpy()
    rows = bars.loc[
        (np.isfinite(values) & (values > 0)).all(axis=1), ["symbol", "session", "available_at", "close", *given]
    ]
    rows = rows.sort_values(["symbol", "available_at"], kind="stable")
    rows = rows[~rows.duplicated(["symbol", "session"], keep="last")]
    return rows.assign(**{name: 1.0 for name in (PRICE_FACTOR, SPLIT_FACTOR) if name not in given})


def _frame(found: list[tuple[str, pd.Timestamp, str, float]]) -> pd.DataFrame:
    types = {"symbol": "str", "session": "datetime64[us]", "kind": "str", "value": "float64"}
    return pd.DataFrame(found, columns=list(types)).astype(types)


def _fraction(ratio: float, error: float) -> float:
    """Snap to the fraction of smallest denominator within the relative error; ``ratio`` itself where there is none."""
    larger = max(ratio, 1 / ratio)
    for denominator in range(1, _LARGEST_DENOMINATOR + 1):
        numerator = round(larger * denominator)
        if abs(numerator / denominator / larger - 1) <= error:
            exact = Fraction(numerator, denominator)
            return float(exact if ratio > 1 else 1 / exact)
    return float(ratio)


def _shortest(value: float, error: float) -> float:
    decimals = next((places for places in range(12) if abs(round(value, places) - value) <= error), 12)
    return float(round(value, decimals))

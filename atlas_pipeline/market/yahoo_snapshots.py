"""What Yahoo offers of this instant only: quotes and option chains, as rows labelled by the instant of receipt.

Yahoo keeps no history of either. How it is asked stands in ``yahoo_client``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.option_chain import CALL, OPTION_CHAIN, PUT
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.quotes import QUOTES

SYMBOLS_A_REQUEST = 200

_QUOTE = {"bid": "bid", "bid_size": "bidSize", "ask": "ask", "ask_size": "askSize"}
_CONTRACT = {
    "strike": "strike",
    "bid": "bid",
    "ask": "ask",
    "last": "lastPrice",
    "volume": "volume",
    "open_interest": "openInterest",
    "implied_volatility": "impliedVolatility",
}
# Ticker of the contract's root, its expiry as yymmdd, C or P, strike: the symbol is the contract's own word.
_EXPIRY = r"(\d{6})[CP]\d{8}$"


def quote_rows(answers: Iterable[Mapping[str, Any]], received_at: datetime) -> pd.DataFrame:
    """Quotes as rows of ``QUOTES``; what Yahoo does not quote (an index has no bid) is null.

    Parameters
    ----------
    answers
        Yahoo's own fields, one mapping a symbol.
    received_at
        The instant at which they came.
    """
    rows = list(answers)
    values = {name: [row.get(field) for row in rows] for name, field in _QUOTE.items()}
    frame = pd.DataFrame(values, dtype="float64")
    frame["symbol"] = pd.Series([str(row["symbol"]) for row in rows], dtype="str")
    return conform(frame.assign(available_at=_instant(received_at)), QUOTES)


def chain_rows(underlying: str, expiries: Iterable[Any], received_at: datetime, calendar: str) -> pd.DataFrame:
    """Option contracts as rows of ``OPTION_CHAIN``, of the session in progress or, out of hours, the last one.

    Parameters
    ----------
    underlying
        Its symbol.
    expiries
        One answer of ``yfinance.Ticker.option_chain`` an expiry.
    received_at
        The instant at which the last of them came.
    calendar
        The exchange whose session the chain belongs to.
    """
    parts = []
    for answer in expiries:
        for right, contracts in ((CALL, answer.calls), (PUT, answer.puts)):
            part = pd.DataFrame({name: contracts[field].astype("float64") for name, field in _CONTRACT.items()})
            expiry = contracts["contractSymbol"].astype("str").str.extract(_EXPIRY, expand=False)
            part["expiry"] = pd.to_datetime(expiry, format="%y%m%d").astype("datetime64[us]")
            part["right"] = pd.Series(right, index=part.index, dtype="str")
            part["underlying_close"] = float(answer.underlying["regularMarketPrice"])
            parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    recent = sessions(received_at - timedelta(days=14), received_at, calendar)
    frame["session"] = recent.loc[recent["opens_at"] <= received_at, "session"].iloc[-1]
    # Yahoo has no sizes.
    frame["bid_size"] = frame["ask_size"] = float("nan")
    frame["underlying"] = pd.Series(underlying, index=frame.index, dtype="str")
    return conform(frame.assign(available_at=_instant(received_at)), OPTION_CHAIN)


def _instant(received_at: datetime) -> pd.Timestamp:
    return pd.Timestamp(received_at).tz_convert("UTC").as_unit("us")

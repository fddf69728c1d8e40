"""The real daily bars that the ``arch`` package ships: S&P 500 and Nasdaq Composite, 1999 to 2018.

They are price indices: not tradable, without dividends or splits, and the opens of the S&P 500 are stale in
many years (see ``coverage``). The package's files are read where they lie: importing ``arch``
itself costs seconds and is needed for nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import session_closes
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError
from atlas_pipeline.market.quarantine import conform, month_of
from atlas_pipeline.market.sources import RecordedSource, require_known, within

SYMBOLS = {"SP500": "sp500", "NASDAQ": "nasdaq"}
# Known beforehand, so that partitions can be laid out without reading a file; a test compares them with the
# data.
FIRST_BAR = datetime(1999, 1, 4, 21, tzinfo=UTC)
LAST_BAR = datetime(2018, 12, 31, 21, tzinfo=UTC)

# The index is calculated until a quarter past the close of the stocks (Cboe, VIX Index Rules and
# Methodology).
_VIX_DELAY = timedelta(minutes=15)
_REMEDY = "use the files or the yahoo source for them"


class BundledSource(RecordedSource):
    """S&P 500 (``SP500``) and Nasdaq Composite (``NASDAQ``), 5,031 daily bars each; VIX closes beside."""

    name = "bundled"
    live = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """``SP500`` and ``NASDAQ``; VIX has closes only, hence no bars."""
        return tuple(SYMBOLS)

    def range(self) -> tuple[datetime, datetime]:
        """Instants of the first and the last bar, without reading a file."""
        return FIRST_BAR, LAST_BAR

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Daily bars with ``start <= available_at < end``, in the columns of ``BARS``.

        Raises
        ------
        UnknownSymbolError
            Where a symbol is neither ``SP500`` nor ``NASDAQ``.
        SourceUnavailableError
            Where the ``arch`` package or its file is missing or unreadable.
        """
        require_known(self.name, symbols, self.symbols)
        found = [within(_bars(symbol), start, end) for symbol in symbols]
        return pd.concat([empty(BARS), *found], ignore_index=True)

    def index_closes(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Read closes of the VIX, from 2014 on.

        The package has no open, high or low of it, so that no bar can be made without inventing three of its
        prices.

        Returns
        -------
        pandas.DataFrame
            ``symbol`` (``VIX``), ``available_at`` (a quarter of an hour after the stocks' close),
            ``session``, ``close`` (percent per year), ``month``.
        """
        return within(_vix(), start, end)

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Without rows: an index pays nothing and is not split."""
        require_known(self.name, symbols, self.symbols)
        return empty(CORPORATE_ACTIONS)

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> NoReturn:
        """Raise ``NotOfferedError``: an index has no quotes."""
        raise NotOfferedError(self.name, "quotes", _REMEDY)

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> NoReturn:
        """Raise ``NotOfferedError``: the package ships none."""
        raise NotOfferedError(self.name, "option chains", _REMEDY)


def _read(dataset: str) -> pd.DataFrame:
    package = find_spec("arch")
    if package is None or not package.submodule_search_locations:
        raise SourceUnavailableError("the bundled bars ship inside the package 'arch', which is missing: install it")
    path = Path(package.submodule_search_locations[0]) / "data" / dataset / f"{dataset}.csv.gz"
    try:
        frame = pd.read_csv(path, na_values=["."])
        frame["Date"] = pd.to_datetime(frame["Date"], format="%m/%d/%Y").astype("datetime64[us]")
    except (OSError, ValueError, KeyError) as error:
        raise SourceUnavailableError(f"bundled data {path} cannot be read ({error}): reinstall 'arch'") from error
    return frame


@cache
def _bars(symbol: str) -> pd.DataFrame:
    frame = _read(SYMBOLS[symbol])
    renamed = frame.rename(columns={"Date": "session"}).rename(columns=str.lower)
    return conform(renamed.assign(symbol=symbol, interval="1d", available_at=session_closes(renamed["session"])), BARS)


@cache
def _vix() -> pd.DataFrame:
    # Days without a close are the publisher's place holders for holidays, not observations.
    frame = _read("vix").dropna(subset=["vix"]).reset_index(drop=True)
    closes = pd.DataFrame(
        {
            "symbol": pd.Series("VIX", index=frame.index, dtype="str"),
            "available_at": session_closes(frame["Date"]) + _VIX_DELAY,
            "session": frame["Date"],
            "close": frame["vix"].astype("float64"),
        }
    )
    return closes.assign(month=month_of(closes["available_at"]))

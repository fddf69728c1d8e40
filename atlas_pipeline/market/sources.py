"""What every source of market data offers; the sources stand in ``bundled``, ``files`` and ``yahoo``.

Sources fetch and label; they do not judge. What they return goes through ``validation`` before it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from pandas import DataFrame

from atlas_pipeline.market.errors import UnknownSymbolError


class MarketSource(Protocol):
    """A place that bars come from.

    Ranges are half-open: ``start <= available_at < end``, both with a time zone. To include a bar that
    becomes available at this very instant, pass an ``end`` one microsecond later.

    Attributes
    ----------
    name
        Short name, for messages and metadata.
    live
        Whether new bars appear as real time passes; a source that is not live is replayed.
    """

    name: str
    live: bool

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols it offers bars of, or is configured to fetch."""
        ...

    def range(self) -> tuple[datetime, datetime]:
        """Say when its first and its last bar are available (UTC); of a live source, the last is now."""
        ...

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> DataFrame:
        """Bars as traded, unjudged, in the columns of ``BARS``."""
        ...

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> DataFrame:
        """Fetch splits and dividends with an ex-date in the range, as rows of ``CORPORATE_ACTIONS``."""
        ...

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> DataFrame:
        """Quotes, unjudged, in the columns of ``QUOTES``."""
        ...

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> DataFrame:
        """Option chains of these underlyings, unjudged, in the columns of ``OPTION_CHAIN``."""
        ...


def require_known(source: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``UnknownSymbolError`` with all symbols that are not known."""
    unknown = [symbol for symbol in wanted if symbol not in known]
    if unknown:
        raise UnknownSymbolError(source, unknown, known)


def within(frame: DataFrame, start: datetime, end: datetime) -> DataFrame:
    """Keep the rows with ``start <= available_at < end``.

    Raises
    ------
    ValueError
        Where an instant has no time zone, or ``end`` lies before ``start``.
    """
    for name, instant in (("start", start), ("end", end)):
        if instant.tzinfo is None:
            raise ValueError(f"{name}={instant!r} has no time zone; pass an aware datetime, UTC for instance")
    if end < start:
        raise ValueError(f"end={end} lies before start={start}; swap them")
    return frame[(frame["available_at"] >= start) & (frame["available_at"] < end)].reset_index(drop=True)

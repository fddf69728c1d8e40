"""What every source of market data offers; the sources stand in ``bundled``, ``files``, ``simulated``, ``yahoo``.

Sources fetch and label; they do not judge. What they return goes through ``validation`` before it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pandas import DataFrame

from atlas_pipeline.market.bars import BARS, empty
from atlas_pipeline.market.calendars import microsecond, microseconds
from atlas_pipeline.market.errors import UnknownSymbolError


class Outcome(StrEnum):
    """What came of asking for one symbol."""

    OK = "ok"
    EMPTY = "empty"
    UNKNOWN = "unknown"
    RATE_LIMITED = "rate_limited"
    FAILED = "failed"


@dataclass(frozen=True)
class Fetched:
    """A source's answer about one symbol.

    Attributes
    ----------
    symbol
        The symbol asked for.
    outcome
        Whether it was answered; ``bars`` and ``actions`` have no rows unless it is ``OK``.
    bars
        Bars as traded, unjudged, in the columns of ``BARS``.
    actions
        Splits and dividends, in the columns of ``CORPORATE_ACTIONS``.
    detail
        What the source said, where it did not answer.
    """

    symbol: str
    outcome: Outcome
    bars: DataFrame
    actions: DataFrame
    detail: str = ""


class BarSource(Protocol):
    """A place that is asked for bars symbol by symbol."""

    def fetch(self, symbols: Sequence[str], start: datetime, end: datetime) -> Iterator[Fetched]:
        """Bars and corporate actions of each symbol, in the order in which the answers come in.

        A symbol that cannot be read has an outcome that says so, and loses no other.
        """
        ...


class MarketSource(BarSource, Protocol):
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


class RecordedSource:
    """A source whose bars lie there already: what ``fetch`` gives is cut from ``bars`` and ``corporate_actions``."""

    def fetch(self: MarketSource, symbols: Sequence[str], start: datetime, end: datetime) -> Iterator[Fetched]:
        """Bars and corporate actions of each symbol, read at once."""
        bars = dict(iter(self.bars(symbols, start, end).groupby("symbol", sort=False)))
        actions = self.corporate_actions(symbols, start, end)
        for symbol in symbols:
            own = actions[actions["symbol"] == symbol].reset_index(drop=True)
            if symbol in bars:
                yield Fetched(symbol, Outcome.OK, bars[symbol].reset_index(drop=True), own)
            else:
                yield Fetched(symbol, Outcome.EMPTY, empty(BARS), own)


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
    at = microseconds(frame["available_at"])
    inside = (at >= microsecond(start)) & (at < microsecond(end))
    return (frame if inside.all() else frame[inside]).reset_index(drop=True)

"""Which instruments are meant, and when each was listed: point-in-time membership and who a ticker's rows belong to.

A ticker is a source's name and may be given to another security later; a symbol is ours and never is. Exchanges' days
stand in ``calendars``; what a source knows of a ticker, in the source.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from atlas_pipeline.market.calendars import XNYS, sessions
from atlas_pipeline.market.sources import BarSource, Fetched, Outcome, within

KINDS = ("stock", "etf", "fund", "index", "future", "currency", "crypto")

DELISTED_A_YEAR = 0.005
"""Share of instruments; of the stocks listed in the US several times as many are delisted in a year."""

_EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True)
class Instrument:
    """One security, index or pair.

    Attributes
    ----------
    symbol
        Our name of it, used by nothing else.
    ticker
        The source's name of it; the symbol where it is left out.
    listed, delisted
        First and last trading day, both included; open where they are left out.
    kind
        One of ``KINDS``.
    calendar
        Its exchange, ISO 10383; the market's where it is left out.
    """

    symbol: str
    ticker: str = ""
    listed: date | None = None
    delisted: date | None = None
    kind: str = "stock"
    calendar: str | None = None

    def __post_init__(self) -> None:
        for name in ("symbol", "ticker"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name == "symbol" and not value.strip()):
                raise ValueError(
                    f"{name}={value!r} of the universe is no name: write text, in quotes where YAML reads it as a "
                    "truth value or a number (ON, NO, 7203)"
                )
        object.__setattr__(self, "ticker", self.ticker or self.symbol)
        if self.kind not in KINDS:
            raise ValueError(f"{self.symbol}: kind={self.kind!r} is none; use one of {', '.join(KINDS)}")
        if self.listed and self.delisted and self.delisted < self.listed:
            raise ValueError(f"{self.symbol}: delisted={self.delisted} lies before listed={self.listed}; correct one")


@dataclass(frozen=True)
class Listing:
    """An instrument and the part of a range in which it was listed, ``start <= available_at < end`` (UTC)."""

    instrument: Instrument
    start: datetime
    end: datetime

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the rows of its time."""
        return within(frame, self.start, self.end)


@dataclass(frozen=True)
class Universe:
    """Instruments, each symbol once; entries of one ticker follow one another in time.

    Raises
    ------
    ValueError
        Where a symbol stands twice, or the listings of a ticker's entries overlap or lack the dates that part them.
    """

    instruments: tuple[Instrument, ...]
    _by_ticker: dict[str, tuple[Instrument, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ValueError("the universe is empty: name at least one symbol")
        grouped: dict[str, list[Instrument]] = defaultdict(list)
        seen: set[str] = set()
        for instrument in self.instruments:
            if instrument.symbol in seen:
                raise ValueError(
                    f"symbol {instrument.symbol!r} stands twice in the universe: remove one, or where another security "
                    f"had the ticker, give it a symbol of its own, such as {instrument.symbol}.1998"
                )
            seen.add(instrument.symbol)
            grouped[instrument.ticker].append(instrument)
        by_ticker = {ticker: _in_time(ticker, own) for ticker, own in grouped.items()}
        object.__setattr__(self, "_by_ticker", by_ticker)

    @classmethod
    def parse(cls, entries: Iterable[str | Mapping[str, Any]]) -> Universe:
        """Read entries as YAML gives them: a symbol, or a mapping of an ``Instrument``'s fields.

        Days are dates or text of the form ``YYYY-MM-DD``.

        Raises
        ------
        ValueError
            Where an entry is neither, names an unknown field or a day that is none, or the universe is not sound.
        """
        return cls(tuple(_instrument(entry) for entry in entries))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Our names, in the order given."""
        return tuple(instrument.symbol for instrument in self.instruments)

    @property
    def tickers(self) -> tuple[str, ...]:
        """The source's names, each once, in the order given."""
        return tuple(self._by_ticker)

    def listings(self, start: datetime, end: datetime, calendar: str = XNYS) -> list[Listing]:
        """Find the instruments listed in [start, end), each with the range cut to its listing.

        A listing begins half-way between the close of the session before ``listed`` and the opening of the next one,
        and ends half-way after ``delisted``: so quotes before the opening and after the close go with their day, the
        bar of the last day is in, and that of the day before the first is out.

        Parameters
        ----------
        start, end
            Instants with a time zone.
        calendar
            The exchange of instruments that name none.

        Raises
        ------
        ValueError
            Where an instant has no time zone.
        """
        for name, instant in (("start", start), ("end", end)):
            if instant.tzinfo is None:
                raise ValueError(f"{name}={instant!r} has no time zone; pass an aware datetime, UTC for instance")
        found = []
        for instrument in self.instruments:
            first, last = _bounds(instrument, calendar)
            if max(start, first) < min(end, last):
                found.append(Listing(instrument, max(start, first), min(end, last)))
        return found

    def members(self, at: datetime, calendar: str = XNYS) -> tuple[str, ...]:
        """Symbols of the instruments that were listed at an instant."""
        return tuple(
            listing.instrument.symbol for listing in self.listings(at, at + timedelta(microseconds=1), calendar)
        )

    def attribute(self, frame: pd.DataFrame, calendar: str = XNYS, column: str = "symbol") -> pd.DataFrame:
        """Name each row by the instrument that had its ticker then; rows of no listing are left out.

        Parameters
        ----------
        frame
            Rows of a source with ``available_at``, such as quotes.
        calendar
            The exchange of instruments that name none.
        column
            The column of tickers: ``symbol``, or ``underlying`` in chains.
        """
        names = np.full(len(frame), None, dtype=object)
        at = frame["available_at"]
        for ticker, positions in frame.groupby(column, sort=False).indices.items():
            for instrument in self._by_ticker.get(str(ticker), ()):
                first, last = _bounds(instrument, calendar)
                own = at.iloc[positions]
                names[positions[((own >= first) & (own < last)).to_numpy()]] = instrument.symbol
        kept = pd.notna(names)
        return frame[kept].assign(**{column: names[kept].astype(str)}).astype({column: "str"}).reset_index(drop=True)

    def while_listed(self, frame: pd.DataFrame, calendar: str = XNYS) -> pd.DataFrame:
        """Keep the rows of each symbol's listing as it is known now; rows of symbols that are no members stay.

        Parameters
        ----------
        frame
            Stored rows with ``symbol`` and ``available_at``.
        calendar
            The exchange of instruments that name none.
        """
        bounds = {each.symbol: _bounds(each, calendar) for each in self.instruments if each.listed or each.delisted}
        outside = np.zeros(len(frame), dtype=bool)
        for symbol, positions in frame.groupby("symbol", sort=False).indices.items():
            if symbol in bounds:
                at = frame["available_at"].iloc[positions]
                outside[positions] = ((at < bounds[symbol][0]) | (at >= bounds[symbol][1])).to_numpy()
        return frame[~outside]

    def fetch(self, source: BarSource, start: datetime, end: datetime, calendar: str = XNYS) -> Iterator[Fetched]:
        """Ask a source once for each ticker, and answer for each instrument that was listed in [start, end).

        Parameters
        ----------
        source
            It is asked by tickers.
        start, end
            ``start <= available_at < end``, both with a time zone.
        calendar
            The exchange of instruments that name none.

        Yields
        ------
        Fetched
            Under the instrument's symbol, only rows of its listing; ``EMPTY`` where the answer had none of them. In the
            order in which the source answers.
        """
        asked: dict[str, list[Listing]] = defaultdict(list)
        for listing in self.listings(start, end, calendar):
            asked[listing.instrument.ticker].append(listing)
        if not asked:
            return
        for answer in source.fetch(list(asked), start, end):
            for listing in asked[answer.symbol]:
                whole = (listing.start, listing.end) == (start, end)
                yield _named(answer if whole else _part(answer, listing), listing.instrument.symbol)

    def survivorship_warning(self, first: date, last: date) -> str | None:
        """Say in one sentence that the universe is of today's members over the past; ``None`` where it is not.

        Parameters
        ----------
        first, last
            First and last day of the data.
        """
        # Within a year or so few are delisted; an index is put together anew and survives by that.
        years = (date(last.year, last.month, last.day) - date(first.year, first.month, first.day)).days / 365.25
        perishable = [instrument for instrument in self.instruments if instrument.kind != "index"]
        # A ticker that another security has now is no delisting of the kind that hurts results.
        delisted = sum(each.delisted is not None and each is self._by_ticker[each.ticker][-1] for each in perishable)
        if years < 13 / 12 or not perishable or delisted > DELISTED_A_YEAR * years * len(perishable):
            return None
        count = f"{len(perishable)} instruments" if len(perishable) > 1 else "1 instrument"
        which = "none" if not delisted else f"only {delisted}"
        return (
            f"{count} over {years:.1f} years, {which} of which was ever delisted: chosen from what is traded "
            "today, they leave out what failed on the way, so that results look better than they could have been; "
            "add what was delisted, with its listing and delisting dates, to the universe"
        )


def _instrument(entry: str | Mapping[str, Any]) -> Instrument:
    if isinstance(entry, Instrument):
        return entry
    if not isinstance(entry, Mapping):
        return Instrument(symbol=entry)
    known = [each.name for each in dataclasses.fields(Instrument)]
    unknown = [name for name in entry if name not in known]
    if unknown or "symbol" not in entry:
        wrong = f"unknown fields {unknown}" if unknown else "no symbol"
        raise ValueError(f"entry {dict(entry)} of the universe has {wrong}; use {', '.join(known)}")
    given = {name: value for name, value in entry.items() if value is not None}
    for name in ("listed", "delisted"):
        if name in given:
            given[name] = _day(given[name], name, str(entry["symbol"]))
    return Instrument(**given)


def _day(value: object, name: str, symbol: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError(f"{symbol}: {name}={value!r} is no day; write YYYY-MM-DD") from error


def _in_time(ticker: str, own: list[Instrument]) -> tuple[Instrument, ...]:
    ordered = sorted(own, key=lambda each: (each.listed or date.min, each.delisted or date.max))
    for earlier, later in pairwise(ordered):
        if earlier.delisted is None or later.listed is None:
            lacking = f"delisted of {earlier.symbol}" if earlier.delisted is None else f"listed of {later.symbol}"
            raise ValueError(
                f"{earlier.symbol} and {later.symbol} have the ticker {ticker!r}, and nothing says until when or since "
                f"when: give {lacking}"
            )
        if later.listed <= earlier.delisted:
            raise ValueError(
                f"{earlier.symbol} and {later.symbol} have the ticker {ticker!r} at once: delisted={earlier.delisted} "
                f"of the first is not before listed={later.listed} of the second; correct one"
            )
    return tuple(ordered)


def _bounds(instrument: Instrument, calendar: str) -> tuple[datetime, datetime]:
    exchange = instrument.calendar or calendar
    return (
        _EVER[0] if instrument.listed is None else _beginning(instrument.listed, exchange),
        _EVER[1] if instrument.delisted is None else _beginning(instrument.delisted + timedelta(days=1), exchange),
    )


@lru_cache(maxsize=65536)
def _beginning(day: date, calendar: str) -> datetime:
    """Instant from which rows belong to a day or a later one: half-way from the close before to the opening after."""
    # A month on both sides: no exchange has stayed closed for so long since 1914.
    month = timedelta(days=31)
    around = sessions(day - month, day + month, calendar)
    before = around["session"] < pd.Timestamp(day)
    closed, opened = around.loc[before, "available_at"].max(), around.loc[~before, "opens_at"].min()
    # Where trading never stops, the bar of the day before is complete at the instant of the opening.
    return max(closed + (opened - closed) / 2, closed + timedelta(microseconds=1)).to_pydatetime()


def _part(answer: Fetched, listing: Listing) -> Fetched:
    bars, actions = listing.rows_of(answer.bars), listing.rows_of(answer.actions)
    outcome = Outcome.EMPTY if answer.outcome == Outcome.OK and bars.empty else answer.outcome
    return replace(answer, outcome=outcome, bars=bars, actions=actions)


def _named(answer: Fetched, symbol: str) -> Fetched:
    if symbol == answer.symbol:
        return answer
    bars, actions = (rows.assign(symbol=symbol).astype({"symbol": "str"}) for rows in (answer.bars, answer.actions))
    return replace(answer, symbol=symbol, bars=bars, actions=actions)

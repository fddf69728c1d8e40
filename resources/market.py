"""The ``market`` resource: one source of bars, its universe, the exchange's sessions, and the project's clock."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from atlas_pipeline.config import digest_of
from atlas_pipeline.market.bars import BAR_COVERAGE, BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import bar_grid, sessions, sessions_around
from atlas_pipeline.market.clock import ReplayClock, WallClock
from atlas_pipeline.market.coverage import bar_coverage
from atlas_pipeline.market.resampling import RESAMPLED_BARS, reads_from, resample
from atlas_pipeline.market.resumable import ResumableSource
from atlas_pipeline.market.settings import SOURCES, load_market_settings
from atlas_pipeline.market.sources import BarSource, Fetched, MarketSource, within
from atlas_pipeline.market.table import Column, Table
from atlas_pipeline.market.universe import Universe
from resources.warehouse import Warehouse

REPLAY_CLOCK = Table(
    name="replay_clock",
    description="Instants that the replay clock was moved to; the latest is the project's now.",
    columns=(Column("now", "timestamp", "instant the clock was moved to", unit="UTC"),),
    key=("now",),
)

_SETTINGS = load_market_settings()


class Market(dg.ConfigurableResource):
    """Bars of one market, and the time it is there.

    A live source goes by the wall clock. A replayed one goes by a clock of its own, which stands in the
    warehouse and moves only forward, so that schedules and sensors do real work without a network.
    """

    warehouse: dg.ResourceDependency[Warehouse]
    source: str = Field(
        default=_SETTINGS.source,
        description=f"Where bars come from: {', '.join(SOURCES)}; the default is that of the file ATLAS_MARKET names.",
    )
    symbols: list[Any] = Field(
        default=list(_SETTINGS.symbols),
        description="Instruments to ingest: a symbol, or a mapping of `symbol`, `ticker`, `listed`, `delisted`, "
        "`kind`, `calendar`.",
    )
    interval: str = Field(default=_SETTINGS.interval, description="Length of the source's bars.")
    timescales: list[str] = Field(
        default=list(_SETTINGS.timescales), description="Coarser intervals that the bars are resampled to."
    )
    calendar: str = Field(default=_SETTINGS.calendar, description="Exchange calendar, ISO 10383.")
    replay_start: str | None = Field(
        default=_SETTINGS.replay_start.isoformat() if _SETTINGS.replay_start else None,
        description="Instant at which the replay clock starts; unset, the wall clock is used.",
    )
    replay_bars_per_tick: int = Field(
        default=_SETTINGS.replay_bars_per_tick, description="Bars that one tick moves the replay clock by."
    )
    overlap_days: int = Field(
        default=_SETTINGS.overlap_days,
        description="Days before the months asked for that every ingestion reads again, to see what was restated.",
    )
    jump_sigmas: float = Field(
        default=_SETTINGS.jump_sigmas,
        description="A return beyond this many trailing deviations that no corporate action explains trips a wire.",
    )
    volatility_index: str | None = Field(
        default=_SETTINGS.volatility_index,
        description="Symbol of the universe that is read as the market's volatility index, such as VIX; an input of "
        "features, not traded.",
    )
    options: dict[str, Any] = Field(default=_SETTINGS.options, description="Options of the source itself.")

    @cached_property
    def universe(self) -> Universe:
        """The instruments, with the time each was listed."""
        return Universe.parse(self.symbols)

    @cached_property
    def feed(self) -> MarketSource:
        """The source, opened."""
        return open_source(self.source, self.universe.tickers, self.interval, self.calendar, self.options)

    @cached_property
    def symbols_by_calendar(self) -> dict[str, list[str]]:
        """Symbols of the universe by the exchange whose sessions their bars have."""
        grouped: dict[str, list[str]] = {}
        for instrument in self.universe.instruments:
            grouped.setdefault(instrument.calendar or self.calendar, []).append(instrument.symbol)
        return grouped

    @property
    def overlap(self) -> timedelta:
        """How far before the months asked for an ingestion reads again."""
        return timedelta(days=self.overlap_days)

    @property
    def lookback(self) -> timedelta:
        """How far back stored bars are read to judge new ones."""
        from atlas_pipeline.market.tripwires import HISTORY_BARS

        now = self.now()
        around = bar_grid(sessions_around(now, now, self.interval, self.calendar), self.interval)["available_at"]
        return HISTORY_BARS * (around.max() - around.min()) / (len(around) - 1) + timedelta(days=31)

    def now(self) -> datetime:
        """Return the project's now: the wall clock's, or where the replay stands (UTC)."""
        if self.replay_start is None:
            return WallClock().now()
        moved = self.warehouse.read(REPLAY_CLOCK)["now"]
        start = datetime.fromisoformat(self.replay_start).astimezone(UTC)
        return max(start, moved.max().to_pydatetime()) if len(moved) else start

    def next_tick(self, reached: datetime | None = None) -> datetime | None:
        """Return the instant of the next tick, within one month; ``None`` where the replay is over.

        By the wall clock this is now: the market moves by itself.

        Parameters
        ----------
        reached
            Last bar that was worked off, where it is known. A run that failed after it had moved the clock leaves it
            behind the clock: the tick then goes on from there, so that no month is left with a hole.
        """
        now = self.now()
        if self.replay_start is None:
            return now
        since = now if reached is None else min(now, reached)
        last = self.feed.range()[1]
        if since >= last:
            return None
        ahead = bar_grid(sessions_around(since, last, self.interval, self.calendar), self.interval)["available_at"]
        ahead = ahead[(ahead > since) & (ahead <= last)]
        return ReplayClock(ahead).after(since, self.replay_bars_per_tick) if len(ahead) else None

    def advance(self, instant: datetime) -> None:
        """Move the replay clock forward to an instant; standing at or beyond it already changes nothing.

        Raises
        ------
        ValueError
            Where there is no replay clock to move, or the instant has no time zone.
        """
        if self.replay_start is None:
            raise ValueError(
                f"the clock of the live source {self.source!r} cannot be moved to {instant}: "
                "leave advance_clock_to unset, or set replay_start"
            )
        if instant.tzinfo is None:
            raise ValueError(f"the clock cannot be moved to {instant}, which has no time zone: write one, such as Z")
        if instant > self.now():
            moment = pd.Series([pd.Timestamp(instant)]).dt.tz_convert("UTC").astype("datetime64[us, UTC]")
            self.warehouse.append(REPLAY_CLOCK, pd.DataFrame({"now": moment}))

    def sessions(self, start: datetime, end: datetime, calendar: str | None = None) -> pd.DataFrame:
        """Return the sessions between two instants, as ``calendars.sessions`` gives them."""
        return sessions(start, end, calendar or self.calendar)

    def must_have_bars(self, month: str, now: datetime) -> bool:
        """Whether a month without any bar is a fault: not while it has begun and its first bar is yet to come."""
        first = pd.Period(month).start_time
        around = bar_grid(sessions_around(first, first, self.interval, self.calendar), self.interval)["available_at"]
        expected = around[around >= first.tz_localize("UTC")].iloc[0]
        return not first.tz_localize("UTC") <= pd.Timestamp(now) < expected

    def answers(self, start: datetime, end: datetime) -> BarSource:
        """Return the source; where it is remote, one whose answers survive a kill of the ingestion of this range."""
        if not self.feed.live:
            return self.feed
        now = self.now()
        completed = bar_grid(sessions_around(now, now, self.interval, self.calendar), self.interval)["available_at"]
        question = digest_of([self.source, self.interval, self.calendar, str(start), str(end), self.options])
        folder = Path(self.warehouse.home).expanduser().resolve() / "downloads" / question
        return ResumableSource(self.feed, folder, completed[completed <= now].max().to_pydatetime(), now)

    def fetch(self, source: BarSource, start: datetime, end: datetime) -> Iterator[Fetched]:
        """Answers about the instruments listed in [start, end): only what could be known by now."""
        known = self._known(start, end)
        # A source that answers with more than it was asked for must not bring the future in.
        for answer in self.universe.fetch(source, start, known, self.calendar):
            yield replace(answer, bars=within(answer.bars, start, known), actions=within(answer.actions, start, known))

    def coverage(
        self, bars: pd.DataFrame, quarantined: pd.DataFrame, history: pd.DataFrame, months: list[str], now: datetime
    ) -> pd.DataFrame:
        """Count what each symbol should have in some months and what it has, as ``coverage.bar_coverage`` does."""
        first, last = pd.Period(months[0]).start_time, pd.Period(months[-1]).end_time
        listings = {each.symbol: (each.listed, each.delisted) for each in self.universe.instruments}
        strangers = sorted(set(bars["symbol"].unique()) - set(self.universe.symbols))
        counted = []
        for calendar, symbols in self.symbols_by_calendar.items():
            known = [*symbols, *strangers] if calendar == self.calendar else symbols
            sessions = sessions_around(first, last, self.interval, calendar)
            counted.append(
                bar_coverage(
                    bars,
                    quarantined,
                    sessions,
                    symbols=known,
                    interval=self.interval,
                    months=months,
                    now=now,
                    history=history,
                    listings=listings,
                )
            )
        return pd.concat(counted, ignore_index=True)

    def unfinished_months(self, months: list[str]) -> list[str]:
        """Return those of some months that were last ingested before all sessions completed by now had their bars.

        So a pause, a month nobody asked for, and a symbol that is new to the universe are seen.
        """
        nothing = empty(BARS)
        due = self.coverage(nothing, nothing, nothing, months, self.now())
        stored = self.warehouse.read(BAR_COVERAGE, columns=["symbol", "interval", "month", "sessions"])
        both = due.merge(stored, on=["symbol", "interval", "month"], how="left", suffixes=("", "_counted"))
        return sorted(both.loc[both["sessions"] > both["sessions_counted"].fillna(0), "month"].unique())

    def resample(self, start: datetime, end: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the coarser bars that are complete in [start, end), from the bars stored, and those left out."""
        made, left_out = [empty(RESAMPLED_BARS)], []
        for timescale in self.timescales:
            for calendar, symbols in self.symbols_by_calendar.items():
                begin = reads_from(start, timescale, calendar)
                found = resample(
                    self.warehouse.read(BARS, start=begin, end=end, where={"symbol": symbols}),
                    timescale,
                    now=self.now(),
                    calendar=calendar,
                    actions=self.warehouse.read(CORPORATE_ACTIONS, start=begin, end=end, where={"symbol": symbols}),
                    start=start,
                    end=end,
                )
                made.append(found.bars)
                left_out.append(found.left_out)
        nothing = pd.DataFrame(columns=["interval", "reason"])
        return pd.concat(made, ignore_index=True), pd.concat([nothing, *left_out], ignore_index=True)

    def quotes(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Return the source's quotes of the instruments listed in [start, end), none after now."""
        rows = self.feed.quotes(self.universe.tickers, start, end)
        return self.universe.attribute(self._known_rows(rows, start, end), self.calendar)

    def option_chain(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Return the source's option chains of the instruments listed in [start, end), none after now."""
        rows = self.feed.option_chain(self.universe.tickers, start, end)
        return self.universe.attribute(self._known_rows(rows, start, end), self.calendar, column="underlying")

    def _known_rows(self, rows: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
        # Now is read after the answer: a live source labels what it received by the instant it did.
        return within(rows, start, self._known(start, end))

    def _known(self, start: datetime, end: datetime) -> datetime:
        """End of the part of [start, end) that could be known by now."""
        return max(start, min(end, self.now() + timedelta(microseconds=1)))


def open_source(
    name: str, tickers: tuple[str, ...], interval: str, calendar: str, options: dict[str, Any]
) -> MarketSource:
    """Open a source by its name; only its own module is imported.

    Raises
    ------
    ValueError
        Where there is no such source, or it has no bars of this interval.
    """
    if name == "bundled":
        from atlas_pipeline.market.bundled import BundledSource

        if interval != "1d":
            raise ValueError(f"interval={interval!r}: the bundled source has daily bars only; write 1d")
        return BundledSource(**options)
    if name == "simulated":
        from atlas_pipeline.market.simulated import SimulatedSource

        return SimulatedSource(tickers, **{"interval": interval, "calendar": calendar, **options})
    if name == "yahoo":
        from atlas_pipeline.market.yahoo import YahooSource

        return YahooSource(tickers, **{"interval": interval, "calendar": calendar, **options})
    if name == "files":
        from atlas_pipeline.market.files import FilesSource

        return FilesSource(**options)
    raise ValueError(f"source={name!r}; use one of {', '.join(SOURCES)}")

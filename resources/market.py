"""The ``market`` resource: one source of bars, the exchange's sessions, and the project's clock."""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import dagster as dg
import pandas as pd
from pydantic import Field

from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.clock import ReplayClock, WallClock
from atlas_pipeline.market.settings import load_market_settings
from atlas_pipeline.market.sources import MarketSource, within
from atlas_pipeline.market.table import Column, Table
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
    source: Literal["bundled", "yahoo", "files"] = Field(
        default=_SETTINGS.source, description="Where bars come from; the default is configs/market.yaml's."
    )
    symbols: list[str] = Field(default=list(_SETTINGS.symbols), description="Symbols of the source to ingest.")
    interval: str = Field(default=_SETTINGS.interval, description="Length of a bar.")
    calendar: str = Field(default=_SETTINGS.calendar, description="Exchange calendar, ISO 10383.")
    replay_start: str | None = Field(
        default=_SETTINGS.replay_start.isoformat() if _SETTINGS.replay_start else None,
        description="Instant at which the replay clock starts; unset, the wall clock is used.",
    )
    replay_bars_per_tick: int = Field(
        default=_SETTINGS.replay_bars_per_tick, description="Bars that one tick moves the replay clock by."
    )
    options: dict[str, Any] = Field(default=_SETTINGS.options, description="Options of the source itself.")

    @cached_property
    def feed(self) -> MarketSource:
        """The source, opened."""
        return open_source(self.source, self.symbols, self.options)

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
        ahead = self.sessions(since, last)["available_at"]
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

    def sessions(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Return the exchange's sessions between two instants, as ``calendars.sessions`` gives them."""
        return sessions(start, end, self.calendar)

    def bars(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Return the source's bars with ``start <= available_at < end`` that could be known by now."""
        end = max(start, min(end, self.now() + timedelta(microseconds=1)))
        # A source that answers with more than it was asked for must not bring the future in.
        return within(self.feed.bars(self.symbols, start, end), start, end)


def open_source(name: str, symbols: list[str], options: dict[str, Any]) -> MarketSource:
    """Open a source by its name; only its own module is imported."""
    if name == "bundled":
        from atlas_pipeline.market.bundled import BundledSource

        return BundledSource(**options)
    if name == "yahoo":
        from atlas_pipeline.market.yahoo import YahooSource

        return YahooSource(tuple(symbols), **options)
    from atlas_pipeline.market.files import FilesSource

    return FilesSource(**options)

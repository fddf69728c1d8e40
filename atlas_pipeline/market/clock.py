"""What ``now`` means: the wall clock of a live source, or a replay over bars that exist already.

Only the logic is here; where the replay's position is kept between runs is the resources' business.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd


class WallClock:
    """The real time."""

    def now(self) -> datetime:
        """Read the instant, in UTC."""
        return datetime.now(UTC)


class ReplayClock:
    """Time that moves from bar to bar over history; it keeps no position of its own.

    Parameters
    ----------
    instants
        Instants at which bars become available, with a time zone; any order, repeats allowed (several symbols
        share their closes).

    Raises
    ------
    ValueError
        Where there is no instant.
    """

    def __init__(self, instants: pd.Series | pd.DatetimeIndex) -> None:
        ordered = pd.DatetimeIndex(instants).tz_convert("UTC").as_unit("us").unique().sort_values()
        if ordered.empty:
            raise ValueError("a replay clock needs at least one bar; choose a source and range that have bars")
        self._instants = ordered
        self._months = ordered.tz_localize(None).to_numpy().astype("datetime64[M]")

    @property
    def first(self) -> datetime:
        """The instant of the first bar."""
        return self._instants[0].to_pydatetime()

    @property
    def last(self) -> datetime:
        """The instant of the last bar."""
        return self._instants[-1].to_pydatetime()

    def remaining(self, now: datetime) -> int:
        """Count the instants after ``now``; 0 where the replay is over."""
        return len(self._instants) - self._position(now)

    def after(self, now: datetime, bars: int) -> datetime:
        """Find the instant ``bars`` bars later, within the month of the first of them: one tick, one month.

        Parameters
        ----------
        now
            Where the replay stands.
        bars
            Bars a tick, at least 1.

        Returns
        -------
        datetime
            In UTC; ``now`` itself where the replay is over.
        """
        if bars < 1:
            raise ValueError(f"bars={bars}: a tick moves at least one bar; use 1 or more")
        position = self._position(now)
        if position == len(self._instants):
            return now
        month_end = int(np.searchsorted(self._months, self._months[position], side="right")) - 1
        return self._instants[min(position + bars - 1, month_end)].to_pydatetime()

    def _position(self, now: datetime) -> int:
        """Index of the first instant after ``now``."""
        if now.tzinfo is None:
            raise ValueError(f"now={now!r} has no time zone; pass an aware datetime")
        return int(self._instants.searchsorted(pd.Timestamp(now), side="right"))

"""What an interval is: how long a bar is, as ``5m``, ``1h``, ``1d``, ``2wk`` or ``3mo`` say it.

When the bars of an interval are complete is the exchange's matter and stands in ``calendars``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, total_ordering
from typing import Literal, get_args

Unit = Literal["m", "h", "d", "wk", "mo", "y"]

_MINUTES: dict[str, int] = {"m": 1, "h": 60}
# Sessions in a unit, roughly: intervals are put in order by them, nothing is computed with them.
_SESSIONS: dict[str, int] = {"d": 1, "wk": 5, "mo": 21, "y": 252}
_PATTERN = re.compile(rf"([1-9][0-9]{{0,3}})({'|'.join(get_args(Unit))})")
# A unit that divides another one: a month consists of days, but not of weeks.
_PARTS: dict[str, tuple[str, ...]] = {"d": ("d",), "wk": ("wk",), "mo": ("mo",), "y": ("mo", "y")}


@total_ordering
@dataclass(frozen=True)
class Interval:
    """A number of units; intervals are ordered by their length, ``5d`` before ``1wk``.

    Attributes
    ----------
    count
        How many units, at least 1.
    unit
        ``m`` and ``h`` count trading time from the session's opening, ``d`` sessions, ``wk`` weeks that begin
        on Monday, ``mo`` and ``y`` the calendar's months and years.
    """

    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"

    @property
    def intraday(self) -> bool:
        """Whether a session has several such bars, or one that is cut at its close."""
        return self.unit in _MINUTES

    @property
    def minutes(self) -> int:
        """Length of an intraday bar.

        Raises
        ------
        ValueError
            Where a bar of this interval is as long as its session or longer.
        """
        if not self.intraday:
            raise ValueError(f"interval {str(self)!r} is counted in sessions and has no minutes")
        return self.count * _MINUTES[self.unit]

    def divides(self, coarser: Interval) -> bool:
        """Whether every ``coarser`` bar is made of whole bars of this interval; true of itself."""
        if self.intraday and coarser.intraday:
            return coarser.minutes % self.minutes == 0
        if self.intraday or (self == Interval(1, "d") and not coarser.intraday):
            return True
        if coarser.intraday or self.unit not in _PARTS[coarser.unit]:
            return False
        months = 12 if self.unit != coarser.unit else 1
        return coarser.count * months % self.count == 0

    def _length(self) -> tuple[int, int, str]:
        if self.intraday:
            return 0, self.minutes, self.unit
        return self.count * _SESSIONS[self.unit], list(_SESSIONS).index(self.unit), self.unit

    def __lt__(self, other: Interval) -> bool:
        return self._length() < other._length()


@lru_cache(maxsize=256)
def parse_interval(name: str) -> Interval:
    """Read an interval's name.

    Parameters
    ----------
    name
        A number and one of ``m``, ``h``, ``d``, ``wk``, ``mo``, ``y``, without blanks.

    Raises
    ------
    ValueError
        Where it is none, or minutes and hours make a day or more.
    """
    found = _PATTERN.fullmatch(name)
    if found is None:
        raise ValueError(
            f"interval {name!r} is none: write a number and m (minutes), h, d (sessions), wk, mo or y, "
            "such as 5m, 1h, 1d, 2wk or 3mo"
        )
    unit: Unit = found[2]  # type: ignore[assignment]
    interval = Interval(int(found[1]), unit)
    if interval.intraday and interval.minutes >= 24 * 60:
        raise ValueError(f"interval {name!r} is a day or longer: write it in sessions, such as 1d")
    return interval

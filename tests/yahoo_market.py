"""What the local Yahoo of the tests knows: sessions, prices, splits, dividends and option contracts, all made up.

Every symbol has one economic path in its first shares. What was traded on a day follows by dividing it by the splits
up to that day and rounding to cents; what Yahoo publishes, by dividing that by the splits since, in single
precision. No HTTP here: ``yahoo_server`` speaks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from atlas_pipeline.market.calendars import sessions

NEW_YORK = ZoneInfo("America/New_York")
MINUTES = {"1m": 1, "2m": 2, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "1h": 60, "90m": 90}
LOOKBACK_DAYS = {"1m": 30, "2m": 60, "5m": 60, "15m": 60, "30m": 60, "90m": 60, "60m": 730, "1h": 730}
VALUES = ("open", "high", "low", "close", "volume")


@dataclass
class Rows:
    """Rows of a chart as Yahoo publishes them: starts in epoch seconds, one array a value."""

    starts: np.ndarray
    values: dict[str, np.ndarray]

    def cut(self, first: int, last: int) -> Rows:
        return Rows(self.starts[first:last], {name: array[first:last] for name, array in self.values.items()})


@dataclass
class Instrument:
    """One symbol's economic path by session, and what happened to its shares."""

    path: dict[str, np.ndarray] = field(repr=False)
    splits: dict[int, tuple[float, float]] = field(default_factory=dict)
    dividends: dict[int, float] = field(default_factory=dict)
    revisions: dict[int, dict[str, float]] = field(default_factory=dict)
    blanks: set[int] = field(default_factory=set)


class MadeUpMarket:
    """Deterministic data of many symbols up to ``now``, which a test may move."""

    def __init__(self, symbols: tuple[str, ...], years: int, now: datetime, events: bool = True) -> None:
        self.symbols, self.now, self.events = symbols, now, events
        table = sessions(date(now.year - years, 1, 1), date(now.year + 1, 12, 31))
        self.days = table["session"].to_numpy().astype("datetime64[D]")
        self.opens = pd.DatetimeIndex(table["opens_at"]).as_unit("s").asi8
        self.closes = pd.DatetimeIndex(table["available_at"]).as_unit("s").asi8
        self._instruments: dict[str, Instrument] = {}

    def position(self, day: str) -> int:
        """Where a session stands among ``days``."""
        found = int(np.searchsorted(self.days, np.datetime64(day, "D")))
        assert self.days[found] == np.datetime64(day, "D"), f"{day} is no session"
        return found

    def instrument(self, symbol: str) -> Instrument:
        """Path, splits and dividends of a symbol, made at the first call."""
        if symbol not in self._instruments:
            self._instruments[symbol] = self._make(symbol)
        return self._instruments[symbol]

    def _make(self, symbol: str) -> Instrument:
        random = np.random.default_rng(zlib.crc32(symbol.encode()))
        count = len(self.days)
        close = random.uniform(20, 300) * np.exp(np.cumsum(random.normal(0.0002, 0.012, count)))
        open_ = close * np.exp(random.normal(0, 0.005, count))
        path = {
            "open": open_,
            "high": np.maximum(open_, close) * (1.002 + random.exponential(0.004, count)),
            "low": np.minimum(open_, close) * (0.998 - random.exponential(0.004, count).clip(0, 0.1)),
            "close": close,
            "volume": random.lognormal(14, 0.4, count).round() + 1000,
        }
        made = Instrument(path)
        if self.events:
            for split in random.choice(count - 300, random.integers(0, 3), replace=False):
                made.splits[int(split)] = ((2, 1), (3, 1), (3, 2), (7, 1))[random.integers(4)]
            for payment in range(int(random.integers(63)), count - 300, 63):
                made.dividends[payment] = round(float(random.uniform(0.05, 0.9)), 2)
        return made

    # What a test may make happen.

    def split(self, symbol: str, day: str, numerator: float, denominator: float = 1) -> None:
        """Let shares be split on a session: announced from now on, in force from its open."""
        self.instrument(symbol).splits[self.position(day)] = (numerator, denominator)

    def dividend(self, symbol: str, day: str, amount: float) -> None:
        """Let a dividend be paid, a share as of the session."""
        self.instrument(symbol).dividends[self.position(day)] = amount

    def revise(self, symbol: str, day: str, **values: float) -> None:
        """Restate what was traded on a session."""
        self.instrument(symbol).revisions.setdefault(self.position(day), {}).update(values)

    def blank(self, symbol: str, start: datetime) -> None:
        """Publish nulls for the bar that starts then, as Yahoo does where nothing was traded."""
        self.instrument(symbol).blanks.add(int(start.timestamp()))

    # What Yahoo publishes.

    def _in_force(self, symbol: str) -> dict[int, float]:
        now = self.now.timestamp()
        splits = self.instrument(symbol).splits
        return {day: up / down for day, (up, down) in sorted(splits.items()) if self.opens[day] <= now}

    def traded(self, symbol: str) -> dict[str, np.ndarray]:
        """What was traded, by session: prices in cents, shares as of the day."""
        instrument = self.instrument(symbol)
        shares = np.ones(len(self.days))
        for day, ratio in self._in_force(symbol).items():
            shares[day:] *= ratio
        values = {name: (array / shares).round(2) for name, array in instrument.path.items() if name != "volume"}
        values["volume"] = instrument.path["volume"].copy()
        for day, revised in instrument.revisions.items():
            for name, value in revised.items():
                values[name][day] = value
        return values

    def _published(self, symbol: str, rows: dict[str, np.ndarray], day: np.ndarray) -> dict[str, np.ndarray]:
        later = np.ones(len(day))
        for split, ratio in self._in_force(symbol).items():
            later[day < split] *= ratio
        prices = {name: (rows[name] / later).astype("float32").astype("float64") for name in VALUES[:4]}
        return {**prices, "volume": rows["volume"] * later}

    def chart(self, symbol: str, interval: str) -> Rows:
        """All rows of an interval up to now: the last one unfinished where its time has not run out."""
        if interval in MINUTES:
            now = int(self.now.timestamp())
            reach = now - (LOOKBACK_DAYS[interval] + 5) * 86400
            first, last = np.searchsorted(self.opens, [reach, now])
            parts = [self._session_rows(symbol, day, MINUTES[interval]) for day in range(first, last)]
            starts = np.concatenate([np.empty(0, "int64"), *(part.starts for part in parts)])
            values = {name: np.concatenate([np.empty(0), *(part.values[name] for part in parts)]) for name in VALUES}
            return Rows(starts, values)
        return self._daily(symbol) if interval == "1d" else self._coarse(symbol, interval)

    def _daily(self, symbol: str) -> Rows:
        now = int(self.now.timestamp())
        done = int(np.searchsorted(self.closes, now, side="right"))
        values = {name: array[:done] for name, array in self.traded(symbol).items()}
        values = self._published(symbol, values, np.arange(done))
        starts = self.opens[:done]
        if self.opens[done] < now:  # The session goes on: Yahoo labels its row by the last trade.
            so_far = self._aggregate(self._session_rows(symbol, done, 1), np.zeros(1, "int64"))
            starts = np.append(starts, now)
            values = {name: np.append(values[name], so_far.values[name]) for name in VALUES}
        return Rows(starts, values)

    def _coarse(self, symbol: str, interval: str) -> Rows:
        daily = self._daily(symbol)
        days = self.days[: len(daily.starts)]
        months = days.astype("datetime64[M]")
        group = {
            "1wk": days - (days.astype("int64") + 3) % 7,
            "1mo": months.astype("datetime64[D]"),
            "3mo": (months - months.astype("int64") % 3).astype("datetime64[D]"),
        }[interval]
        unfinished = self.closes[len(days) - 1] > self.now.timestamp()
        # Yahoo gives the day in progress a row of its own beside that of its week or month.
        first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        if unfinished and first[-1] != len(days) - 1:
            first = np.append(first, len(days) - 1)
        rows = self._aggregate(daily, first)
        labels = pd.DatetimeIndex(group[first]).tz_localize(NEW_YORK).as_unit("s").asi8.copy()
        if unfinished:
            labels[-1] = daily.starts[-1]
        return Rows(labels, rows.values)

    def _session_rows(self, symbol: str, day: int, minutes: int) -> Rows:
        traded = {name: array[day] for name, array in self.traded_cached(symbol).items()}
        count = int(self.closes[day] - self.opens[day]) // 60
        random = np.random.default_rng([zlib.crc32(symbol.encode()), int(self.days[day].astype("int64"))])
        steps = np.append(0.0, np.cumsum(random.normal(0, 1, count)))
        steps -= np.linspace(0, steps[-1], count + 1)
        scale = (traded["high"] - traded["low"]) / (np.ptp(steps) or 1.0)
        nodes = np.linspace(traded["open"], traded["close"], count + 1) + steps * scale
        nodes = nodes.clip(traded["low"], traded["high"]).round(2)
        top, bottom = random.choice(np.arange(1, count), 2, replace=False)
        nodes[top], nodes[bottom] = traded["high"], traded["low"]
        volume = np.full(count, traded["volume"] // count)
        volume[0] += traded["volume"] % count
        rows = {
            "open": nodes[:-1],
            "high": np.maximum(nodes[:-1], nodes[1:]),
            "low": np.minimum(nodes[:-1], nodes[1:]),
            "close": nodes[1:],
            "volume": volume,
        }
        passed = min(count, max(0, -(-(int(self.now.timestamp()) - int(self.opens[day])) // 60)))
        rows = {name: array[:passed] for name, array in rows.items()}
        published = Rows(self.opens[day] + 60 * np.arange(passed), self._published(symbol, rows, np.full(passed, day)))
        return self._aggregate(published, np.arange(0, passed, minutes))

    def traded_cached(self, symbol: str) -> dict[str, np.ndarray]:
        """``traded``, computed again only where something happened since."""
        instrument = self.instrument(symbol)
        state = (str(instrument.revisions), tuple(self._in_force(symbol).items()))
        if getattr(instrument, "state", None) != state:
            instrument.state, instrument.of_state = state, self.traded(symbol)  # type: ignore[attr-defined]
        return instrument.of_state  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def _aggregate(rows: Rows, first: np.ndarray) -> Rows:
        if not len(rows.starts):
            return rows
        last = np.append(first[1:], len(rows.starts)) - 1
        return Rows(
            rows.starts[first],
            {
                "open": rows.values["open"][first],
                "high": np.maximum.reduceat(rows.values["high"], first),
                "low": np.minimum.reduceat(rows.values["low"], first),
                "close": rows.values["close"][last],
                "volume": np.add.reduceat(rows.values["volume"], first),
            },
        )

    def events_between(self, symbol: str, first: int, last: int) -> dict[str, dict[str, dict[str, object]]]:
        """Splits and dividends in force by now with an ex-date's open in the range, in Yahoo's form."""
        instrument, splits = self.instrument(symbol), self._in_force(symbol)
        last = min(last, int(self.now.timestamp()) + 1)
        found: dict[str, dict[str, dict[str, object]]] = {}
        for day, amount in sorted(instrument.dividends.items()):
            opened = int(self.opens[day])
            if first <= opened < last:
                later = float(np.prod([ratio for split, ratio in splits.items() if split > day]))
                entry = {"amount": round(amount / later, 6), "date": opened}
                found.setdefault("dividends", {})[str(opened)] = entry
        for day in splits:
            opened, (up, down) = int(self.opens[day]), instrument.splits[day]
            if first <= opened < last:
                entry = {"date": opened, "numerator": up, "denominator": down, "splitRatio": f"{up}:{down}"}
                found.setdefault("splits", {})[str(opened)] = entry
        return found

    def price(self, symbol: str) -> float:
        """The last close or, in a session, the price so far."""
        return round(float(self._daily(symbol).values["close"][-1]), 2)

    def expiries(self) -> list[int]:
        """Midnight UTC of the next four Fridays, in epoch seconds."""
        today = self.now.astimezone(NEW_YORK).date()
        friday = today + timedelta(days=(4 - today.weekday()) % 7)
        days = [friday + timedelta(weeks=week) for week in range(4)]
        return [int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) for day in days]

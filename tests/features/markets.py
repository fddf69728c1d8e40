"""Made-up markets with all that may be missing: series that begin, end and fall silent, holes, bad bars, actions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.quarantine import conform

DAYS = 200


def market_of(
    seed: int, *, volatility: float = 0.02, scale: float = 100.0, spread: float = 0.01
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars from 2015-01 to 2015-07 and corporate actions.

    ``ALL`` is whole; ``LATE`` begins in March, ``ENDS`` in April ends, ``SILENT`` has none from March to April,
    ``HOLES`` misses prices, also on the last days of months, and two weeks and more; ``ALL`` has bars of four hours,
    too, from May on.
    """
    random = np.random.default_rng(seed)
    day = np.arange(DAYS)
    series = {
        ("ALL", "1d"): day >= 0,
        ("LATE", "1d"): day >= 63,
        ("ENDS", "1d"): day < 95,
        ("SILENT", "1d"): (day < 59) | (day >= 120),
        ("HOLES", "1d"): ~((day >= 20) & (day < 36)) & (random.random(DAYS) > 0.1),
        ("ALL", "4h"): day >= 125,
    }
    frames = [_bars(random, *name, np.flatnonzero(kept), volatility, scale, spread) for name, kept in series.items()]
    return conform(pd.concat(frames, ignore_index=True), BARS), _actions(random, scale)


def index_of(bars: pd.DataFrame) -> pd.DataFrame:
    """A volatility index a quarter of an hour after the bars of a day, without some days, and two weeks in June."""
    days = pd.Series(bars["session"].unique()).sort_values()
    random = np.random.default_rng(len(days))
    instants = (days + pd.Timedelta(hours=21, minutes=15)).dt.tz_localize("UTC").astype("datetime64[us, UTC]")
    early = pd.Series([instants.iloc[0] - pd.Timedelta(days=1)]) if len(days) else instants
    instants = pd.concat([early, instants], ignore_index=True)
    close = np.round(15 * np.exp(0.05 * random.normal(size=len(instants)).cumsum()), 2)
    frame = pd.DataFrame({"available_at": instants, "close": close})
    if len(bars["symbol"].unique()) < 2:
        return frame
    frame.loc[random.random(len(frame)) < 0.03, "close"] = np.nan
    quiet = (instants > pd.Timestamp("2015-06-05", tz="UTC")) & (instants < pd.Timestamp("2015-06-20", tz="UTC"))
    return frame[(random.random(len(frame)) > 0.1) & ~quiet]


def _bars(random, symbol, interval, days, volatility, scale, spread):
    rows = len(days)
    close = scale * np.exp(volatility * random.normal(size=rows).cumsum())
    opening = np.concatenate([close[:1], close[:-1]]) * np.exp(0.2 * volatility * random.normal(size=rows))
    instants = pd.Timestamp("2015-01-01 21:00", tz="UTC") + pd.to_timedelta(days, unit="D")
    frame = pd.DataFrame(
        {
            "symbol": symbol,
            "interval": interval,
            "available_at": instants.as_unit("us"),
            "session": instants.tz_localize(None).normalize().as_unit("us"),
            "open": opening,
            "high": np.maximum(opening, close) * (1 + spread),
            "low": np.minimum(opening, close) / (1 + spread),
            "close": close,
            "volume": np.round(1e4 * random.exponential(size=rows)),
        }
    )
    if symbol != "ALL":
        for name, share in (("open", 0.02), ("volume", 0.02), ("close", 0.01), ("low", 0.01)):
            frame.loc[random.random(rows) < share, name] = np.nan
        frame.loc[random.random(rows) < 0.02, "volume"] = 0.0
    if symbol == "HOLES":
        frame.loc[frame["session"].dt.is_month_end, "close"] = np.nan
    return frame


def _actions(random, scale):
    """Some a symbol on any day, on ends of months, and before and after all bars."""
    rows = {}
    ends = pd.to_datetime(["2015-02-28", "2015-03-31", "2015-04-30", "2015-05-31"])
    for symbol in ("ALL", "LATE", "ENDS", "SILENT", "HOLES", "NONE"):
        days = [pd.Timestamp("2015-01-01") + pd.Timedelta(days=int(day)) for day in random.integers(-20, 230, 6)]
        for day in (*days, *random.choice(ends, 2)):
            kind = str(random.choice(["split", "dividend"]))
            value = random.choice([2.0, 0.1, 1.5]) if kind == "split" else scale * random.uniform(1e-4, 1e-3)
            rows[symbol, day, kind] = value
    frame = pd.DataFrame([(*key, value) for key, value in rows.items()], columns=["symbol", "session", "kind", "value"])
    # Most are known at the opening; one in four at the instant of a bar, so that it counts at the next.
    hour = np.where(random.random(len(frame)) < 0.25, 21, 15)
    frame["available_at"] = (frame["session"] + pd.to_timedelta(hour, unit="h")).dt.tz_localize("UTC")
    return conform(frame, CORPORATE_ACTIONS)


def require_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True)

"""Which market is traded: source, universe, interval, range and clock, as one YAML file says.

The sources themselves live in their own modules; this one only names what is wanted of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from atlas_pipeline.config import CONFIGS
from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.universe import Universe

SOURCES = ("bundled", "files", "simulated", "yahoo")
MARKETS = CONFIGS / "markets"


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """One market: where bars come from, which, from when, and by what clock.

    Attributes
    ----------
    source
        One of ``SOURCES``.
    symbols
        Entries of ``Universe.parse``: a symbol, or a mapping with its listing.
    interval
        Length of the source's bars.
    timescales
        Coarser intervals that they are resampled to.
    calendar
        Exchange of instruments that name none, ISO 10383.
    first_month, last_month
        ``YYYY-MM``; without ``last_month`` the month in progress is the last.
    replay_start
        With it the pipeline lives by a replay clock that starts there and moves ``replay_bars_per_tick`` bars a tick;
        without it, by the wall clock.
    overlap_days
        Days before the months asked for that every ingestion reads again, to see what the vendor restated.
    jump_sigmas
        A return beyond this many trailing deviations that no corporate action explains trips a wire.
    volatility_index
        Symbol that is read as the market's volatility index, such as VIX: an input of features, not traded.
    options
        Options of the source itself.
    """

    source: str
    symbols: tuple[Any, ...]
    interval: str = "1d"
    timescales: tuple[str, ...] = ()
    calendar: str = "XNYS"
    first_month: str = "1999-01"
    last_month: str | None = None
    replay_start: datetime | None = None
    replay_bars_per_tick: int = 5
    overlap_days: int = 10
    jump_sigmas: float = 12.0
    volatility_index: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def market_settings_path() -> Path:
    """Return the file that ``ATLAS_MARKET`` names, by its path or as one of ``configs/markets``.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    """
    named = os.environ.get("ATLAS_MARKET") or "bundled"
    for path in (Path(named), MARKETS / f"{named}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in MARKETS.glob("*.yaml")))
    raise FileNotFoundError(
        f"ATLAS_MARKET={named!r} is neither a file nor one of the markets {known}: correct or unset it"
    )


def load_market_settings(path: Path | None = None) -> MarketSettings:
    """Read the market's settings.

    Raises
    ------
    FileNotFoundError
        Where the file does not exist.
    ValueError
        Where a setting is unknown, missing or cannot work.
    """
    path = path or market_settings_path()
    content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    unknown = sorted(content.keys() - {f.name for f in dataclasses.fields(MarketSettings)})
    if unknown:
        raise ValueError(f"{path}: unknown settings {unknown}")
    if content.get("source") not in SOURCES:
        raise ValueError(f"{path}: source={content.get('source')!r}; use one of {', '.join(SOURCES)}")
    if not content.get("symbols"):
        raise ValueError(f"{path}: 'symbols' is empty; name at least one symbol of the source")
    for name in ("first_month", "last_month"):
        if content.get(name) is not None:
            try:
                datetime.strptime(str(content[name]), "%Y-%m")
            except ValueError as error:
                raise ValueError(f"{path}: {name}={content[name]!r} is not a month; write YYYY-MM") from error
    start = content.get("replay_start")
    if start is not None and not isinstance(start, datetime):
        raise ValueError(f"{path}: replay_start={start!r} is not an instant; write YYYY-MM-DDTHH:MM:SSZ")
    if isinstance(start, datetime):
        content["replay_start"] = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    content["symbols"] = tuple(map(_plain, content["symbols"]))
    content["options"] = _plain(content.get("options") or {})
    content["timescales"] = tuple(content.get("timescales") or ())
    try:
        universe = Universe.parse(content["symbols"])
        intervals = [parse_interval(name) for name in (content.get("interval", "1d"), *content["timescales"])]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    index = content.get("volatility_index")
    if index is not None and (index not in universe.symbols or len(universe.symbols) == 1):
        raise ValueError(f"{path}: volatility_index={index!r} must be one of the symbols, and not the only one; add it")
    if index is not None and not next(each for each in universe.instruments if each.symbol == index).calendar:
        raise ValueError(
            f"{path}: volatility_index={index!r} has no calendar of its own: name the exchange whose closes are the "
            "instants of its publication, such as XCBF for the VIX, a quarter of an hour after the stocks' close; else "
            "a bar could see a later value"
        )
    for coarser in intervals[1:]:
        if coarser <= intervals[0] or not intervals[0].divides(coarser):
            raise ValueError(f"{path}: timescale {coarser} is not made of whole bars of {intervals[0]}; leave it out")
    return MarketSettings(**content)


def _plain(value: Any) -> Any:
    """Days and instants as text: Dagster's configuration has none."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value

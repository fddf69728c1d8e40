"""Which market is traded: source, symbols, interval, range and clock, as one YAML file says.

The sources themselves live in their own modules; this one only names what is wanted of them.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from atlas_pipeline.config import CONFIGS


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """One market: where bars come from, which, from when, and by what clock.

    ``first_month`` and ``last_month`` are ``YYYY-MM``; without ``last_month`` the month in progress is the last.
    With ``replay_start`` the pipeline lives by a replay clock that starts there and moves
    ``replay_bars_per_tick`` bars a tick; without it, by the wall clock. ``options`` go to the source as they are.
    """

    source: Literal["bundled", "yahoo", "files"]
    symbols: tuple[str, ...]
    interval: str = "1d"
    calendar: str = "XNYS"
    first_month: str = "1999-01"
    last_month: str | None = None
    replay_start: datetime | None = None
    replay_bars_per_tick: int = 5
    options: dict[str, Any] = field(default_factory=dict)


def market_settings_path() -> Path:
    """Return the file that ``ATLAS_MARKET`` names, or the project's ``configs/market.yaml``."""
    return Path(os.environ.get("ATLAS_MARKET") or CONFIGS / "market.yaml")


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
    if not path.is_file():
        raise FileNotFoundError(f"market settings {path} do not exist; correct ATLAS_MARKET or unset it")
    content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    unknown = sorted(content.keys() - {f.name for f in dataclasses.fields(MarketSettings)})
    if unknown:
        raise ValueError(f"{path}: unknown settings {unknown}")
    if not content.get("symbols"):
        raise ValueError(f"{path}: 'symbols' is empty; name at least one symbol of the source")
    if content.get("source") not in ("bundled", "yahoo", "files"):
        raise ValueError(f"{path}: source={content.get('source')!r}; use bundled, yahoo or files")
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
    return MarketSettings(**{**content, "symbols": tuple(content["symbols"])})

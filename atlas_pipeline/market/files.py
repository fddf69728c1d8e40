"""Bars, quotes and option chains from the user's own CSV or Parquet files.

Files are read as they are and labelled; what is wrong with a row is for validation to say, what is wrong with
a file (no such column, a time that is no time) is said here with the file's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import XNYS, session_closes
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.sources import RecordedSource, require_known, within
from atlas_pipeline.market.table import Table

_RIGHTS = {"c": "call", "call": "call", "p": "put", "put": "put"}
_SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class FileSet:
    """Which files hold one kind of data, and how their columns are called.

    Attributes
    ----------
    path
        A file, a folder (all CSV and Parquet files in it), or a glob pattern.
    columns
        Our column name to the file's; a column that is called the same in both may be left out. Without a
        column for ``symbol`` (``underlying`` in chains) the file's name, up to its first dot, is the symbol.
    time_zone
        Zone of instants that carry none.
    interval
        Interval of bars whose files do not say it.
    calendar
        The exchange whose closes label rows that name a day only.
    """

    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    time_zone: str = "America/New_York"
    interval: str = "1d"
    calendar: str = XNYS

    def files(self) -> list[Path]:
        """List the files meant, sorted.

        Raises
        ------
        SourceUnavailableError
            Where there are none.
        """
        path = Path(self.path)
        if path.is_dir():
            candidates = list(path.iterdir())
        else:
            fixed = Path(*takewhile(lambda part: not set(part) & set("*?["), path.parts))
            pattern = path.relative_to(fixed)
            candidates = [path] if pattern == Path() else list(fixed.glob(str(pattern)))
        found = sorted(file for file in candidates if file.is_file() and file.name.endswith(_SUFFIXES))
        if not found:
            raise SourceUnavailableError(
                f"no file ending in {', '.join(_SUFFIXES)} at {str(self.path)!r}: correct the path"
            )
        return found


class FilesSource(RecordedSource):
    """A folder of the user's own files.

    Parameters
    ----------
    bars, quotes, option_chain
        Which files hold which kind of data, as a ``FileSet`` or a mapping of its fields; a kind without files
        is not offered.
    """

    name = "files"
    live = False

    def __init__(
        self,
        bars: FileSet | Mapping[str, Any] | None = None,
        quotes: FileSet | Mapping[str, Any] | None = None,
        option_chain: FileSet | Mapping[str, Any] | None = None,
    ) -> None:
        if bars is None and quotes is None and option_chain is None:
            raise ValueError("a files source needs at least one FileSet: bars, quotes or option_chain")
        given = {"bars": bars, "quotes": quotes, "option chains": option_chain}
        self._sets = {what: FileSet(**files) if isinstance(files, Mapping) else files for what, files in given.items()}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the files of bars; where there are none, those in the quotes or chains. Sorted."""
        if self._sets["bars"] is not None:
            found = self._bars["symbol"]
        elif self._sets["quotes"] is not None:
            found = self._quotes["symbol"]
        else:
            found = self._option_chain["underlying"]
        return tuple(sorted(found.unique()))

    def range(self) -> tuple[datetime, datetime]:
        """Instants of the first and the last bar."""
        instants = self._bars["available_at"]
        return instants.min().to_pydatetime(), instants.max().to_pydatetime()

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Read bars with ``start <= available_at < end``; ``volume`` is null where no column holds it.

        Raises
        ------
        UnknownSymbolError
            Where no file has a symbol.
        SourceUnavailableError
            Where a file is missing, unreadable or lacks a column.
        NotOfferedError
            Where the source has no files of bars.
        """
        return self._select(self._bars, "symbol", symbols, start, end)

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Read quotes with ``start <= available_at < end``; raises as ``bars`` does."""
        return self._select(self._quotes, "symbol", symbols, start, end)

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Chains of the underlyings with ``start <= available_at < end``; raises as ``bars`` does."""
        return self._select(self._option_chain, "underlying", symbols, start, end)

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Without rows: the files hold none."""
        require_known(self.name, symbols, self.symbols)
        return empty(CORPORATE_ACTIONS)

    def _select(
        self, frame: pd.DataFrame, column: str, symbols: Sequence[str], start: datetime, end: datetime
    ) -> pd.DataFrame:
        require_known(self.name, symbols, sorted(frame[column].unique()))
        return within(frame[frame[column].isin(list(symbols))], start, end)

    def _files(self, what: str) -> FileSet:
        files = self._sets[what]
        if files is None:
            raise NotOfferedError(self.name, what, f"give the source a FileSet for {what}")
        return files

    @cached_property
    def _bars(self) -> pd.DataFrame:
        return _load(self._files("bars"), BARS, optional=("volume",))

    @cached_property
    def _quotes(self) -> pd.DataFrame:
        return _load(self._files("quotes"), QUOTES)

    @cached_property
    def _option_chain(self) -> pd.DataFrame:
        return _load(self._files("option chains"), OPTION_CHAIN, optional=("last", "volume", "open_interest"))


def _load(files: FileSet, table: Table, optional: Sequence[str] = ()) -> pd.DataFrame:
    frames = [_load_file(path, files, table, optional) for path in files.files()]
    return pd.concat(frames, ignore_index=True)


def _load_file(path: Path, files: FileSet, table: Table, optional: Sequence[str]) -> pd.DataFrame:
    try:
        raw = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SourceUnavailableError(f"{path} cannot be read ({error}): repair or remove the file") from error
    absent = {ours: theirs for ours, theirs in files.columns.items() if theirs not in raw.columns}
    if absent:
        raise SourceUnavailableError(
            f"{path} has no column {sorted(absent.values())}, named for {sorted(absent)}; "
            f"it has {list(raw.columns)}. Correct the column mapping"
        )
    given = {name: raw[files.columns.get(name, name)] for name in table.names if files.columns.get(name, name) in raw}
    frame = pd.DataFrame(given, index=raw.index)
    symbol = table.key[0]
    if symbol not in frame:
        frame[symbol] = path.name.split(".")[0]
    if "interval" in table.names and "interval" not in frame:
        frame["interval"] = files.interval
    for name in optional:
        if name not in frame:
            frame[name] = float("nan")
    for name in ("session", "expiry"):
        if name in frame:
            frame[name] = _instants(frame[name], path, name).dt.tz_localize(None).dt.normalize()
    if "available_at" in frame:
        frame["available_at"] = _aware(_instants(frame["available_at"], path, "available_at"), files, path)
    elif "session" in frame:
        frame["available_at"] = session_closes(frame["session"], files.calendar)
    if "session" in table.names and "session" not in frame and "available_at" in frame:
        frame["session"] = frame["available_at"].dt.tz_convert(files.time_zone).dt.tz_localize(None).dt.normalize()
    if "right" in frame:
        frame["right"] = frame["right"].str.lower().map(_RIGHTS).fillna(frame["right"])
    return conform(frame, table)


def _instants(values: pd.Series, path: Path, column: str) -> pd.Series:
    try:
        parsed = pd.to_datetime(values)
    except (ValueError, TypeError) as error:
        raise SourceUnavailableError(
            f"{path}: column {column} holds what is no time ({error}): repair the row or the column mapping"
        ) from error
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise SourceUnavailableError(f"{path}: {column} is missing in row {row}: repair or remove the row")
    if not pd.api.types.is_datetime64_any_dtype(parsed):
        raise SourceUnavailableError(f"{path}: {column} mixes time zones: write one zone, or UTC, in all rows")
    return parsed


def _aware(instants: pd.Series, files: FileSet, path: Path) -> pd.Series:
    if instants.dt.tz is not None:
        return instants.dt.tz_convert("UTC")
    try:
        return instants.dt.tz_localize(files.time_zone).dt.tz_convert("UTC")
    except ValueError as error:  # an hour that the change to or from summer time skips or repeats
        raise SourceUnavailableError(
            f"{path}: {error} in {files.time_zone}: write the times in UTC, or with their offset"
        ) from error

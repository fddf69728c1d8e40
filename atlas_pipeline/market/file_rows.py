"""Rows of the user's files in a table's columns: which files, how their columns, times and symbols are read.

What a row says is not judged here; a file that cannot be read as told is named.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas_pipeline.market.calendars import XNYS, session_closes, sessions
from atlas_pipeline.market.errors import SourceUnavailableError
from atlas_pipeline.market.intervals import parse_interval
from atlas_pipeline.market.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

STARTS_AT = "starts_at"

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_RIGHTS = {"c": "call", "call": "call", "p": "put", "put": "put"}
_DAYS = ("session", "expiry")
_INSTANTS = ("available_at", STARTS_AT)
_TEXTS = ("symbol", "underlying", "interval", "right", "kind")
_CLOCK, _OFFSET = r"[T ]\d{2}(?::?\d{2}){0,2}(?:[.,]\d+)?", r"\s?(?:Z|[+-]\d{2}(?::?\d{2})?)$"
_PLAIN_DAY = r"^\d{4}-\d{2}-\d{2}$"


@dataclass(frozen=True)
class FileSet:
    """Which files hold one kind of data, and how their columns are called.

    Attributes
    ----------
    path
        A file, a folder (all CSV and Parquet files in it), or a glob pattern.
    columns
        Our column name to the file's; a column that is called the same in both may be left out. Without a
        column for ``symbol`` (``underlying`` in chains) the file's name, up to its first dot, is the symbol. Bars may
        also have ``price_factor`` and ``split_factor``, from which corporate actions are deduced, and ``starts_at``
        in place of ``available_at`` where the files label an intraday bar by its start.
    time_zone
        Zone of instants that carry none.
    interval
        Interval of bars whose files do not say it.
    calendar
        The exchange whose closes label rows that name a day only. For indices of Cboe such as the VIX, which are
        published until 16:15 in New York, that is ``XCBF``: ``XNYS`` would label them before they are known.
    time_format
        ``strptime`` format of days and times that are not in ISO 8601, such as ``%m/%d/%Y``; no order of day and
        month is guessed.
    """

    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    time_zone: str = "America/New_York"
    interval: str = "1d"
    calendar: str = XNYS
    time_format: str | None = None

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


def read_rows(files: FileSet, table: Table, extra: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read all files of a set, and only the columns in use.

    Parameters
    ----------
    files
        The set.
    table
        The table that the rows are meant for; its nullable columns may be absent from the files.
    extra
        Columns beyond the table's that are read where the files have them.

    Returns
    -------
    pandas.DataFrame
        The columns of ``table`` that the files have or imply, other than ``month``, and those of ``extra``. Text is
        categorical, numbers are float64, instants ``datetime64[us, UTC]``, days ``datetime64[us]``.

    Raises
    ------
    SourceUnavailableError
        Where a file is missing, unreadable, lacks a column, holds text where numbers belong or no time where one
        belongs.
    ValueError
        Where the mapping names a column that is none of ours.
    """
    import pyarrow as pa

    wanted = [*(name for name in table.names if name != "month"), *extra]
    unknown = sorted(set(files.columns) - set(wanted))
    if unknown:
        raise ValueError(
            f"columns of {str(files.path)!r} map {unknown}, which {table.name} does not have; use {wanted}"
        )
    paths = files.files()
    tables = [_file(path, files, table, wanted) for path in paths]
    for name in (*_DAYS, *_INSTANTS):
        lacking = [path for path, read in zip(paths, tables, strict=True) if name not in read.column_names]
        if 0 < len(lacking) < len(paths):
            raise SourceUnavailableError(
                f"{lacking[0]} has no column for {name}, which other files of {str(files.path)!r} have: "
                "make two file sets of them"
            )
    # Where one file lacks a nullable column that another has, its rows have none.
    together = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    rows = together.to_pandas(split_blocks=True, self_destruct=True)
    for column in table.columns:
        if column.nullable and column.name not in rows:
            rows[column.name] = np.nan
    return _labelled(rows, files, table)


def _labelled(rows: pd.DataFrame, files: FileSet, table: Table) -> pd.DataFrame:
    if STARTS_AT in rows:
        rows = _completed(rows, files)
    elif "available_at" not in rows and "session" in rows and table.name != "corporate_actions":
        rows["available_at"] = session_closes(rows["session"], files.calendar)
    if "session" in table.names and "session" not in rows and "available_at" in rows:
        rows["session"] = _session_of(rows["available_at"], files)
    if "right" in rows:
        rights = [str(right) for right in rows["right"].cat.categories]
        rows["right"] = rows["right"].astype("str").map({right: _RIGHTS.get(right.lower(), right) for right in rights})
        rows["right"] = rows["right"].astype("category")
    return rows


def _completed(rows: pd.DataFrame, files: FileSet) -> pd.DataFrame:
    """Label bars by their end: start and interval, but no later than the close, or rest, of the session begun in."""
    lengths = {}
    for interval in rows["interval"].cat.categories:
        kind = parse_interval(str(interval))
        if not kind.intraday:
            raise ValueError(
                f"{str(files.path)!r}: bars of interval {interval!r} cannot be labelled by starts_at, which is for "
                "minutes and hours: map session to the column of their day"
            )
        lengths[interval] = pd.Timedelta(minutes=kind.minutes)
    starts = rows[STARTS_AT]
    labels = starts + rows["interval"].astype("str").map(lengths)
    known = _sessions_around(starts, files.calendar)
    begun = known.iloc[np.searchsorted(_utc(known["opens_at"]), _utc(starts), side="right") - 1].set_index(rows.index)
    for end in (name for name in ("break_starts_at", "available_at") if name in begun):
        labels = labels.mask((starts < begun[end]) & (labels > begun[end]), begun[end])
    return rows.drop(columns=STARTS_AT).assign(available_at=labels.astype("datetime64[us, UTC]"))


def _session_of(instants: pd.Series, files: FileSet) -> pd.Series:
    """Name the session that a bar of this label lies in; outside of all, the day in the set's zone."""
    days = instants.dt.tz_convert(files.time_zone).dt.tz_localize(None).dt.normalize().astype("datetime64[us]")
    known = _sessions_around(instants, files.calendar)
    ahead = np.searchsorted(_utc(known["available_at"]), _utc(instants), side="left")
    outside = _utc(instants) <= _utc(known["opens_at"])[ahead]
    return days.where(outside, known["session"].iloc[ahead].set_axis(instants.index))


def _sessions_around(instants: pd.Series, calendar: str) -> pd.DataFrame:
    # A month on both sides: no exchange has stayed closed for so long since 1914.
    month = pd.Timedelta(days=31)
    return sessions(instants.min() - month, instants.max() + month, calendar)


def _utc(instants: pd.Series) -> np.ndarray:
    return instants.dt.tz_localize(None).to_numpy()


def _file(path: Path, files: FileSet, table: Table, wanted: list[str]) -> pa.Table:
    import pyarrow as pa

    try:
        present = _present(_header(path), path, files, wanted)
        raw = _read(path, present)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceUnavailableError(f"{path} cannot be read ({error}): repair or remove the file") from error
    symbol = table.key[0]
    implied = {symbol, "interval", "session", "available_at"}
    lacking = [
        c.name for c in table.columns if c.name in wanted and not c.nullable and c.name not in {*present, *implied}
    ]
    if lacking or not {"session", *_INSTANTS} & set(present):
        raise SourceUnavailableError(
            f"{path} has no column for {', '.join(lacking) or 'session or available_at'}; "
            f"it has {_header(path)}. Map its columns to these names"
        )
    columns = {ours: _column(raw.column(theirs), ours, path, files) for ours, theirs in present.items()}
    constants = {symbol: path.name.split(".")[0], "interval": files.interval}
    for name, value in constants.items():
        if name in table.names and name not in columns:
            columns[name] = pa.DictionaryArray.from_arrays(np.zeros(len(raw), np.int32), pa.array([value]))
    return pa.table(columns)


def _present(header: list[str], path: Path, files: FileSet, wanted: list[str]) -> dict[str, str]:
    """Our name to the file's, of the columns that the file has; a column named in the mapping must be there, once."""
    absent = {ours: theirs for ours, theirs in files.columns.items() if theirs not in header}
    if absent:
        raise SourceUnavailableError(
            f"{path} has no column {sorted(absent.values())}, named for {sorted(absent)}; "
            f"it has {header}. Correct the column mapping"
        )
    present = {ours: files.columns.get(ours, ours) for ours in wanted if files.columns.get(ours, ours) in header}
    twice = sorted({theirs for theirs in present.values() if header.count(theirs) > 1})
    if twice:
        raise SourceUnavailableError(f"{path} has more than one column {twice}: remove or rename the others")
    return present


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(path).names)
    with (
        gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as text
    ):
        return next(csv.reader(text), [])


def _read(path: Path, present: dict[str, str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    columns = sorted(set(present.values()))
    if path.suffix == ".parquet":
        return pyarrow.parquet.ParquetFile(path).read(columns=columns)
    # Types are given, never inferred: a ticker may be called NA or TRUE, and whole numbers in a first block say nothing
    # of the next one.
    text = pa.dictionary(pa.int32(), pa.string())
    types = {
        theirs: text if ours in (*_TEXTS, *_DAYS, *_INSTANTS) else pa.float64() for ours, theirs in present.items()
    }
    options = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=types)
    return pyarrow.csv.read_csv(path, convert_options=options)


def _column(values: pa.ChunkedArray, ours: str, path: Path, files: FileSet) -> pa.Array | pa.ChunkedArray:
    import pyarrow as pa

    if ours in _DAYS:
        return pa.array(_days(values, ours, path, files), pa.timestamp("us"))
    if ours in _INSTANTS:
        return pa.array(_instants(values, ours, path, files), pa.timestamp("us", "UTC"))
    if ours in _TEXTS:
        encoded = _encoded(values)
        _require_all(encoded.to_pandas().isin(["", None]), ours, path)
        return encoded
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)):
        raise SourceUnavailableError(
            f"{path}: column {ours} holds {values.type} where numbers belong: write numbers, or correct the mapping"
        )
    return values.cast(pa.float64(), safe=False)


def _encoded(values: pa.ChunkedArray) -> pa.DictionaryArray:
    import pyarrow as pa

    if not pa.types.is_dictionary(values.type):
        values = values.cast(pa.string()).dictionary_encode()
    return values.cast(pa.dictionary(pa.int32(), pa.string())).combine_chunks()


def _days(values: pa.ChunkedArray, ours: str, path: Path, files: FileSet) -> pd.Series | pa.Array:
    """Days as written: an offset or a zone beside them is that of the place meant, so it is left aside."""
    import pyarrow as pa

    if pa.types.is_temporal(values.type):
        return _stamps(values, ours, path).dt.tz_localize(None).dt.normalize()
    encoded = _encoded(values)
    if files.time_format is None and not encoded.null_count and _match(encoded.dictionary, _PLAIN_DAY).all():
        # What pandas would say as well, but a folder of many small files is read in half the time.
        try:
            return encoded.dictionary.cast(pa.date32()).take(encoded.indices).cast(pa.timestamp("us"))
        except pa.ArrowInvalid as error:
            raise _no_time(error, ours, path) from error
    texts, codes = _texts(encoded)
    if files.time_format is None and _match(encoded.dictionary, _CLOCK + _OFFSET).any():
        texts = texts.str.replace(f"({_CLOCK}){_OFFSET}", r"\1", regex=True)
    days = _parsed(texts, ours, path, files).dt.tz_localize(None).dt.normalize()
    return _taken(days, codes, ours, path)


def _instants(values: pa.ChunkedArray, ours: str, path: Path, files: FileSet) -> pd.Series:
    import pyarrow as pa

    if pa.types.is_temporal(values.type):
        return _aware(_stamps(values, ours, path), path, files)
    encoded = _encoded(values)
    texts, codes = _texts(encoded)
    zoned = _match(encoded.dictionary, _CLOCK + _OFFSET)[texts != ""]
    if zoned.any() and not zoned.all():
        raise SourceUnavailableError(
            f"{path}: column {ours} mixes times with and without an offset: write it in all rows or in none"
        )
    instants = _aware(_parsed(texts, ours, path, files, utc=bool(zoned.any())), path, files)
    return _taken(instants, codes, ours, path)


def _stamps(values: pa.ChunkedArray, ours: str, path: Path) -> pd.Series:
    import pyarrow as pa

    stamps = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False).to_pandas()
    _require_all(stamps.isna(), ours, path)
    return stamps


def _texts(encoded: pa.DictionaryArray) -> tuple[pd.Series, np.ndarray]:
    """Return the distinct texts and, a row, which of them it holds: few days are written millions of times."""
    return pd.Series(encoded.dictionary.to_pandas(), dtype="str"), encoded.indices.fill_null(-1).to_numpy()


def _match(texts: pa.Array, pattern: str) -> np.ndarray:
    import pyarrow.compute

    # Arrow's own: pandas goes through Python's regular expressions, ten times as slow.
    return pyarrow.compute.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)


def _parsed(texts: pd.Series, ours: str, path: Path, files: FileSet, *, utc: bool = False) -> pd.Series:
    try:
        return pd.to_datetime(texts, format=files.time_format or "ISO8601", utc=utc).dt.as_unit("us")
    except (ValueError, TypeError) as error:
        raise _no_time(error, ours, path) from error


def _no_time(error: Exception, ours: str, path: Path) -> SourceUnavailableError:
    said = str(error).splitlines()[0]
    return SourceUnavailableError(
        f"{path}: column {ours} holds what is no time ({said}): repair the row or the column mapping, "
        "or give the file set a time_format, such as %m/%d/%Y"
    )


def _aware(instants: pd.Series, path: Path, files: FileSet) -> pd.Series:
    if instants.dt.tz is not None:
        return instants.dt.tz_convert("UTC")
    try:
        return instants.dt.tz_localize(files.time_zone).dt.tz_convert("UTC")
    except ValueError as error:  # an hour that the change to or from summer time skips or repeats
        raise SourceUnavailableError(
            f"{path}: {error} in {files.time_zone}: write the times in UTC, or with their offset"
        ) from error


def _taken(distinct: pd.Series, codes: np.ndarray, ours: str, path: Path) -> pd.Series:
    _require_all(pd.Series((codes < 0) | distinct.isna().to_numpy()[codes]), ours, path)
    return distinct.take(codes)


def _require_all(missing: pd.Series, ours: str, path: Path) -> None:
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise SourceUnavailableError(f"{path}: {ours} is missing in row {row}: repair or remove the row")

"""Ten million hourly bars in the lake, beside plain month-partitioned Parquet written and read by DuckDB.

The peer has the same engine with the same settings, and the user gets the same from both: every file on disk before
the call returns, frames in declared types and in the key's order.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import pandas as pd
import pyarrow

from atlas_pipeline.market.bars import BARS
from benchmarks import figure, medians
from resources.ducklake import THREADS
from resources.lake import Lake
from resources.rows import framed, selection
from resources.warehouse import Warehouse

SYMBOLS, MONTHS, SESSIONS, HOURS = 500, 144, 20, 7
"""Twelve years of 10,080,000 bars, 70,000 a month."""

ROWS = SYMBOLS * SESSIONS * HOURS
"""Of a month."""

FEW_MONTHS = 14
"""The history that memory is compared with."""

WRITES = 3
SYMBOL = f"S{SYMBOLS // 2:03d}"
PEER = f"Parquet by DuckDB {duckdb.__version__}"
ENGINE: dict[str, str | bool | int] = {"threads": THREADS, "enable_external_file_cache": False}
"""The settings of the warehouse's own engine."""

_ORDER = ", ".join(BARS.key)


class Months:
    """Bars of simulated symbols, month by month; ``seconds`` is what making them took."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.seconds = 0.0
        self._symbols = pd.Series(
            np.repeat([f"S{number:03d}" for number in range(SYMBOLS)], SESSIONS * HOURS), dtype="str"
        )
        self._intervals = pd.Series(["1h"] * ROWS, dtype="str")
        walks = random.normal(0, 0.005, (SYMBOLS, SESSIONS * HOURS)).cumsum(axis=1) + random.normal(4, 1, (SYMBOLS, 1))
        self._closes, self._moves = np.exp(walks).ravel(), random.normal(0, 0.003, ROWS)
        self._volumes = np.floor(random.lognormal(11, 1, ROWS))

    def frame(self, month: int, level: float = 1.0) -> tuple[str, pd.DataFrame]:
        """Make a month and its name; another ``level`` is another price of every bar."""
        started = time.perf_counter()
        name = str(np.datetime64("2000-01", "M") + month)
        days = pd.date_range(f"{name}-01", periods=SESSIONS).as_unit("us").repeat(HOURS)
        instants = (days + np.tile(pd.timedelta_range("15:30:00", periods=HOURS, freq="h"), SESSIONS)).tz_localize(
            "UTC"
        )
        close = self._closes * level * (1 + month / MONTHS)
        opened = close * (1 + self._moves)
        frame = pd.DataFrame(
            {
                "symbol": self._symbols,
                "interval": self._intervals,
                "available_at": np.tile(instants.as_unit("us"), SYMBOLS),
                "session": np.tile(days, SYMBOLS),
                "open": opened.round(2),
                "high": (np.maximum(opened, close) * 1.002).round(2),
                "low": (np.minimum(opened, close) * 0.998).round(2),
                "close": close.round(2),
                "volume": self._volumes + month,
                "month": pd.Series([name] * ROWS, dtype="str"),
            }
        )
        self.seconds += time.perf_counter() - started
        return name, frame

    def all(self, months: int) -> Iterator[tuple[str, pd.DataFrame]]:
        """Make so many months, one after the other."""
        return (self.frame(month) for month in range(months))


class PlainParquet:
    """The peer: one file a month, replaced by renaming."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection = duckdb.connect(config=ENGINE)
        self.connection.execute("SET TimeZone = 'UTC'")

    def replace(self, months: Iterator[tuple[str, pd.DataFrame]]) -> None:
        """Write months, in the key's order, over those that are there."""
        for month, frame in months:
            folder = self.folder / f"month={month}"
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / "bars.unfinished"
            self.connection.register("rows", pyarrow.Table.from_pandas(frame, preserve_index=False))
            self.connection.execute(
                f"COPY (SELECT * EXCLUDE month REPLACE (CAST(session AS DATE) AS session) FROM rows ORDER BY {_ORDER}) "
                f"TO '{unfinished}' (FORMAT parquet)"
            )
            _sync(unfinished)
            unfinished.rename(folder / "bars.parquet")
            _sync(folder)

    def read(self, condition: str) -> pd.DataFrame:
        """Read rows in the key's order and with declared types."""
        files = f"read_parquet('{self.folder}/*/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
        columns = list(BARS.columns)
        statement = f"SELECT {selection(columns)} FROM {files} WHERE {condition} ORDER BY {_ORDER}"
        return framed(self.connection.execute(statement).to_arrow_table(), columns)

    def scan(self) -> Iterator[pd.DataFrame]:
        """Read everything, month by month."""
        for folder in sorted(self.folder.iterdir()):
            yield self.read(f"month = '{folder.name.removeprefix('month=')}'")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _seconds(months: Months, write: Callable[[], object]) -> float:
    """How long ``write`` takes without making the months."""
    started, made = time.perf_counter(), months.seconds
    write()
    return time.perf_counter() - started - (months.seconds - made)


def _total(frames: Iterator[pd.DataFrame]) -> float:
    return sum(frame["volume"].sum() for frame in frames)


def write(folder: Path) -> tuple[Warehouse, PlainParquet]:
    """Print ``lake.write``; return the last lake written and its peer."""
    months = Months()
    timings: tuple[list[float], list[float], list[float]] = ([], [], [])
    for repetition in range(WRITES):
        warehouse = Warehouse(home=str(folder / f"lake{repetition}"))
        parquet = PlainParquet(folder / f"parquet{repetition}")
        timings[0].append(_seconds(months, lambda lake=warehouse: lake.replace(BARS, months.all(MONTHS))))
        timings[1].append(_seconds(months, lambda files=parquet: files.replace(months.all(MONTHS))))
    own, other = median(timings[0]), median(timings[1])
    with duckdb.connect(folder / "single.duckdb", config=ENGINE) as single:

        def insert() -> None:
            for number, (_, frame) in enumerate(months.all(MONTHS)):
                single.register("rows", pyarrow.Table.from_pandas(frame, preserve_index=False))
                single.execute("INSERT INTO bars FROM rows" if number else "CREATE TABLE bars AS FROM rows")
            single.execute("CHECKPOINT")

        timings[2].append(_seconds(months, insert))
    figure(
        "lake.write",
        own,
        "s",
        PEER,
        other,
        other / own,
        f"{ROWS * MONTHS:,} bars, {MONTHS} months, one transaction, on disk, judged, and hashed on a second thread; "
        f"median of {WRITES}; a single DuckDB file {timings[2][0]:.2f} s",
    )
    return warehouse, parquet


def replace_month(lake: Lake, parquet: PlainParquet) -> None:
    """Print ``lake.replace_month``."""
    months, levels = Months(), itertools.count(2)
    changed = {level: months.frame(MONTHS // 2, float(level)) for level in range(2, 30)}
    own, other = medians(
        lambda: lake.replace(BARS, [changed[next(levels)]]), lambda: parquet.replace(iter([changed[2]]))
    )
    same = [changed[next(levels) - 1]]
    started = time.perf_counter()
    lake.replace(BARS, same)
    unchanged = 1e3 * (time.perf_counter() - started)
    figure(
        "lake.replace_month",
        own,
        "ms",
        PEER,
        other,
        other / own,
        f"{ROWS:,} bars of {MONTHS} months, on disk, judged and hashed; "
        f"the same rows again {unchanged:.0f} ms, no snapshot",
    )


def scan_symbol(lake: Lake, parquet: PlainParquet, folder: Path) -> None:
    """Print ``lake.scan_symbol``."""
    own, other = medians(
        lambda: lake.read(BARS, where={"symbol": SYMBOL}), lambda: parquet.read(f"symbol = '{SYMBOL}'")
    )
    expected = parquet.read(f"symbol = '{SYMBOL}' AND month <> '{np.datetime64('2000-01', 'M') + MONTHS // 2}'")
    read = lake.read(BARS, where={"symbol": SYMBOL})
    pd.testing.assert_frame_equal(read[read["month"].isin(expected["month"])].reset_index(drop=True), expected)
    with duckdb.connect(folder / "single.duckdb", config=ENGINE) as single:
        single_file, _ = medians(
            lambda: single.execute(f"FROM bars WHERE symbol = '{SYMBOL}' ORDER BY {_ORDER}").to_arrow_table(),
            lambda: None,
        )
    figure(
        "lake.scan_symbol",
        own,
        "ms",
        PEER,
        other,
        other / own,
        f"{len(read):,} of {ROWS * MONTHS:,} bars, sorted frame, from {MONTHS} files: rows are sorted by "
        f"symbol within each, so most row groups are left unread; a single DuckDB file {single_file:.0f} ms",
    )


def scan_all(lake: Lake, parquet: PlainParquet) -> None:
    """Print ``lake.scan_all``."""
    own, other = medians(lambda: _total(lake.scan(BARS)), lambda: _total(parquet.scan()), repetitions=WRITES)
    figure(
        "lake.scan_all",
        own,
        "ms",
        PEER,
        other,
        other / own,
        f"{ROWS * MONTHS:,} bars, one sorted frame a month; median of {WRITES}",
    )


def memory(folder: Path, home: str) -> None:
    """Print ``lake.memory``: peaks of processes that write, replace a month, read a symbol and scan all."""
    few = _peak(["write"], folder / "few", FEW_MONTHS)
    used = {months: _peak(["use"], where, months) for months, where in ((FEW_MONTHS, folder / "few"), (MONTHS, home))}
    written = _peak(["write"], folder / "many", MONTHS)
    own, other = max(written, used[MONTHS]), max(few, used[FEW_MONTHS])
    figure(
        "lake.memory",
        own,
        "MiB",
        f"with {ROWS * FEW_MONTHS:,} bars",
        other,
        other / own,
        f"peak of a process with {ROWS * MONTHS:,} bars; writing them {written:.0f} and {few:.0f} MiB; "
        f"replacing a month, reading a symbol and scanning all {used[MONTHS]:.0f} and {used[FEW_MONTHS]:.0f} MiB",
    )


def _peak(task: list[str], home: Path | str, months: int) -> float:
    command = [sys.executable, "-m", "benchmarks.lake", *task, str(home), str(months)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measured_process(task: str, home: str, months: int) -> None:
    """Do a task in this process and print its peak memory in MiB."""
    warehouse, made = Warehouse(home=home), Months()
    if task == "write":
        warehouse.replace(BARS, made.all(months))
    else:
        warehouse.replace(BARS, [made.frame(months // 2, 7.0)])
        warehouse.read(BARS, where={"symbol": SYMBOL})
        _total(warehouse.scan(BARS))
    # The kernel's high-water mark; getrusage would count the parent's, from before exec.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def main() -> None:
    """Print ``lake.write``, ``lake.replace_month``, ``lake.scan_symbol``, ``lake.scan_all`` and ``lake.memory``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warehouse, parquet = write(folder)
        with warehouse.session() as lake:
            replace_month(lake, parquet)
            scan_symbol(lake, parquet, folder)
            scan_all(lake, parquet)
        memory(folder, warehouse.home)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measured_process(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()

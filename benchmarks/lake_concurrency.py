"""Writers and readers of one lake in processes of their own: what goes well, and that every read is one snapshot."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS
from benchmarks import figure
from resources.lake import Lake
from resources.warehouse import Warehouse

PROCESSES = 6
"""Of writers, and as many of readers."""

ASKED = 500
"""Replacements, and as many reads."""

PARTITIONS = ("2000-01", "2000-02", "2000-03")
SYMBOLS = 60


def partition(month: str, number: int) -> pd.DataFrame:
    """Make the rows of a write: all have its number as volume, and how many they are follows from it."""
    sessions = 15 + number % 6
    days = pd.date_range(f"{month}-01 21:00", periods=sessions, tz="UTC").as_unit("us")
    rows = SYMBOLS * sessions
    price = np.arange(rows, dtype=float) + 1
    return pd.DataFrame(
        {
            "symbol": pd.Series(np.repeat([f"S{symbol:02d}" for symbol in range(SYMBOLS)], sessions), dtype="str"),
            "interval": pd.Series(["1d"] * rows, dtype="str"),
            "available_at": np.tile(days, SYMBOLS),
            "session": np.tile(days.tz_localize(None).normalize(), SYMBOLS),
            **dict.fromkeys(("open", "high", "low", "close"), price),
            "volume": np.full(rows, float(number)),
            "month": pd.Series([month] * rows, dtype="str"),
        }
    )


def write(lake: Lake, process: int) -> int:
    """Replace partitions, each time another; return how many writes went well."""
    well = 0
    for number in range(process, ASKED, PROCESSES):
        month = PARTITIONS[number % len(PARTITIONS)]
        commit = lake.replace(BARS, {month: partition(month, number)})
        well += commit.rows == {BARS.name: SYMBOLS * (15 + number % 6)}
    return well


def read(lake: Lake, process: int) -> int:
    """Read partitions; return how many were whole and of one write."""
    well = 0
    for number in range(process, ASKED, PROCESSES):
        month = PARTITIONS[number % len(PARTITIONS)]
        rows = lake.read(BARS, partitions=[month])
        expected = partition(month, int(rows["volume"].iloc[0]))
        well += rows.equals(expected)
    return well


def main() -> None:
    """Print ``lake.concurrency``."""
    with tempfile.TemporaryDirectory() as home:
        Warehouse(home=home).replace(BARS, {month: partition(month, 0) for month in PARTITIONS})
        started = time.perf_counter()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.lake_concurrency", task, home, str(process)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(PROCESSES)
            for task in ("write", "read")
        ]
        ended = [process.communicate() for process in processes]
        seconds = time.perf_counter() - started
        snapshots = Warehouse(home=home).snapshot()
    for _, errors in ended:
        print(errors, end="", file=sys.stderr)
    failed = sum(process.returncode != 0 for process in processes)
    well = sum(int(output) for output, _ in ended if output)
    figure(
        "lake.concurrency",
        well,
        "transactions",
        "asked for",
        2 * ASKED,
        well / (2 * ASKED),
        f"{PROCESSES} writers and {PROCESSES} readers, {ASKED} replacements and {ASKED} reads of whole partitions in "
        f"{seconds:.0f} s, {failed} processes failed; every read equals the write it names; {snapshots} snapshots",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with Warehouse(home=sys.argv[2]).session() as opened:
            print({"write": write, "read": read}[sys.argv[1]](opened, int(sys.argv[3])))
    else:
        main()

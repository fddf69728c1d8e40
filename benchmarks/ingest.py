"""Ingestion of 500 symbols from a local server that speaks Yahoo's endpoints: all of twenty years, and one more day.

``ingest.full`` is beside ``yfinance.download`` of the same list written to Parquet, which judges, labels and versions
nothing; ``ingest.increment`` beside itself with a tenth of the history.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pandas as pd

from assets.ingestion import ingest
from atlas_pipeline.market.bars import BARS
from benchmarks import figure
from resources.market import Market
from resources.warehouse import Warehouse

SYMBOLS = 500
YEARS = 20
REPETITIONS = 3
INCREMENTS = 7
KILLED_AT = 0.4


@contextmanager
def yahoo() -> Iterator[str]:
    """Start the server in a process of its own, so that it does not share our interpreter; yield its address."""
    size = ["--symbols", str(SYMBOLS), "--years", str(YEARS), "--prerender"]
    process = subprocess.Popen([sys.executable, "-m", "tests.yahoo_server", *size], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def requests(endpoint: str) -> Counter[str]:
    """Count the chart requests that the server has seen, by symbol."""
    with urlopen(f"{endpoint}/requests") as answer:
        return Counter(one["path"] for one in json.load(answer) if "/chart/" in one["path"])


def market(home: Path, endpoint: str, first: str, clock: datetime) -> Market:
    """Return the market of the server's symbols, on a state folder of its own."""
    return Market(
        warehouse=Warehouse(home=str(home)),
        source="yahoo",
        symbols=[f"S{number:04d}" for number in range(SYMBOLS)],
        interval="1d",
        calendar="XNYS",
        replay_start=clock.isoformat(),
        # As many requests at once as the peer has on two cores.
        options={"endpoint": endpoint, "requests_per_second": 1e6, "concurrency": 4, "first": f"{first}-01"},
    )


def months(first: str, clock: datetime) -> list[str]:
    """List the months from the first to the clock's."""
    return [str(month) for month in pd.period_range(first, f"{clock:%Y-%m}", freq="M")]


def download(endpoint: str, file: Path, first: str) -> None:
    """Do what a user would do without this project."""
    import yfinance
    from curl_cffi.requests import Session
    from yfinance.data import YfData

    class Redirected(Session):
        def request(self, method: str, url: str, **options: Any) -> Any:
            asked, instead = urlsplit(url), urlsplit(endpoint)
            return super().request(method, asked._replace(scheme="http", netloc=instead.netloc).geturl(), **options)

    session = Redirected()
    # Yahoo's cookie would come once; from the loopback address none is kept, and each request would ask for one.
    YfData(session=session)._cookie = True
    frame = yfinance.download(
        [f"S{number:04d}" for number in range(SYMBOLS)],
        start=f"{first}-01",
        auto_adjust=False,
        actions=True,
        threads=True,
        progress=False,
        session=session,
    )
    frame.to_parquet(file)


def seconds(action: Any) -> float:
    """Time one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def full(endpoint: str, folder: Path, clock: datetime) -> None:
    """Print ``ingest.full``."""
    first = f"{clock.year - YEARS}-01"
    ours, peer = [], []
    for repetition in range(REPETITIONS):
        home = folder / f"full-{repetition}"
        there = market(home, endpoint, first, clock)
        ours.append(seconds(lambda there=there: ingest(there, there.warehouse, months(first, clock))))
        peer.append(seconds(lambda: download(endpoint, folder / "peer.parquet", first)))
        print(f"ours {ours[-1]:.1f} s, yfinance.download {peer[-1]:.1f} s", file=sys.stderr)
    rows = sum(there.warehouse.partitions(BARS).values())
    own, other = statistics.median(ours), statistics.median(peer)
    figure(
        "ingest.full",
        own,
        "s",
        "yfinance.download to Parquet",
        other,
        other / own,
        f"{rows:,} bars of {SYMBOLS} symbols, {YEARS} years; medians of {REPETITIONS}; killed at {KILLED_AT:.0%} of "
        f"the requests and called again: {repeated(endpoint, folder, first, clock)} of {SYMBOLS} requests repeated",
    )


def repeated(endpoint: str, folder: Path, first: str, clock: datetime) -> int:
    """Kill an ingestion on the way, let it go on, and count the symbols that were asked for twice."""
    before = requests(endpoint)
    arguments = ["resume", str(folder / "resumed"), endpoint, first, clock.isoformat()]
    command = [sys.executable, "-m", "benchmarks.ingest", *arguments]
    process = subprocess.Popen(command)
    while sum((requests(endpoint) - before).values()) < KILLED_AT * SYMBOLS:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    made = requests(endpoint) - before
    assert len(made) == SYMBOLS
    # What was under way when the process died was not answered.
    return sum(made.values()) - SYMBOLS


def increment(endpoint: str, folder: Path, clock: datetime) -> None:
    """Print ``ingest.increment``."""
    timings: dict[int, list[float]] = {}
    markets = {}
    for years in (YEARS // 10, YEARS):
        first = f"{clock.year - years}-01"
        start = clock - timedelta(days=60)
        markets[years] = there = market(folder / f"increment-{years}", endpoint, first, start)
        ingest(there, there.warehouse, months(first, start))
        timings[years] = []
    sessions = there.sessions(start + timedelta(days=1), clock)["available_at"]
    for close in sessions.iloc[1 : INCREMENTS + 2]:
        for years, there in markets.items():
            there.advance(close.to_pydatetime())
            timings[years].append(seconds(lambda t=there, m=f"{close:%Y-%m}": ingest(t, t.warehouse, [m])))
    long, short = (statistics.median(timings[years][1:]) for years in (YEARS, YEARS // 10))
    figure(
        "ingest.increment",
        long,
        "s",
        f"the same after {YEARS // 10} years",
        short,
        short / long,
        f"one more day of {SYMBOLS} symbols after {YEARS} years, {there.overlap_days} days read again; "
        f"medians of {INCREMENTS}",
    )


def main() -> None:
    """Print every figure of this module, or go on with one ingestion."""
    if sys.argv[1:2] == ["resume"]:
        home, endpoint, first, clock = sys.argv[2:]
        there = market(Path(home), endpoint, first, datetime.fromisoformat(clock))
        ingest(there, there.warehouse, months(first, there.now()))
        return
    clock = datetime.now(UTC) - timedelta(days=3)
    with yahoo() as endpoint, tempfile.TemporaryDirectory() as name:
        full(endpoint, Path(name), clock)
        increment(endpoint, Path(name), clock)


if __name__ == "__main__":
    main()

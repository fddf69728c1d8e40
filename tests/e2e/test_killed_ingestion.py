"""An ingestion killed at random instants: its tables are whole at each, and no answer is asked for again."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from atlas_pipeline.market import bars
from atlas_pipeline.market.table import Table
from resources.warehouse import Warehouse
from tests.e2e.processes import Job, Processes
from tests.yahoo_server import YahooServer

SYMBOLS = 12
INSTANTS = 20
SETTINGS = """\
source: yahoo
symbols: [{symbols}]
first_month: 2018-01
last_month: 2019-12
replay_start: 2019-12-31T21:00:00Z
options: {{endpoint: "{endpoint}", requests_per_second: 1000000.0, first: 2018-01-01}}
"""
BEFORE = Job("ingest", ["bars"], partitions=("2018-01", "2018-12"))
KILLED = Job("ingest", ["bars"], partitions=("2019-01", "2019-12"))
AFTER_THE_FIFTH_ANSWER = {
    "target": "atlas_pipeline.market.resumable:ResumableSource._keep",
    "when": "after",
    "call": 5,
    "argument": "",
}
TABLES = [value for value in vars(bars).values() if isinstance(value, Table)]


@pytest.fixture(scope="module")
def server() -> Iterator[YahooServer]:
    with YahooServer(SYMBOLS, years=2, now=datetime(2019, 12, 31, 22, tzinfo=UTC)) as made:
        yield made


@pytest.fixture(scope="module")
def processes(server: YahooServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    symbols = ", ".join(server.market.symbols)
    started = Processes(tmp_path_factory.mktemp("yahoo"), SETTINGS.format(symbols=symbols, endpoint=server.endpoint))
    yield started
    started.close()


def content(home: Path) -> dict[str, str]:
    """Version of each table's rows."""
    with Warehouse(home=str(home)).session() as lake:
        return {table.name: lake.data_version(table) for table in TABLES}


def answered(home: Path) -> set[str]:
    """Symbols whose answers wait for an ingestion to go on."""
    return {unquote(file.stem) for file in (home / "downloads").glob("*/*.arrows") if not file.name.startswith(".")}


def test_the_tables_are_whole_at_every_instant(
    processes: Processes, server: YahooServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    processes.finish(folder / "before", BEFORE)
    shutil.copytree(folder / "before", folder / "after")
    started = time.monotonic()
    processes.finish(folder / "after", KILLED)
    seconds = time.monotonic() - started
    before, after = content(folder / "before"), content(folder / "after")
    assert before != after and not answered(folder / "after")

    kills: list[dict[str, Any]] = [AFTER_THE_FIFTH_ANSWER]
    kills += [{"seconds": float(share * seconds)} for share in np.random.default_rng(20).uniform(0.02, 1.0, INSTANTS)]
    home, outcomes, downloads_gone_on_with = folder / "before", Counter[str](), 0
    for number, kill in enumerate(kills):
        if content(home) == after or home == folder / "before":
            home = shutil.copytree(folder / "before", folder / f"killed {number}")
        waiting, asked_before = answered(home), len(server.asked())
        code, error = processes.run(home, KILLED, kill)
        assert code in (0, -signal.SIGALRM, -signal.SIGKILL), error
        downloads_gone_on_with += bool(waiting)
        assert not waiting & set(server.asked()[asked_before:]), "what was answered was asked for again"
        found = content(home)
        assert found in (before, after)
        outcomes["after" if found == after else "before"] += 1
    assert outcomes["before"] >= INSTANTS / 4, f"{outcomes}: hardly any kill came before the commit"
    assert downloads_gone_on_with, "no kill left answers behind"

    processes.finish(home, KILLED)
    assert content(home) == after and not answered(home)

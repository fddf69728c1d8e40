"""The catalog: its lock, what is retried, a home that is moved."""

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from resources import ducklake
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, LEDGER, bars, decisions


def test_home_can_be_moved(warehouse: Warehouse, tmp_path: Path) -> None:
    long = bars("2016-01", ducklake.INLINED_ROWS)
    warehouse.replace(BARS, {"2016-01": long})
    Path(warehouse.home).rename(tmp_path / "moved")
    moved = Warehouse(home=str(tmp_path / "moved"))
    assert len(moved.read(BARS)) == len(long)
    moved.replace(BARS, {"2016-02": bars("2016-02")})
    assert moved.partitions(BARS) == {"2016-01": len(long), "2016-02": 6}


def test_only_lock_errors_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    calls: list[int] = []

    def locked(until: int, error: Exception) -> int:
        calls.append(1)
        if len(calls) < until:
            raise error
        return len(calls)

    assert ducklake.retry_when_locked(lambda: locked(3, duckdb.IOException("database is locked"))) == 3
    calls.clear()
    with pytest.raises(duckdb.IOException, match="disk full"):
        ducklake.retry_when_locked(lambda: locked(3, duckdb.IOException("disk full")))
    assert len(calls) == 1
    calls.clear()
    with pytest.raises(duckdb.IOException, match="is locked"):
        ducklake.retry_when_locked(lambda: locked(99, duckdb.IOException("database is locked")))
    assert len(calls) == ducklake.RETRIES


FOREIGN_CLIENT = """
import sqlite3, sys
catalog = sqlite3.connect(sys.argv[1], isolation_level=None)
catalog.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_write_goes_through_once_a_foreign_client_lets_go(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.append(LEDGER, decisions(1))
    monkeypatch.setattr(ducklake, "BUSY_TIMEOUT_MS", 1)
    # In a process of its own: POSIX file locks do not hold between two SQLite libraries of one process.
    catalog = Path(warehouse.home) / "lake" / "catalog.sqlite"
    foreign = subprocess.Popen(
        [sys.executable, "-c", FOREIGN_CLIENT, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert foreign.stdin is not None and foreign.stdout is not None
    assert foreign.stdout.readline() == b"locked\n"
    pauses: list[float] = []

    def release(seconds: float) -> None:
        pauses.append(seconds)
        foreign.communicate()

    monkeypatch.setattr("tenacity.nap.time.sleep", release)
    try:
        commit = warehouse.append(LEDGER, decisions(2))
    finally:
        foreign.kill()
    assert len(pauses) == 1
    assert commit.rows == {"ledger": 1}
    assert len(warehouse.read(LEDGER)) == 2


def test_held_write_lock_is_named_and_readers_go_on(warehouse: Warehouse) -> None:
    warehouse.append(LEDGER, decisions(1))
    impatient = Warehouse(home=warehouse.home, lock_timeout=0.01)
    with warehouse.session() as lake, lake._catalog.write_lock():
        with pytest.raises(ducklake.LakeLockedError, match=r"write\.lock for more than 0\.01 s"):
            impatient.append(LEDGER, decisions(2))
        assert len(impatient.read(LEDGER)) == 1


def test_threads_may_write_at_once(warehouse: Warehouse) -> None:
    days = [(1, 2), (3, 4), (5, 6)]
    threads = [threading.Thread(target=warehouse.append, args=(LEDGER, decisions(*pair))) for pair in days]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warehouse.read(LEDGER)) == 6

"""The warehouse: round trips, time bounds, one-transaction writes, idempotent appends, time travel."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.table import Column, Table
from resources import ducklake
from resources.lake import Lake
from resources.query import FutureReadError
from resources.reading import SnapshotNotFoundError, TableMismatchError
from resources.rows import InvalidRowsError, conforming_rows, content_version
from resources.warehouse import Warehouse

BARS = Table(
    "bars",
    "bars as traded",
    (
        Column("symbol", "string", "symbol"),
        Column("available_at", "timestamp", "instant the bar is complete"),
        Column("session", "date", "session", nullable=True),
        Column("close", "float64", "closing price", minimum=0.0),
        Column("weight", "float32", "weight", nullable=True),
        Column("note", "string", "remark", nullable=True),
        Column("volume", "int64", "volume"),
        Column("count", "int32", "trades"),
        Column("stale", "bool", "whether the bar is stale"),
        Column("month", "string", "month of available_at"),
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)
LEDGER = Table(
    "ledger",
    "decisions",
    (
        Column("ledger", "string", "ledger"),
        Column("available_at", "timestamp", "instant of the decision"),
        Column("value", "float64", "value"),
    ),
    key=("ledger", "available_at"),
    time="available_at",
)
GATE = Table(
    "gate_decisions",
    "verdicts",
    (Column("step", "int64", "environment step"), Column("verdict", "string", "verdict")),
    key=("step",),
)


def bars(month: str, days: int = 3, symbols: tuple[str, ...] = ("A", "B"), close: float = 100.0) -> pd.DataFrame:
    spacing = "D" if days <= 28 else "min"
    times = pd.date_range(f"{month}-01 21:00", periods=days, freq=spacing, tz="UTC").as_unit("us")
    n = days * len(symbols)
    return pd.DataFrame(
        {
            "symbol": pd.Series(np.repeat(symbols, days), dtype="str"),
            "available_at": np.tile(times, len(symbols)),
            "session": np.tile(times.tz_localize(None).normalize(), len(symbols)),
            "close": close + np.arange(n) / 3,
            "weight": np.arange(n, dtype="float32") / 7,
            "note": pd.Series(["it's", None] * n, dtype="str")[:n],
            "volume": np.arange(n, dtype="int64") + 2**53 + 1,
            "count": np.arange(n, dtype="int32"),
            "stale": np.arange(n) % 2 == 0,
            "month": pd.Series([month] * n, dtype="str"),
        }
    )


def decisions(*days: int, ledger: str = "main", value: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ledger": pd.Series([ledger] * len(days), dtype="str"),
            "available_at": pd.to_datetime([f"2016-01-{day:02d}" for day in days], utc=True).as_unit("us"),
            "value": np.full(len(days), value),
        }
    )


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(home=str(tmp_path / "it's home"), lock_timeout=20.0)


@pytest.mark.parametrize("days", [3, ducklake.INLINED_ROWS], ids=["inlined", "parquet"])
def test_rows_come_back_as_written(warehouse: Warehouse, days: int) -> None:
    written = bars("2016-01", days)
    written.loc[1, ["weight", "close"]] = [np.nan, np.inf]
    written.loc[2, "session"] = pd.NaT
    commit = warehouse.replace(BARS, {"2016-01": written.sample(frac=1.0, random_state=0)})
    read = warehouse.read(BARS)
    pd.testing.assert_frame_equal(read, written)
    assert commit.rows == {"bars": len(written)}
    assert commit.snapshot == warehouse.snapshot()
    assert commit.data_versions == {"bars": {"2016-01": warehouse.data_version(BARS, "2016-01")}}
    files = list((Path(warehouse.home) / "lake" / "data").rglob("*.parquet"))
    assert bool(files) == (days > 3)


def test_no_rows_come_back_typed(warehouse: Warehouse) -> None:
    for read in (warehouse.read(BARS), warehouse.read(BARS, snapshot=0)):
        pd.testing.assert_frame_equal(read, bars("2016-01").iloc[:0])
    warehouse.replace(BARS, {"2016-01": bars("2016-01")})
    pd.testing.assert_frame_equal(warehouse.read(BARS, partitions=["2017-01"]), bars("2016-01").iloc[:0])
    assert warehouse.read(BARS, partitions=[]).empty
    assert warehouse.duplicates(LEDGER).dtypes["rows"] == "int64"
    assert list(warehouse.read(BARS, columns=["close", "symbol"]).columns) == ["symbol", "close"]


def test_filters(warehouse: Warehouse) -> None:
    warehouse.replace(BARS, {month: bars(month) for month in ("2016-01", "2016-02")})
    assert set(warehouse.read(BARS, where={"symbol": "B"})["symbol"]) == {"B"}
    assert len(warehouse.read(BARS, where={"symbol": ["A", "B"], "count": [0, 1]})) == 4
    second = datetime(2016, 1, 2, 21, tzinfo=UTC)
    assert len(warehouse.read(BARS, start=second, partitions=["2016-01"])) == 4
    assert len(warehouse.read(BARS, end=second)) == 2
    assert warehouse.read(BARS, where={"month": "2016-01"}, partitions=["2016-02"]).empty
    with pytest.raises(ValueError, match=r"no columns \['price'\]"):
        warehouse.read(BARS, columns=["price"])
    with pytest.raises(ValueError, match="no columns"):
        warehouse.read(BARS, where={"price": 1})
    with pytest.raises(ValueError, match="start=2016-01-01T00:00:00 has no time zone"):
        warehouse.read(BARS, start=datetime(2016, 1, 1))
    with pytest.raises(ValueError, match="declares no time"):
        warehouse.read(GATE, before=second)
    with pytest.raises(ValueError, match="has no partitions"):
        warehouse.read(LEDGER, partitions=["2016-01"])


def test_later_rows_are_never_read(warehouse: Warehouse) -> None:
    warehouse.replace(BARS, {month: bars(month) for month in ("2016-01", "2016-02", "2016-03")})
    bound = datetime(2016, 2, 2, 21, tzinfo=UTC)
    read = warehouse.read(BARS, before=bound)
    assert len(read) == 8
    assert read["available_at"].max() < bound
    assert len(warehouse.read(BARS, before=bound, partitions=["2016-01", "2016-02"])) == 8
    offset = bound.astimezone(datetime.strptime("+0900", "%z").tzinfo)
    assert len(warehouse.read(BARS, before=offset, end=offset)) == 8


@pytest.mark.parametrize(
    "asked",
    [
        {"end": datetime(2016, 2, 2, 21, 0, 0, 1, tzinfo=UTC)},
        {"start": datetime(2016, 2, 2, 21, tzinfo=UTC)},
        {"partitions": ["2016-01", "2016-03"]},
        {"partitions": ["2017"]},
    ],
)
def test_asking_for_later_rows_is_refused(warehouse: Warehouse, asked: dict) -> None:
    with pytest.raises(FutureReadError, match=r"rows of 201[67]-.* before 2016-02-02T21:00:00\+00:00"):
        warehouse.read(BARS, before=datetime(2016, 2, 2, 21, tzinfo=UTC), **asked)


def test_partition_beginning_at_the_bound_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(FutureReadError, match="partition '2016-03'"):
        warehouse.read(BARS, before=datetime(2016, 3, 1, tzinfo=UTC), partitions=["2016-03"])


def test_several_tables_are_one_snapshot(warehouse: Warehouse) -> None:
    first = warehouse.replace(BARS, {"2016-01": bars("2016-01")})
    with warehouse.transaction() as transaction:
        transaction.replace(BARS, {"2016-01": bars("2016-01", 1), "2016-02": bars("2016-02")})
        transaction.append(LEDGER, decisions(1, 2))
        transaction.append(GATE, pd.DataFrame({"step": [500], "verdict": ["wait"]}))
    commit = transaction.commit
    assert commit is not None
    assert commit.snapshot == first.snapshot + 1
    assert commit.rows == {"bars": 8, "ledger": 2, "gate_decisions": 1}
    assert warehouse.row_counts() == {"bars": 8, "gate_decisions": 1, "ledger": 2}
    assert warehouse.partitions(BARS) == {"2016-01": 2, "2016-02": 6}
    assert warehouse.partitions(BARS, snapshot=first.snapshot) == {"2016-01": 6}
    assert warehouse.partitions(BARS, snapshot=0) == {}


def test_empty_frame_empties_its_partition_only(warehouse: Warehouse) -> None:
    warehouse.replace(BARS, {month: bars(month) for month in ("2016-01", "2016-02")})
    warehouse.replace(BARS, {"2016-01": bars("2016-01").iloc[:0]})
    assert warehouse.partitions(BARS) == {"2016-02": 6}


def test_exception_in_the_block_writes_nothing(warehouse: Warehouse) -> None:
    before = warehouse.snapshot()
    with pytest.raises(ZeroDivisionError), warehouse.transaction() as transaction:
        transaction.append(LEDGER, decisions(1))
        _ = 1 / 0
    assert transaction.commit is None
    assert warehouse.snapshot() == before


def test_failure_inside_the_transaction_rolls_back_every_table(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = warehouse.replace(BARS, {"2016-01": bars("2016-01")})

    def full_disk(*_: object) -> int:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(Lake, "_append", full_disk)
        with warehouse.transaction() as transaction:
            transaction.replace(BARS, {"2016-01": bars("2016-01", 1)})
            transaction.append(LEDGER, decisions(1))
    assert warehouse.snapshot() == first.snapshot
    assert len(warehouse.read(BARS)) == 6
    assert warehouse.append(LEDGER, decisions(1)).rows == {"ledger": 1}


def test_unchanged_partitions_make_no_snapshot(warehouse: Warehouse) -> None:
    frames = {month: bars(month) for month in ("2016-01", "2016-02")}
    first = warehouse.replace(BARS, frames)
    again = warehouse.replace(BARS, {month: frame.iloc[::-1] for month, frame in frames.items()})
    assert again == first
    changed = warehouse.replace(BARS, {**frames, "2016-02": bars("2016-02", close=1.0)})
    assert changed.snapshot == first.snapshot + 1
    assert changed.data_versions["bars"]["2016-01"] == first.data_versions["bars"]["2016-01"]
    assert changed.data_versions["bars"]["2016-02"] != first.data_versions["bars"]["2016-02"]


@pytest.mark.parametrize("session", [True, False])
def test_append_keeps_what_is_stored(warehouse: Warehouse, session: bool) -> None:
    with warehouse.session() as lake:
        target = lake if session else warehouse
        assert target.append(LEDGER, decisions(5, 6)).rows == {"ledger": 2}
        snapshot = target.snapshot()
        assert target.append(LEDGER, decisions(5, 6, value=2.0)).rows == {"ledger": 0}
        assert target.snapshot() == snapshot
        # Later, overlapping, earlier, another ledger at the same instants: each key once.
        assert target.append(LEDGER, decisions(6, 7, value=3.0)).rows == {"ledger": 1}
        assert target.append(LEDGER, decisions(1, 7, value=4.0)).rows == {"ledger": 1}
        assert target.append(LEDGER, decisions(7, 8, ledger="shadow")).rows == {"ledger": 2}
        main = target.read(LEDGER, where={"ledger": "main"})
        assert main["value"].tolist() == [4.0, 1.0, 1.0, 3.0]
        assert target.duplicates(LEDGER).empty
        assert target.append(LEDGER, decisions()).rows == {"ledger": 0}


def test_append_sees_what_others_have_appended_since(warehouse: Warehouse) -> None:
    with warehouse.session() as mine, warehouse.session() as other:
        mine.append(LEDGER, decisions(1))
        other.append(LEDGER, decisions(3, value=2.0))
        assert mine.append(LEDGER, decisions(2, 3)).rows == {"ledger": 1}
        assert len(other.read(LEDGER)) == 3


def test_append_twice_in_one_transaction(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.append(LEDGER, decisions(1, 2))
        transaction.append(LEDGER, decisions(2, 3))
        transaction.append(GATE, pd.DataFrame({"step": [500], "verdict": ["wait"]}))
        transaction.append(GATE, pd.DataFrame({"step": [500, 1000], "verdict": ["promote", "wait"]}))
    assert transaction.commit is not None
    assert transaction.commit.rows == {"ledger": 3, "gate_decisions": 2}


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_content_version_follows_the_content_alone(order: list[int], row: int) -> None:
    frame = bars("2016-01")
    version = content_version(BARS, frame)
    assert content_version(BARS, frame.iloc[list(order)]) == version
    changes = {
        "close": 0.5,
        "note": "x",
        "weight": -1.0,
        "volume": 2**53,
        "session": pd.Timestamp("1999-01-01"),
    }
    for column, value in changes.items():
        other = frame.copy()
        other.loc[row, column] = value
        assert content_version(BARS, other) != version


def test_content_version_of_equal_values() -> None:
    frame = bars("2016-01").assign(close=[0.0, 1, 2, 3, 4, 5])
    assert content_version(BARS, frame.assign(close=[-0.0, 1, 2, 3, 4, 5])) == content_version(BARS, frame)
    null = np.array([np.nan], dtype="float32").view("uint32")
    odd = np.repeat((null | 1).view("float32"), 6)
    assert content_version(BARS, frame.assign(weight=odd)) == content_version(
        BARS, frame.assign(weight=np.float32("nan"))
    )


def test_old_snapshots_stay_readable(warehouse: Warehouse) -> None:
    first = warehouse.replace(BARS, {"2016-01": bars("2016-01")})
    warehouse.replace(BARS, {"2016-01": bars("2016-01", close=200.0)})
    pd.testing.assert_frame_equal(warehouse.read(BARS, snapshot=first.snapshot), bars("2016-01"))
    version = warehouse.data_version(BARS, "2016-01", snapshot=first.snapshot)
    assert version == first.data_versions["bars"]["2016-01"] != warehouse.data_version(BARS, "2016-01")
    with pytest.raises(SnapshotNotFoundError, match=f"snapshot 999 .* last one is {first.snapshot + 1}"):
        warehouse.read(BARS, snapshot=999)


def test_duplicates_are_shown(warehouse: Warehouse) -> None:
    warehouse.append(LEDGER, decisions(1, 2))
    with warehouse.session() as lake:
        lake._connection.execute(f"INSERT INTO {lake._name(LEDGER)} SELECT * FROM {lake._name(LEDGER)} LIMIT 1")
    found = warehouse.duplicates(LEDGER)
    assert found["available_at"].tolist() == [pd.Timestamp("2016-01-01", tz="UTC")]
    assert found["rows"].tolist() == [2]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (bars("2016-01").assign(close=-1.0), r"close: .*-1\.0 in row 0"),
        (bars("2016-01").drop(columns="count"), "count"),
        (bars("2016-01").assign(extra=1), "extra"),
        (pd.concat([bars("2016-01")] * 2, ignore_index=True), "refuses 12 rows"),
        (bars("2016-01").assign(close=np.nan), "close"),
        (bars("2016-01").assign(close="much"), "close"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(warehouse: Warehouse, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(InvalidRowsError, match=message) as refusal:
        warehouse.replace(BARS, {"2016-02": bars("2016-02"), "2016-01": frame})
    assert "table 'bars'" in str(refusal.value)
    assert warehouse.snapshot() == 0
    assert warehouse.row_counts() == {}


def test_rows_of_another_partition_are_refused(warehouse: Warehouse) -> None:
    with pytest.raises(ValueError, match=r"\['2016-02'\] were given for partition '2016-01'"):
        warehouse.replace(BARS, {"2016-01": bars("2016-02")})
    with pytest.raises(ValueError, match="no partition_by"):
        warehouse.replace(LEDGER, {"2016-01": decisions(1)})


def test_coercible_rows_are_coerced(warehouse: Warehouse) -> None:
    frame = pd.DataFrame({"step": ["500"], "verdict": ["wait"]})
    assert conforming_rows(GATE, frame)["step"].to_pylist() == [500]
    warehouse.append(GATE, frame)
    assert warehouse.read(GATE)["step"].tolist() == [500]


def test_changed_declaration_is_noticed(warehouse: Warehouse) -> None:
    warehouse.append(GATE, pd.DataFrame({"step": [500], "verdict": ["wait"]}))
    changed = Table("gate_decisions", "verdicts", (*GATE.columns, Column("why", "string", "reason")), key=("step",))
    with pytest.raises(TableMismatchError, match=r"\['why'\]: rename or drop"):
        warehouse.read(changed)
    with pytest.raises(TableMismatchError):
        warehouse.append(changed, pd.DataFrame({"step": [1], "verdict": ["wait"], "why": ["x"]}))


def test_home_can_be_moved(warehouse: Warehouse, tmp_path: Path) -> None:
    long = bars("2016-01", ducklake.INLINED_ROWS)
    warehouse.replace(BARS, {"2016-01": long})
    Path(warehouse.home).rename(tmp_path / "moved")
    moved = Warehouse(home=str(tmp_path / "moved"))
    assert len(moved.read(BARS)) == len(long)
    moved.replace(BARS, {"2016-02": bars("2016-02")})
    assert moved.partitions(BARS) == {"2016-01": len(long), "2016-02": 6}


# Locks and retries


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


# Maintenance


def test_compaction_keeps_the_named_snapshots(warehouse: Warehouse) -> None:
    contents: dict[int, pd.DataFrame] = {}
    long = bars("2016-01", ducklake.INLINED_ROWS)
    with warehouse.session() as lake:
        for day in range(1, 7):
            with lake.transaction() as transaction:
                transaction.append(LEDGER, decisions(day))
                transaction.replace(BARS, {"2016-01": long.assign(close=float(day)), "2016-02": bars("2016-02", day)})
            assert transaction.commit is not None
            contents[transaction.commit.snapshot] = lake.read(BARS)
        keep = sorted(contents)[1:3]
        done = lake.compact(keep, older_than=timedelta(0))
        assert done.rows_flushed == 6 + sum(2 * day for day in range(1, 7))
        for number, content in contents.items():
            if number in keep:
                pd.testing.assert_frame_equal(lake.read(BARS, snapshot=number), content)
                assert len(lake.read(LEDGER, snapshot=number)) == sorted(contents).index(number) + 1
            else:
                with pytest.raises(SnapshotNotFoundError):
                    lake.read(BARS, snapshot=number)
        pd.testing.assert_frame_equal(lake.read(BARS), contents[max(contents)])
        assert lake.append(LEDGER, decisions(6, 7)).rows == {"ledger": 1}
        assert lake.compact(keep).snapshots_expired == 0
    assert warehouse.duplicates(LEDGER).empty


def test_compaction_deletes_files_that_a_killed_writer_left(warehouse: Warehouse) -> None:
    commit = warehouse.replace(BARS, {"2016-01": bars("2016-01", ducklake.INLINED_ROWS)})
    written = next((Path(warehouse.home) / "lake" / "data").rglob("*.parquet"))
    orphan, fresh = written.with_name("orphan.parquet"), written.with_name("fresh.parquet")
    for path in (orphan, fresh):
        path.write_bytes(written.read_bytes())
    os.utime(orphan, (0, 0))
    assert warehouse.compact().files_deleted == 1
    assert not orphan.exists()
    assert fresh.exists()
    assert warehouse.snapshot() == commit.snapshot
    assert len(warehouse.read(BARS)) == 2 * ducklake.INLINED_ROWS


class TestTimeTravelUnderMaintenance:
    """Whatever is written and compacted in whatever order, every living snapshot reads as it was."""

    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.sampled_from(["replace", "replace_long", "append", "compact"]), min_size=5, max_size=9))
    def test_random_histories(self, tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
        warehouse = Warehouse(home=str(tmp_path_factory.mktemp("lake")))
        history: dict[int, tuple[pd.DataFrame, pd.DataFrame]] = {}
        with mock.patch.object(ducklake, "INLINED_ROWS", 8), warehouse.session() as lake:
            for number, step in enumerate([*steps, "compact"]):
                month = f"2016-0{number % 2 + 1}"
                if step == "append":
                    lake.append(LEDGER, decisions(number + 1))
                elif step == "compact":
                    keep = list(history)[::2]
                    lake.compact(keep, older_than=timedelta(0))
                    history = {snapshot: history[snapshot] for snapshot in keep}
                    for snapshot, (all_bars, ledger) in history.items():
                        pd.testing.assert_frame_equal(lake.read(BARS, snapshot=snapshot), all_bars)
                        pd.testing.assert_frame_equal(lake.read(LEDGER, snapshot=snapshot), ledger)
                else:
                    lake.replace(BARS, {month: bars(month, 2 if step == "replace" else 8, close=float(number))})
                history[lake.snapshot()] = (lake.read(BARS), lake.read(LEDGER))


def test_last_changes_name_the_snapshot_of_each_table(warehouse: Warehouse) -> None:
    first = warehouse.replace(BARS, {"2020-01": bars("2020-01")})
    second = warehouse.append(LEDGER, decisions(1))
    with warehouse.session() as lake:
        assert lake.last_changes() == {BARS.name: first.snapshot, LEDGER.name: second.snapshot}
    third = warehouse.replace(BARS, {"2020-01": bars("2020-01", close=101.0)})
    with warehouse.session() as lake:
        assert lake.last_changes() == {BARS.name: third.snapshot, LEDGER.name: second.snapshot}

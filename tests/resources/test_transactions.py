"""Writes: several tables in one snapshot, replacements that change nothing, idempotent appends."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

import duckdb
import pandas as pd
import pytest

from resources import ducklake
from resources.lake import Lake
from resources.rows import content_version
from resources.transaction import Commit, Transaction
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, GATE, LEDGER, bars, decisions


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


def test_rows_of_another_partition_are_refused(warehouse: Warehouse) -> None:
    with pytest.raises(ValueError, match=r"\['2016-02'\] were given for partition '2016-01'"):
        warehouse.replace(BARS, {"2016-01": bars("2016-02")})
    with pytest.raises(ValueError, match="no partition_by"):
        warehouse.replace(LEDGER, {"2016-01": decisions(1)})


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


LONG = ducklake.INLINED_ROWS
"""Sessions of two symbols: more rows than go into the catalog."""


def parquet(warehouse: Warehouse) -> set[Path]:
    return set((Path(warehouse.home) / "lake").rglob("*.parquet"))


def test_partitions_are_written_one_by_one(warehouse: Warehouse) -> None:
    months = [f"2016-{month:02d}" for month in range(1, 5)]
    on_disk: list[int] = []

    def made() -> Iterator[tuple[str, pd.DataFrame]]:
        for month in months:
            on_disk.append(len(parquet(warehouse)))
            yield month, bars(month, LONG)

    commit = warehouse.replace(BARS, made())
    assert on_disk == [0, 1, 2, 3]
    assert commit.snapshot == 1
    assert warehouse.partitions(BARS) == dict.fromkeys(months, 2 * LONG)
    assert not list((Path(warehouse.home) / "lake" / "staging").iterdir())


def test_exception_while_partitions_are_made_leaves_nothing(warehouse: Warehouse) -> None:
    def made() -> Iterator[tuple[str, pd.DataFrame]]:
        yield "2016-01", bars("2016-01", LONG)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        warehouse.replace(BARS, made())
    assert warehouse.row_counts() == {} and not parquet(warehouse)


@pytest.mark.parametrize("name", ["it's 100% a/b=ü", "..", "2016"])
def test_any_name_is_a_partition(warehouse: Warehouse, name: str) -> None:
    rows = bars("2016-01", LONG).assign(month=pd.Series([name] * 2 * LONG, dtype="str"))
    warehouse.replace(BARS, {name: rows, "2016-01": bars("2016-01", LONG)})
    pd.testing.assert_frame_equal(warehouse.read(BARS, partitions=[name]), rows)
    warehouse.replace(BARS, {name: rows.iloc[:0]})
    assert warehouse.partitions(BARS) == {"2016-01": 2 * LONG}
    lake = Path(warehouse.home) / "lake"
    assert all(path.is_relative_to(lake / "data" / "main" / "bars") for path in parquet(warehouse))


def test_busy_catalog_does_not_lose_staged_files(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    attempts: list[int] = []
    write = Lake._write

    def busy_at_first(self: Lake, transaction: Transaction) -> Commit:
        with monkeypatch.context() as patch:
            if not attempts:
                patch.setattr(Lake, "_append", mock.Mock(side_effect=duckdb.IOException("database is locked")))
            attempts.append(1)
            return write(self, transaction)

    monkeypatch.setattr(Lake, "_write", busy_at_first)
    with warehouse.transaction() as transaction:
        transaction.replace(BARS, {"2016-01": bars("2016-01", LONG)})
        transaction.append(LEDGER, decisions(1))
    assert len(attempts) == 2 and transaction.commit is not None and transaction.commit.snapshot == 1
    pd.testing.assert_frame_equal(warehouse.read(BARS), bars("2016-01", LONG))


def test_version_of_a_large_partition_is_known_without_reading_it(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = bars("2016-01", LONG)
    first = warehouse.replace(BARS, {"2016-01": frame})
    assert first.data_versions["bars"]["2016-01"] == content_version(BARS, warehouse.read(BARS))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_select", mock.Mock(side_effect=AssertionError("rows were read")))
        assert warehouse.replace(BARS, {"2016-01": frame.iloc[::-1]}) == first
        assert warehouse.data_version(BARS, "2016-01", first.snapshot) == first.data_versions["bars"]["2016-01"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {lake}.bars SET close = 1.5 WHERE count = 7",
        "DELETE FROM {lake}.bars WHERE count = 7",
        "INSERT INTO {lake}.bars SELECT * REPLACE ('C' AS symbol) FROM {lake}.bars LIMIT 1",
    ],
)
@pytest.mark.parametrize("compacted", [False, True])
def test_what_others_changed_is_noticed(warehouse: Warehouse, statement: str, compacted: bool) -> None:
    frames = {"2016-01": bars("2016-01", LONG), "2016-02": bars("2016-02", LONG)}
    first = warehouse.replace(BARS, frames)
    with warehouse.session() as lake:
        lake._connection.execute(statement.format(lake=f"{lake._alias}.main"))
        if compacted:
            lake.compact(older_than=timedelta(0))
    assert warehouse.data_version(BARS, "2016-01") != first.data_versions["bars"]["2016-01"]
    again = warehouse.replace(BARS, frames)
    assert again.snapshot > first.snapshot and again.data_versions == first.data_versions
    pd.testing.assert_frame_equal(
        warehouse.read(BARS), pd.concat(frames.values()).sort_values(list(BARS.key), ignore_index=True)
    )
    assert warehouse.replace(BARS, frames).snapshot == again.snapshot


def test_a_file_is_on_disk_before_the_catalog_names_it(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(Path(f"/proc/self/fd/{file}").readlink()), fsync(file))
    )
    monkeypatch.setattr(Lake, "_insert", mock.Mock(side_effect=AssertionError("not through the engine")))
    warehouse.replace(BARS, {"2016-01": bars("2016-01", LONG)})
    (written,) = parquet(warehouse)
    # The file, then its folder's entry for it, and the table's for the folder.
    assert [path.name for path in synced[:1]] == [written.name.rpartition("-")[2]]
    assert {path.name for path in synced[1:]} == {"month=2016-01", "bars"}

"""Reading the lake: round trips, filters, time bounds, time travel, tables of any size."""

from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.table import Column, Table
from resources import ducklake, query
from resources.query import FutureReadError
from resources.reading import SnapshotNotFoundError, TableMismatchError
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, GATE, LEDGER, bars, decisions


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


def test_old_snapshots_stay_readable(warehouse: Warehouse) -> None:
    first = warehouse.replace(BARS, {"2016-01": bars("2016-01")})
    warehouse.replace(BARS, {"2016-01": bars("2016-01", close=200.0)})
    pd.testing.assert_frame_equal(warehouse.read(BARS, snapshot=first.snapshot), bars("2016-01"))
    version = warehouse.data_version(BARS, "2016-01", snapshot=first.snapshot)
    assert version == first.data_versions["bars"]["2016-01"] != warehouse.data_version(BARS, "2016-01")
    with pytest.raises(SnapshotNotFoundError, match=f"snapshot 999 .* last one is {first.snapshot + 1}"):
        warehouse.read(BARS, snapshot=999)


def test_changed_declaration_is_noticed(warehouse: Warehouse) -> None:
    warehouse.append(GATE, pd.DataFrame({"step": [500], "verdict": ["wait"]}))
    changed = Table("gate_decisions", "verdicts", (*GATE.columns, Column("why", "string", "reason")), key=("step",))
    with pytest.raises(TableMismatchError, match=r"\['why'\]: rename or drop"):
        warehouse.read(changed)
    with pytest.raises(TableMismatchError):
        warehouse.append(changed, pd.DataFrame({"step": [1], "verdict": ["wait"], "why": ["x"]}))


def test_last_changes_name_the_snapshot_of_each_table(warehouse: Warehouse) -> None:
    first = warehouse.replace(BARS, {"2020-01": bars("2020-01")})
    second = warehouse.append(LEDGER, decisions(1))
    with warehouse.session() as lake:
        assert lake.last_changes() == {BARS.name: first.snapshot, LEDGER.name: second.snapshot}
    third = warehouse.replace(BARS, {"2020-01": bars("2020-01", close=101.0)})
    with warehouse.session() as lake:
        assert lake.last_changes() == {BARS.name: third.snapshot, LEDGER.name: second.snapshot}


LONG = ducklake.INLINED_ROWS


def test_scan_gives_a_frame_a_partition(warehouse: Warehouse) -> None:
    months = {"2016-03": bars("2016-03"), "2016-01": bars("2016-01", LONG), "2016-02": bars("2016-02")}
    warehouse.replace(BARS, months)
    for at_once in (1, 10, 10**6):
        with mock.patch.object(query, "ROWS_AT_ONCE", at_once):
            frames = list(warehouse.scan(BARS))
        assert len(frames) == 3
        for frame, month in zip(frames, sorted(months), strict=True):
            pd.testing.assert_frame_equal(frame, months[month])
    (only,) = warehouse.scan(BARS, columns=["close"], where={"symbol": "A", "count": LONG - 1})
    assert only.columns.tolist() == ["close"] and len(only) == 1
    assert list(warehouse.scan(BARS, where={"symbol": "C"})) == []
    with pytest.raises(ValueError, match="has no partitions"):
        list(warehouse.scan(LEDGER))


def test_scan_leaves_the_future_out(warehouse: Warehouse) -> None:
    warehouse.replace(BARS, {month: bars(month) for month in ("2016-01", "2016-02", "2016-03")})
    bound = datetime(2016, 2, 2, 21, tzinfo=UTC)
    frames = list(warehouse.scan(BARS, before=bound))
    assert [len(frame) for frame in frames] == [6, 2]
    assert frames[-1]["available_at"].max() < bound


def test_scan_is_of_one_snapshot(warehouse: Warehouse) -> None:
    written = {month: bars(month, LONG) for month in ("2016-01", "2016-02")}
    with warehouse.session() as lake, mock.patch.object(query, "ROWS_AT_ONCE", 1):
        lake.replace(BARS, written)
        frames = lake.scan(BARS)
        pd.testing.assert_frame_equal(next(frames), written["2016-01"])
        warehouse.replace(BARS, {"2016-02": bars("2016-02", LONG, close=7.0), "2016-03": bars("2016-03")})
        pd.testing.assert_frame_equal(next(frames), written["2016-02"])
        assert list(frames) == []

"""Maintenance: compaction, expiry, files that killed writers left, time travel through all of it."""

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources import ducklake, query
from resources import lake as lake_module
from resources.reading import SnapshotNotFoundError
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, LEDGER, bars, decisions


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


def test_compaction_leaves_readers_their_files(warehouse: Warehouse) -> None:
    months = ("2016-01", "2016-02")
    parts = {
        (month, close): bars(month, ducklake.INLINED_ROWS, close=close) for month in months for close in (1.0, 2.0)
    }
    for (_, close), part in parts.items():
        warehouse.append(BARS, part.assign(symbol=part["symbol"] + str(close)))
    with mock.patch.object(query, "ROWS_AT_ONCE", 1), warehouse.session() as lake:
        before = lake.read(BARS)
        frames = lake.scan(BARS)
        first = next(frames)
        done = warehouse.compact()
        assert (done.files_merged, done.files_deleted) == (4, 0)
        read = pd.concat([first, *frames]).sort_values(list(BARS.key), ignore_index=True)
    pd.testing.assert_frame_equal(read, before)
    pd.testing.assert_frame_equal(warehouse.read(BARS), before)
    # What nobody can be reading any more goes.
    with mock.patch.object(lake_module, "datetime", wraps=datetime) as clock:
        clock.now.side_effect = lambda zone: datetime.now(zone) + timedelta(days=2)
        assert warehouse.compact().files_deleted == 4
    pd.testing.assert_frame_equal(warehouse.read(BARS), before)


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


def test_compaction_deletes_what_a_killed_writer_had_staged(warehouse: Warehouse) -> None:
    with warehouse.transaction() as living:
        living.replace(BARS, {"2016-01": bars("2016-01", ducklake.INLINED_ROWS)})
        script = (
            "import os, signal, sys\n"
            "from resources.warehouse import Warehouse\n"
            "from tests.resources.tables import BARS, bars\n"
            "with Warehouse(home=sys.argv[1]).transaction() as transaction:\n"
            "    transaction.replace(BARS, {'2016-01': bars('2016-01', 1000, close=9.0)})\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", script, warehouse.home], cwd=Path(__file__).parents[2], check=False)
        staging = Path(warehouse.home) / "lake" / "staging"
        assert len(list(staging.glob("*/*.parquet"))) == 2
        assert warehouse.compact().files_deleted == 1
        assert len(list(staging.glob("*/*.parquet"))) == 1
    pd.testing.assert_frame_equal(warehouse.read(BARS), bars("2016-01", ducklake.INLINED_ROWS))
    assert not list(staging.iterdir())


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

"""The warehouse under several processes: writers beside readers, and writers that are killed."""

import selectors
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from atlas_pipeline.market.table import Column, Table
from resources.warehouse import Warehouse

ROOT = Path(__file__).resolve().parents[2]
ROWS = Table(
    "rows",
    "all rows of a commit have one value",
    (Column("part", "string", "partition"), Column("row", "int64", "row"), Column("value", "int64", "value")),
    key=("part", "row"),
    partition_by="part",
)
COMMITS = Table("commits", "one row a commit", (Column("value", "int64", "value"),), key=("value",))

DECLARATIONS = f"""
import os, signal, sys
import pandas as pd
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_warehouse_processes import COMMITS, ROWS, content
from resources import ducklake, lake
from resources.ducklake import Catalog
from resources.lake import Lake
ducklake.INLINED_ROWS = 10
catalog = Catalog(__import__("pathlib").Path(sys.argv[1]) / "lake", 60.0)
"""

WRITER = (
    DECLARATIONS
    + """
first = int(sys.argv[2])
with catalog.attach() as attached:
    for value in range(first, first + 6):
        part = f"p{value % 3}"
        Lake(catalog, *attached).replace(ROWS, {part: content(part, value, 4 + value % 2 * 20)})
        Lake(catalog, *attached).append(COMMITS, pd.DataFrame({"value": [value]}))
"""
)

READER = (
    DECLARATIONS
    + """
reads = 0
with catalog.attach() as attached:
    while reads < 15:
        for _, rows in Lake(catalog, *attached).read(ROWS).groupby("part"):
            assert rows["value"].nunique() == 1, rows
            assert len(rows) == 4 + rows["value"].iloc[0] % 2 * 20, rows
        reads += 1
"""
)

# Kills itself where it is told to, or says when it commits and goes on until it is killed.
VICTIM = (
    DECLARATIONS
    + """
value, instant = int(sys.argv[2]), sys.argv[3]

class Watched:
    def __init__(self, connection):
        self.connection = connection

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def execute(self, statement, *values):
        if statement == "COMMIT":
            print("commits", flush=True)
        result = self.connection.execute(statement, *values)
        if instant != "none" and statement.startswith(instant):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

with catalog.attach() as (connection, alias):
    lake = Lake(catalog, Watched(connection), alias)
    while True:
        with lake.transaction() as transaction:
            for part, rows in (("inlined", 5), ("parquet", 50)):
                transaction.replace(ROWS, {part: content(part, value, rows)})
            transaction.append(COMMITS, pd.DataFrame({"value": [value]}))
        value += 1
"""
)


def content(part: str, value: int, rows: int) -> pd.DataFrame:
    return pd.DataFrame({"part": pd.Series([part] * rows, dtype="str"), "row": range(rows), "value": value})


def start(script: str, home: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(home), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_writers_beside_readers(tmp_path: Path) -> None:
    processes = [start(WRITER, tmp_path, 100), start(WRITER, tmp_path, 200), start(READER, tmp_path)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    warehouse = Warehouse(home=str(tmp_path))
    assert warehouse.row_counts()["commits"] == 12
    for table in (ROWS, COMMITS):
        assert warehouse.duplicates(table).empty
    assert set(warehouse.partitions(ROWS)) == {"p0", "p1", "p2"}
    assert set(warehouse.read(ROWS)["value"]) <= {*range(100, 106), *range(200, 206)}


def _assert_whole_and_writable(warehouse: Warehouse) -> int:
    rows, commits = warehouse.read(ROWS), warehouse.read(COMMITS)
    assert warehouse.partitions(ROWS) == {"inlined": 5, "parquet": 50}
    assert rows["value"].nunique() == 1
    last = int(commits["value"].iloc[-1])
    # Both partitions and the other table are of the same commit, and no commit is missing before it.
    assert rows["value"].iloc[0] == last
    assert commits["value"].tolist() == list(range(last + 1))
    with warehouse.transaction() as transaction:
        transaction.replace(
            ROWS, {"inlined": content("inlined", last + 1, 5), "parquet": content("parquet", last + 1, 50)}
        )
        transaction.append(COMMITS, pd.DataFrame({"value": [last + 1]}))
    return last + 1


def test_killed_writers_leave_whole_tables(tmp_path: Path) -> None:
    warehouse = Warehouse(home=str(tmp_path), lock_timeout=10.0)
    with warehouse.transaction() as transaction:
        transaction.replace(ROWS, {"inlined": content("inlined", 0, 5), "parquet": content("parquet", 0, 50)})
        transaction.append(COMMITS, pd.DataFrame({"value": [0]}))
    last = 0
    for instant, committed in (("BEGIN", 0), ("DELETE", 0), ("INSERT", 0), ("CALL", 0), ("COMMIT", 1)):
        victim = start(VICTIM, tmp_path, last + 1, instant)
        _, errors = victim.communicate()
        assert victim.returncode == -9, errors
        after = _assert_whole_and_writable(warehouse)
        assert after == last + committed + 1
        last = after
    for delay in (0.0, 0.004, 0.012):
        victim = start(VICTIM, tmp_path, last + 1, "none")
        assert victim.stdout is not None
        assert victim.stdout.readline() == "commits\n"
        # Somewhere in or soon after the commit: until the next one begins, or this long.
        with selectors.DefaultSelector() as selector:
            selector.register(victim.stdout, selectors.EVENT_READ)
            selector.select(timeout=delay)
        victim.kill()
        victim.communicate()
        last = _assert_whole_and_writable(warehouse)
    assert warehouse.compact().rows_flushed > 0
    assert warehouse.partitions(ROWS) == {"inlined": 5, "parquet": 50}


@pytest.mark.parametrize("instant", ["before", "after"])
def test_kill_while_the_catalog_is_made(tmp_path: Path, instant: str) -> None:
    script = DECLARATIONS + (
        """
from pathlib import Path
rename = Path.rename
def killed(self, target):
    if sys.argv[2] == "after":
        rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = killed
with catalog.attach():
    pass
"""
    )
    victim = start(script, tmp_path, instant)
    _, errors = victim.communicate()
    assert victim.returncode == -9, errors
    assert Warehouse(home=str(tmp_path), lock_timeout=10.0).append(COMMITS, pd.DataFrame({"value": [1]})).rows == {
        "commits": 1
    }

"""The ``warehouse`` resource. What tables there are is declared in the rooms whose rows they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from atlas_pipeline.market.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from resources.lake import Compaction, Lake
    from resources.transaction import Commit, Transaction


class Warehouse(dg.ConfigurableResource):
    """All tables, in a DuckLake: Parquet files under a SQLite catalog, every commit a numbered snapshot.

    Readers never wait and see one whole snapshot. Writers, in whatever process, take turns through a file
    lock; a killed one leaves nothing half-written. Any DuckDB client of the same version may look in, also
    while runs write: ``ATTACH 'ducklake:sqlite:<home>/lake/catalog.sqlite' AS lake (READ_ONLY)``.
    """

    home: str = Field(
        description="Folder that keeps all state ($ATLAS_HOME); the tables are under its `lake/`: "
        "`catalog.sqlite`, `data/` and `write.lock`."
    )
    lock_timeout: float = Field(
        default=120.0,
        gt=0,
        description="Seconds a write waits for other writers before it fails, naming the lock.",
    )

    @contextmanager
    def session(self) -> Iterator[Lake]:
        """Keep one connection open for many reads and writes: opening takes 25 ms, as much as a small append.

        No lock is held but while a transaction is being written. The session belongs to one thread.
        """
        from resources.ducklake import Catalog
        from resources.lake import Lake

        catalog = Catalog(Path(self.home).expanduser().resolve() / "lake", self.lock_timeout)
        with catalog.attach() as (connection, alias):
            yield Lake(catalog, connection, alias)

    def read(
        self,
        table: Table,
        *,
        columns: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        before: datetime | None = None,
        snapshot: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Read rows, sorted by key and typed, none at or after ``before``; see ``LakeReader.read``."""
        with self.session() as lake:
            return lake.read(
                table,
                columns=columns,
                partitions=partitions,
                start=start,
                end=end,
                before=before,
                snapshot=snapshot,
                where=where,
            )

    def scan(
        self,
        table: Table,
        *,
        columns: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        before: datetime | None = None,
        snapshot: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Read a table of any size in one snapshot, a frame a partition; see ``LakeReader.scan``."""
        with self.session() as lake:
            yield from lake.scan(
                table, columns=columns, start=start, end=end, before=before, snapshot=snapshot, where=where
            )

    def counts(
        self,
        table: Table,
        by: Sequence[str],
        *,
        partitions: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        before: datetime | None = None,
        snapshot: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Count rows by columns, with their first and last time; see ``LakeInspector.counts``."""
        with self.session() as lake:
            return lake.counts(
                table,
                by,
                partitions=partitions,
                start=start,
                end=end,
                before=before,
                snapshot=snapshot,
                where=where,
            )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Collect writes to several tables, one snapshot when the block ends; see ``Transaction``."""
        with self.session() as lake, lake.transaction() as transaction:
            yield transaction

    def replace(self, table: Table, frames: Mapping[str, pd.DataFrame] | Iterable[tuple[str, pd.DataFrame]]) -> Commit:
        """Replace the named partitions in one transaction; see ``Transaction.replace``."""
        with self.session() as lake:
            return lake.replace(table, frames)

    def append(self, table: Table, frame: pd.DataFrame) -> Commit:
        """Append the rows whose key is not stored yet; see ``Transaction.append``."""
        with self.session() as lake:
            return lake.append(table, frame)

    def snapshot(self) -> int:
        """Return the number of the last snapshot of the whole lake."""
        with self.session() as lake:
            return lake.snapshot()

    def data_version(self, table: Table, partition: str | None = None, snapshot: int | None = None) -> str:
        """Return the content version of a table's rows, or of one partition's."""
        with self.session() as lake:
            return lake.data_version(table, partition, snapshot)

    def partitions(self, table: Table, snapshot: int | None = None) -> dict[str, int]:
        """Return the number of rows of each partition that has any."""
        with self.session() as lake:
            return lake.partitions(table, snapshot)

    def row_counts(self) -> dict[str, int]:
        """Return the number of rows of each table in the lake."""
        with self.session() as lake:
            return lake.row_counts()

    def row_count(self, table: Table) -> int:
        """Return the number of a table's rows; see ``LakeInspector.row_count``."""
        with self.session() as lake:
            return lake.row_count(table)

    def duplicates(self, table: Table) -> pd.DataFrame:
        """Return the keys that more than one row has, with their number of ``rows``."""
        with self.session() as lake:
            return lake.duplicates(table)

    def violations(self, table: Table) -> pd.DataFrame:
        """Judge a table's whole state by its declaration; see ``LakeInspector.violations``."""
        with self.session() as lake:
            return lake.violations(table)

    def compact(self, keep: Iterable[int] = (), older_than: timedelta = timedelta(days=7)) -> Compaction:
        """Merge small files and expire old snapshots, but those to ``keep``; see ``Lake.compact``."""
        with self.session() as lake:
            return lake.compact(keep, older_than)

"""Reading the lake through one open connection: bounded in time, in any snapshot, with the declared types.

Nothing is written here; that is ``lake``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow
import pyarrow.compute

from atlas_pipeline.market.table import Column, Table
from resources.ducklake import Catalog, retry_when_locked
from resources.query import at_snapshot, batches, begins, chosen_columns, conditions_of, undeclared, where_all
from resources.rows import (
    content_version,
    empty,
    framed,
    in_key_order,
    instant,
    quoted,
    selection,
    version_of_nothing,
)
from resources.staging import version_in_name

# What DuckLake calls the changes of a snapshot that touch rows.
_ROW_CHANGES = ("tables_inserted_into", "tables_deleted_from", "inlined_insert", "inlined_delete")


class TableMismatchError(RuntimeError):
    """The stored table has other columns than its declaration."""


class SnapshotNotFoundError(LookupError):
    """The snapshot does not exist, or has expired."""


class LakeReader:
    """Tables under one catalog, read through one connection; not to be shared between threads."""

    def __init__(self, catalog: Catalog, connection: duckdb.DuckDBPyConnection, alias: str) -> None:
        self._catalog = catalog
        self._connection = connection
        self._alias = alias

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
        """Read rows in declared column order and dtypes, sorted by the key; a table not written yet is empty.

        Parameters
        ----------
        table
            The declaration.
        columns
            Names of the columns wanted, all by default.
        partitions
            Partitions wanted, all by default.
        start, end
            Aware instants: ``start <= time < end``.
        before
            Aware instant of knowledge: no row whose time is at or after it is ever returned.
        snapshot
            Read the table as it was in this snapshot.
        where
            Column to the value, or list of values, it must have.

        Raises
        ------
        FutureReadError
            Where ``start``, ``end`` or a partition asks for rows at or after ``before``.
        SnapshotNotFoundError
            Where there is no such snapshot.
        TableMismatchError
            Where the stored table has other columns than the declaration.
        ValueError
            Where a column is unknown or an instant has no time zone.
        """
        chosen = chosen_columns(table, columns)
        conditions, values = conditions_of(table, partitions, start, end, before, where)
        # A partition's file is in the key's order already, most often: to see that is cheaper than to sort.
        apart = partitions is not None and len(partitions) == 1 and set(table.key) <= {one.name for one in chosen}
        rows = retry_when_locked(lambda: self._select(table, chosen, conditions, values, snapshot, sort=not apart))
        if rows is None:
            return empty(chosen)
        return framed(in_key_order(table, rows) if apart else rows, chosen)

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
        """Read a table of any size, one frame a partition, in ascending order; a partition without rows gives none.

        All frames are of one snapshot, the last one where none is named, whatever is written meanwhile. A partition
        that begins at or after ``before`` is left out. See ``read`` for the parameters and errors.
        """
        pinned = self.snapshot() if snapshot is None else snapshot
        bound = None if before is None else instant(before, "before")
        counts = {
            name: rows
            for name, rows in self.partitions(table, pinned).items()
            if bound is None or (first := begins(name)) is None or first < bound
        }
        chosen = chosen_columns(table, columns)
        needed = chosen_columns(table, {column.name for column in chosen} | {*table.key, str(table.partition_by)})
        for batch in batches(counts):
            conditions, values = conditions_of(table, batch, start, end, before, where)
            rows = retry_when_locked(
                functools.partial(self._select, table, needed, conditions, values, pinned, sort=False)
            )
            assert rows is not None, "a table that has partitions exists"
            for partition in batch:
                own = rows.filter(pyarrow.compute.equal(rows[table.partition_by], partition))
                if len(own):
                    yield framed(in_key_order(table, own).select([column.name for column in chosen]), chosen)

    def snapshot(self) -> int:
        """Return the number of the last snapshot of the whole lake."""
        return retry_when_locked(self._last_snapshot)

    def data_version(self, table: Table, partition: str | None = None, snapshot: int | None = None) -> str:
        """Return the content version of a table's rows, or of one partition's."""
        if partition is not None:
            return self.data_versions(table, [partition], snapshot)[partition]
        return content_version(table, self.read(table, snapshot=snapshot))

    def data_versions(self, table: Table, partitions: Sequence[str], snapshot: int | None = None) -> dict[str, str]:
        """Return the content versions of several partitions."""

        def versions() -> dict[str, str]:
            files = self._files(table, partitions, snapshot)
            return self._versions_of_files(table, {name: files.get(name, []) for name in partitions}, snapshot)

        return retry_when_locked(versions)

    def _files(self, table: Table, partitions: Sequence[str], snapshot: int | None) -> dict[str, list[tuple[str, int]]]:
        """By partition that has any rows, the files they are in (a catalog's table where inlined) and their numbers."""
        if not self._exists(table, snapshot):
            return {}
        conditions, values = conditions_of(table, partitions, None, None, None, None)
        selected = f"SELECT {quoted(str(table.partition_by))}, filename, count(*) FROM {self._name(table)}"
        files: dict[str, list[tuple[str, int]]] = {}
        for name, file, rows in self._rows(
            f"{selected}{at_snapshot(snapshot)} WHERE {conditions[0]} GROUP BY ALL", values
        ):
            files.setdefault(str(name), []).append((file, rows))
        return files

    def _versions_of_files(
        self, table: Table, files: Mapping[str, list[tuple[str, int]]], snapshot: int | None
    ) -> dict[str, str]:
        """Read content versions off the names of the files, or off their rows where the names do not tell."""
        versions = {name: version_of_nothing(table) for name, own in files.items() if not own}
        versions |= {
            name: told
            for name, own in files.items()
            if len(own) == 1 and (told := version_in_name(*own[0])) is not None
        }
        untold = {name: sum(rows for _, rows in own) for name, own in files.items() if name not in versions}
        for batch in batches(untold):
            conditions, values = conditions_of(table, batch, None, None, None, None)
            rows = self._select(table, list(table.columns), conditions, values, snapshot, sort=False)
            parts = framed(rows, list(table.columns)).groupby(table.partition_by, sort=False)
            versions |= {str(name): content_version(table, part) for name, part in parts}
        return versions

    def partitions(self, table: Table, snapshot: int | None = None) -> dict[str, int]:
        """Return the number of rows of each partition that has any, sorted by partition."""
        column = table.partition_by
        if column is None:
            raise ValueError(f"table {table.name!r} has no partitions")
        if not self._exists(table, snapshot):
            return {}
        source = self._name(table) + at_snapshot(snapshot)
        statement = f"SELECT {quoted(column)}, count(*) FROM {source} GROUP BY 1 ORDER BY 1"
        return {str(name): rows for name, rows in self._rows(statement)}

    def row_counts(self) -> dict[str, int]:
        """Return the number of rows of each table in the lake, sorted by name."""
        names = self._rows(f"SELECT table_name FROM duckdb_tables() WHERE database_name = '{self._alias}' ORDER BY 1")
        return {name: self._rows(f"SELECT count(*) FROM {self._alias}.main.{quoted(name)}")[0][0] for (name,) in names}

    def last_changes(self) -> dict[str, int]:
        """Return the last snapshot that changed each table's rows, by table name."""
        names = {
            str(number): name
            for name, number in self._rows(f"SELECT table_name, table_id FROM ducklake_table_info('{self._alias}')")
        }
        last: dict[str, int] = {}
        for snapshot, changes in self._rows(
            f"SELECT snapshot_id, changes FROM ducklake_snapshots('{self._alias}') ORDER BY snapshot_id"
        ):
            for kind, tables in changes.items():
                if kind in _ROW_CHANGES:
                    last |= {names[table]: int(snapshot) for table in tables if table in names}
        return last

    def _select(
        self,
        table: Table,
        columns: list[Column],
        conditions: list[str],
        values: list[Any],
        snapshot: int | None,
        sort: bool,
    ) -> pyarrow.Table | None:
        if not self._exists(table, snapshot):
            return None
        ordered = f" ORDER BY {', '.join(map(quoted, table.key))}" if sort else ""
        source = f"{self._name(table)}{at_snapshot(snapshot)}"
        statement = f"SELECT {selection(columns)} FROM {source}{where_all(conditions)}{ordered}"
        return self._connection.execute(statement, values).to_arrow_table()

    def _last_snapshot(self) -> int:
        return int(self._value(f"SELECT id FROM ducklake_current_snapshot('{self._alias}')"))

    def _exists(self, table: Table, snapshot: int | None) -> bool:
        """Whether the table exists in the snapshot, with the declared columns."""
        stored = self._stored_types(table, snapshot)
        if stored is None:
            return False
        differing = undeclared(table, stored)
        if differing:
            raise TableMismatchError(
                f"table {table.name!r} in {self._catalog.folder} differs from its declaration in the columns "
                f"{sorted(differing)}: rename or drop the stored table, then materialize it again"
            )
        return True

    def _stored_types(self, table: Table, snapshot: int | None) -> dict[str, str] | None:
        """SQL types by column in the snapshot; None where it has no such table."""
        try:
            columns = self._rows(f"DESCRIBE SELECT * FROM {self._name(table)}{at_snapshot(snapshot)}")
        except duckdb.CatalogException:
            return None
        except duckdb.InvalidInputException as error:
            if snapshot is None or "No snapshot found" not in str(error):
                raise
            raise SnapshotNotFoundError(
                f"snapshot {snapshot} is not in {self._catalog.folder}: the last one is "
                f"{self._last_snapshot()}; expired ones are gone, unless compact() was told to keep them"
            ) from error
        return {name: kind for name, kind, *_ in columns}

    def _name(self, table: Table) -> str:
        return f"{self._alias}.main.{quoted(table.name)}"

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, list(values)).fetchall()

    def _value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._rows(statement, values)[0][0]

"""Reading the lake through one open connection: bounded in time, in any snapshot, with the declared types.

Nothing is written here; that is ``lake``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow

from atlas_pipeline.market.table import Column, Table
from resources.ducklake import Catalog, retry_when_locked
from resources.rows import (
    SQL_TYPE,
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

# Where all partitions are gone through, so many rows are in memory at a time: some hundred megabytes.
ROWS_AT_ONCE = 1_000_000
# What DuckLake calls the changes of a snapshot that touch rows.
_ROW_CHANGES = ("tables_inserted_into", "tables_deleted_from", "inlined_insert", "inlined_delete")


class FutureReadError(ValueError):
    """Rows were asked for that could not be known at the read's bound."""


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
        chosen = _chosen(table, columns)
        conditions, values = _conditions(table, partitions, start, end, before, where)
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
        for partition in self.partitions(table, pinned):
            begins = _begins(partition)
            if before is not None and begins is not None and begins >= instant(before, "before"):
                continue
            rows = self.read(
                table,
                columns=columns,
                partitions=[partition],
                start=start,
                end=end,
                before=before,
                snapshot=pinned,
                where=where,
            )
            if len(rows):
                yield rows

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
        """Count rows by columns without reading them out: ``by``, then ``rows`` (int64), sorted by ``by``.

        A table with a time has also ``first`` and ``last``, the times of a group's first and last row. See ``read``
        for the other parameters and errors.
        """
        chosen = [next(column for column in table.columns if column.name == name) for name in _known(table, by)]
        measured = [Column("rows", "int64", "rows of the group")]
        aggregates = ["count(*) AS rows"]
        if table.time is not None:
            measured += [Column("first", "timestamp", "time of the first"), Column("last", "timestamp", "of the last")]
            aggregates += [f"min({quoted(table.time)}) AS first", f"max({quoted(table.time)}) AS last"]
        conditions, values = _conditions(table, partitions, start, end, before, where)
        grouped = ", ".join(quoted(column.name) for column in chosen)

        def count() -> pd.DataFrame:
            if not self._exists(table, snapshot):
                return empty([*chosen, *measured])
            statement = (
                f"SELECT {selection(chosen)}, {', '.join(aggregates)} FROM {self._name(table)}{_version(snapshot)}"
                f"{_where(conditions)} GROUP BY {grouped} ORDER BY {grouped}"
            )
            return framed(self._connection.execute(statement, values).to_arrow_table(), [*chosen, *measured])

        return retry_when_locked(count)

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
        conditions, values = _conditions(table, partitions, None, None, None, None)
        selected = f"SELECT {quoted(str(table.partition_by))}, filename, count(*) FROM {self._name(table)}"
        files: dict[str, list[tuple[str, int]]] = {}
        for name, file, rows in self._rows(
            f"{selected}{_version(snapshot)} WHERE {conditions[0]} GROUP BY ALL", values
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
        for batch in _batches(untold):
            conditions, values = _conditions(table, batch, None, None, None, None)
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
        source = self._name(table) + _version(snapshot)
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

    def duplicates(self, table: Table) -> pd.DataFrame:
        """Return the keys that more than one row has, with their number of ``rows``."""
        columns = [*_chosen(table, table.key), Column("rows", "int64", "rows of this key")]
        if not self._exists(table, None):
            return empty(columns)
        key = ", ".join(map(quoted, table.key))
        source = f"SELECT {key}, count(*) AS rows FROM {self._name(table)} GROUP BY ALL"
        statement = f"{source} HAVING count(*) > 1 ORDER BY {key}"
        return retry_when_locked(lambda: framed(self._connection.execute(statement).to_arrow_table(), columns))

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
        statement = (
            f"SELECT {selection(columns)} FROM {self._name(table)}{_version(snapshot)}{_where(conditions)}{ordered}"
        )
        return self._connection.execute(statement, values).to_arrow_table()

    def _last_snapshot(self) -> int:
        return int(self._value(f"SELECT id FROM ducklake_current_snapshot('{self._alias}')"))

    def _exists(self, table: Table, snapshot: int | None) -> bool:
        """Whether the table exists in the snapshot, with the declared columns."""
        try:
            columns = self._rows(f"DESCRIBE SELECT * FROM {self._name(table)}{_version(snapshot)}")
        except duckdb.CatalogException:
            return False
        except duckdb.InvalidInputException as error:
            if snapshot is None or "No snapshot found" not in str(error):
                raise
            raise SnapshotNotFoundError(
                f"snapshot {snapshot} is not in {self._catalog.folder}: the last one is "
                f"{self._last_snapshot()}; expired ones are gone, unless compact() was told to keep them"
            ) from error
        stored = {name: kind for name, kind, *_ in columns}
        declared = {column.name: SQL_TYPE[column.dtype] for column in table.columns}
        if stored != declared:
            differing = sorted(name for name in stored | declared if stored.get(name) != declared.get(name))
            raise TableMismatchError(
                f"table {table.name!r} in {self._catalog.folder} differs from its declaration in the columns "
                f"{differing}: rename or drop the stored table, then materialize it again"
            )
        return True

    def _name(self, table: Table) -> str:
        return f"{self._alias}.main.{quoted(table.name)}"

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, list(values)).fetchall()

    def _value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._rows(statement, values)[0][0]


def _batches(rows: Mapping[str, int]) -> Iterator[list[str]]:
    """Partitions to read together: each batch has about ``ROWS_AT_ONCE`` rows at most, or is one partition."""
    batch: list[str] = []
    for name, own in rows.items():
        if batch and sum(rows[other] for other in batch) + own > ROWS_AT_ONCE:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def _version(snapshot: int | None) -> str:
    return "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _known(table: Table, names: Sequence[str]) -> Sequence[str]:
    unknown = sorted(set(names) - set(table.names))
    if unknown:
        raise ValueError(f"table {table.name!r} has no columns {unknown}; it has {list(table.names)}")
    return names


def _chosen(table: Table, names: Sequence[str] | None) -> list[Column]:
    wanted = table.names if names is None else _known(table, names)
    return [column for column in table.columns if column.name in wanted]


def among(table: Table, name: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the condition that a column has one of the values, and its parameters."""
    (column,) = _chosen(table, [name])
    slots = ", ".join([f"CAST(? AS {SQL_TYPE[column.dtype]})"] * len(values))
    return (f"{quoted(name)} IN ({slots})" if values else "false"), list(values)


def _conditions(
    table: Table,
    partitions: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    before: datetime | None,
    where: Mapping[str, Any] | None,
) -> tuple[list[str], list[Any]]:
    if table.time is None and (start or end or before):
        raise ValueError(
            f"table {table.name!r} declares no time, so its rows cannot be bounded by start, end or before"
        )
    _refuse_future(table, partitions, start, end, before)
    conditions: list[str] = []
    values: list[Any] = []
    for name, comparison, bound in (("start", ">=", start), ("end", "<", end), ("before", "<", before)):
        if bound is not None:
            conditions.append(f"{quoted(str(table.time))} {comparison} ?")
            values.append(instant(bound, name).to_pydatetime())
    wanted = list((where or {}).items())
    if partitions is not None:
        if table.partition_by is None:
            raise ValueError(f"table {table.name!r} has no partitions: read it without naming any")
        wanted.append((table.partition_by, list(partitions)))
    for name, value in wanted:
        condition, slots = among(table, name, value if isinstance(value, list | tuple) else [value])
        conditions.append(condition)
        values.extend(slots)
    return conditions, values


def _refuse_future(
    table: Table,
    partitions: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    before: datetime | None,
) -> None:
    if before is None:
        return
    bound = instant(before, "before")

    def refuse(what: str, asked: pd.Timestamp) -> None:
        raise FutureReadError(
            f"table {table.name!r}: {what} asks for rows of {asked.isoformat()}, but this read is "
            f"bounded before {bound.isoformat()}: ask for earlier rows"
        )

    if end is not None and instant(end, "end") > bound:
        refuse("end", instant(end, "end"))
    if start is not None and instant(start, "start") >= bound:
        refuse("start", instant(start, "start"))
    for partition in partitions or ():
        begins = _begins(partition)
        if begins is not None and begins >= bound:
            refuse(f"partition {partition!r}", begins)


def _begins(partition: str) -> pd.Timestamp | None:
    """First instant of a year, a month or a day; None of a partition by anything else."""
    return pd.Timestamp(partition, tz="UTC") if re.fullmatch(r"\d{4}(-\d{2}){0,2}", partition) else None

"""One open connection to the lake: what ``reading`` and ``inspection`` read, and transactions, each one snapshot.

What a ``transaction`` has collected and validated is made in one go under the write lock, so that the lock is held
for no computation. Where the lake lies and how it is attached is ``ducklake``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
import pyarrow
import pyarrow.compute

from atlas_pipeline.market.table import Table
from resources.ducklake import Catalog, retry_when_locked
from resources.inspection import LakeInspector
from resources.query import among
from resources.rows import column_definitions, quoted
from resources.staging import StagedFile, Staging, discard_left_behind, place
from resources.transaction import Commit, Replacement, Transaction

# A file that no snapshot names any more is deleted only after this time, for readers that began before.
READER_GRACE = timedelta(hours=1)


@dataclass(frozen=True)
class Compaction:
    """What maintenance did, in counts."""

    rows_flushed: int
    files_merged: int
    snapshots_expired: int
    files_deleted: int


class Lake(LakeInspector):
    """Tables under one catalog, read and written through one connection; not to be shared between threads."""

    def __init__(self, catalog: Catalog, connection: duckdb.DuckDBPyConnection, alias: str) -> None:
        super().__init__(catalog, connection, alias)
        # The newest time of tables appended to, good as long as no one else has committed since.
        self._newest: dict[Table, pd.Timestamp | None] = {}
        self._newest_snapshot = -1

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Collect writes and commit them as one snapshot when the block ends, none after an exception."""
        with Staging(self._catalog.staging) as staging:
            transaction = Transaction(staging)
            yield transaction
            with self._catalog.write_lock():
                transaction.commit = retry_when_locked(lambda: self._write(transaction))

    def replace(self, table: Table, frames: Mapping[str, pd.DataFrame] | Iterable[tuple[str, pd.DataFrame]]) -> Commit:
        """Replace partitions of one table in one transaction; see ``Transaction.replace``."""
        with self.transaction() as transaction:
            transaction.replace(table, frames)
        assert transaction.commit is not None
        return transaction.commit

    def append(self, table: Table, frame: pd.DataFrame) -> Commit:
        """Append rows to one table in one transaction; see ``Transaction.append``."""
        with self.transaction() as transaction:
            transaction.append(table, frame)
        assert transaction.commit is not None
        return transaction.commit

    def compact(self, keep: Iterable[int] = (), older_than: timedelta = timedelta(days=7)) -> Compaction:
        """Write inlined rows out, merge small files, expire old snapshots, delete files nothing names.

        Parameters
        ----------
        keep
            Snapshots that stay readable for ever: those that a model, an adapter or a ledger names.
        older_than
            Other snapshots expire at this age; the last one never does.
        """
        with self._catalog.write_lock():
            return retry_when_locked(lambda: self._compact(set(keep), older_than))

    def _compact(self, keep: set[int], older_than: timedelta) -> Compaction:
        lake, now = f"'{self._alias}'", datetime.now(UTC)
        flushed = self._rows(f"SELECT rows_flushed FROM ducklake_flush_inlined_data({lake})")
        merged = self._rows(f"SELECT files_processed FROM ducklake_merge_adjacent_files({lake})")
        old = self._rows(
            f"SELECT snapshot_id FROM ducklake_snapshots({lake}) WHERE snapshot_time < ? ORDER BY 1",
            [now - older_than],
        )
        expired = [number for (number,) in old if number not in keep | {self._last_snapshot()}]
        if expired:
            self._rows(f"CALL ducklake_expire_snapshots({lake}, versions => {expired})")
        grace = f"older_than => TIMESTAMPTZ '{(now - READER_GRACE).isoformat()}'"
        # DuckLake compares these times as text, in which all of a day are before any instant of it: with a SQLite
        # catalog the last day that may go is the one before the grace began.
        day_before = (now - READER_GRACE).date() - timedelta(days=1)
        deleted = self._rows(
            f"CALL ducklake_cleanup_old_files({lake}, older_than => TIMESTAMPTZ '{day_before} 00:00:00+00')"
        )
        deleted += self._rows(f"CALL ducklake_delete_orphaned_files({lake}, {grace})")
        left_behind = discard_left_behind(self._catalog.staging)
        return Compaction(
            sum(rows for (rows,) in flushed), sum(n for (n,) in merged), len(expired), len(deleted) + left_behind
        )

    def _write(self, transaction: Transaction) -> Commit:
        counts: dict[str, int] = {}
        versions: dict[str, dict[str, str]] = {}
        changed = False
        newest: dict[Table, pd.Timestamp | None] = {}
        self._connection.execute("BEGIN TRANSACTION")
        try:
            before = self._last_snapshot()
            if before == self._newest_snapshot:
                newest = self._newest
            for table, replaced in transaction.replacements.items():
                counts[table.name] = sum(own.rows for own in replaced.values())
                versions[table.name] = {name: own.version for name, own in replaced.items()}
                newest.pop(table, None)
                changed |= self._replace(table, replaced)
            for table, appended in transaction.appends.items():
                for rows in appended:
                    inserted = self._append(table, rows, newest)
                    counts[table.name] = counts.get(table.name, 0) + inserted
                    changed |= inserted > 0
            self._connection.execute("COMMIT" if changed else "ROLLBACK")
        except BaseException:
            self._newest_snapshot = -1
            # A commit that failed has ended the transaction itself.
            with suppress(duckdb.TransactionException):
                self._connection.execute("ROLLBACK")
            raise
        snapshot = before
        if changed:
            snapshot = int(self._value(f"SELECT id FROM ducklake_last_committed_snapshot('{self._alias}')"))
        self._newest, self._newest_snapshot = newest, snapshot
        return Commit(snapshot, counts, versions)

    def _replace(self, table: Table, replaced: Mapping[str, Replacement]) -> bool:
        assert table.partition_by is not None
        files = self._files(table, list(replaced), None)
        stored = {name: sum(rows for _, rows in own) for name, own in files.items()}
        as_many = [name for name, own in replaced.items() if own.rows == stored.get(name, 0)]
        versions = self._versions_of_files(table, {name: files.get(name, []) for name in as_many}, None)
        stale = [name for name, own in replaced.items() if own.version != versions.get(name)]
        if not stale:
            return False
        if not stored:
            self._create(table)
        occupied = [name for name in stale if name in stored]
        if occupied:
            condition, values = among(table, table.partition_by, occupied)
            self._connection.execute(f"DELETE FROM {self._name(table)} WHERE {condition}", values)
        contents = [replaced[name].content for name in stale if replaced[name].rows]
        held = [content for content in contents if isinstance(content, pyarrow.Table)]
        if held:
            self._insert(table, pyarrow.concat_tables(held))
        staged = [content for content in contents if isinstance(content, StagedFile)]
        if staged:
            paths = [str(path) for path in place(staged, self._catalog.data)]
            self._connection.execute(f"CALL ducklake_add_data_files('{self._alias}', '{table.name}', ?)", [paths])
        return True

    def _append(self, table: Table, rows: pyarrow.Table, newest: dict[Table, pd.Timestamp | None]) -> int:
        if not len(rows):
            return 0
        if table not in newest:
            self._create(table)
        if table.time is None or table.time not in table.key:
            return self._insert(table, rows, self._new_keys(table, ""))
        if table not in newest:
            latest = self._value(f"SELECT max({quoted(table.time)}) FROM {self._name(table)}")
            newest[table] = None if latest is None else pd.Timestamp(latest)
        latest = newest[table]
        first, last = map(pd.Timestamp, pyarrow.compute.min_max(rows[table.time]).as_py().values())
        newest[table] = last if latest is None else max(latest, last)
        if latest is None or first > latest:
            # The time is part of the key: rows later than every stored one have keys no stored one has.
            return self._insert(table, rows)
        return self._insert(table, rows, self._new_keys(table, f" WHERE {quoted(table.time)} >= ?"), [first])

    def _new_keys(self, table: Table, filtered: str) -> str:
        # An anti-join, because what MERGE inserts is never inlined: thrice the time for a bar, and growing.
        key = ", ".join(map(quoted, table.key))
        return f" ANTI JOIN (SELECT {key} FROM {self._name(table)}{filtered}) AS stored USING ({key})"

    def _insert(self, table: Table, rows: pyarrow.Table, filtered: str = "", values: Sequence[Any] = ()) -> int:
        names = ", ".join(map(quoted, table.names))
        key = ", ".join(map(quoted, table.key))
        self._connection.register("incoming", rows)
        try:
            return int(
                self._value(
                    f"INSERT INTO {self._name(table)} ({names}) SELECT {names} FROM incoming{filtered} ORDER BY {key}",
                    values,
                )
            )
        finally:
            self._connection.unregister("incoming")

    def _create(self, table: Table) -> None:
        if self._exists(table, None):
            return
        self._connection.execute(f"CREATE TABLE {self._name(table)} ({column_definitions(table)})")
        if table.partition_by is not None:
            self._connection.execute(
                f"ALTER TABLE {self._name(table)} SET PARTITIONED BY ({quoted(table.partition_by)})"
            )

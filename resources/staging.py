"""Parquet files of whole partitions, written and on disk before the transaction that lets the lake name them.

So a transaction of any size holds no rows in memory and the write lock for no computation. A file's name says what
it holds: the content version of a partition that is one untouched file is read off its name. Nothing here opens a
catalog.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pyarrow
import pyarrow.parquet
from filelock import FileLock, Timeout

from atlas_pipeline.market.table import Table
from resources.rows import version_of

# Sorted by the key, a group holds few symbols: a reader of one symbol leaves the other groups of a month unread.
ROWS_A_GROUP = 32_768
_NAME = re.compile(r"(?P<version>[0-9a-f]{16})-(?P<rows>\d+)-[0-9a-f]{32}\.parquet")


@dataclass(frozen=True)
class StagedFile:
    """A partition's rows in a file that no snapshot names yet; ``place`` is where it goes, within the lake's data."""

    path: Path
    place: Path


class Staging:
    """Files staged for one transaction; what is left of them goes with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: Path | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, table: Table, partition: str, rows: pyarrow.Table) -> tuple[StagedFile, str]:
        """Write rows that are in the key's order; return their file, which is on disk, and their content version."""
        if self._own is None:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(1))
            self._own = self._stack.enter_context(_locked_folder(self._folder))
        path = self._own / f"{uuid4().hex}.parquet"
        # Neither holds the interpreter's lock for long.
        hashing = self._pool.submit(version_of, table, rows)
        _write(table, rows, path)
        version = hashing.result()
        # The folders that DuckLake itself would choose.
        folder = Path("main") / table.name / f"{table.partition_by}={quote(partition, safe='')}"
        return StagedFile(path, folder / f"{version}-{len(rows)}-{path.name}"), version


def _write(table: Table, rows: pyarrow.Table, path: Path) -> None:
    with path.open("wb") as sink:
        pyarrow.parquet.write_table(
            # The name of the partition stands in the path, and is read off it.
            rows.drop_columns([str(table.partition_by)]),
            sink,
            row_group_size=ROWS_A_GROUP,
            # Measured numbers repeat too rarely: trying it on them takes as long as all the rest.
            use_dictionary=[
                column.name
                for column in table.columns
                if not column.dtype.startswith("float") and column.name != table.partition_by
            ],
            store_schema=False,
        )
        sink.flush()
        # A commit is on disk when it returns; what it names must be so before it.
        os.fsync(sink.fileno())


def version_in_name(file: str, rows: int) -> str | None:
    """Return the content version that a file's name tells; None where it has not all ``rows``, or was not staged."""
    named = _NAME.fullmatch(file.rpartition("/")[2])
    return named["version"] if named is not None and int(named["rows"]) == rows else None


def place(files: list[StagedFile], data: Path) -> list[Path]:
    """Move staged files to their places under ``data``, those that a failed attempt has not moved yet.

    None is moved back: an unnamed file under ``data`` is an orphan, which maintenance deletes.
    """
    targets = [data / file.place for file in files]
    for file, target in zip(files, targets, strict=True):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            file.path.rename(target)
    # A partition's first file makes its folder: the entry of that is on disk only with its parent.
    for folder in {parent for target in targets for parent in (target.parent, target.parent.parent)}:
        _sync_folder(folder)
    return targets


def discard_left_behind(folder: Path) -> int:
    """Delete the files that killed processes had staged; return their number."""
    deleted = 0
    for path in folder.glob("*.lock"):
        with suppress(Timeout), FileLock(path, blocking=False):
            deleted += sum(1 for _ in path.with_suffix("").glob("*.parquet"))
            _discard(path)
    return deleted


@contextmanager
def _locked_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that lives as long as the block; the lock beside it tells that its process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{uuid4().hex}.lock"
    with FileLock(lock):
        lock.with_suffix("").mkdir()
        try:
            yield lock.with_suffix("")
        finally:
            _discard(lock)


def _discard(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

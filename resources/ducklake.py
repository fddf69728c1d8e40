"""DuckLake on a SQLite catalog: the engine and its extensions, attaching, the write lock, what is retried.

No table is known here and no row is touched; that is ``lake``. A catalog in another database differs in its
attach string and its lock only.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import duckdb
import tenacity
from filelock import FileLock, Timeout

BUSY_TIMEOUT_MS = 30_000
# An insert of at most this many rows goes into the catalog instead of a Parquet file of its own: faster
# for the few rows a bar appends, and no heap of tiny files. ``Lake.compact`` writes them out.
INLINED_ROWS = 1000
RETRIES = 6
# A commit is some twenty tiny catalog queries, and handing them to workers doubles its CPU time.
THREADS = 1

_aliases = itertools.count()
Result = TypeVar("Result")


class LakeLockedError(TimeoutError):
    """The write lock was not free in time."""


def is_lock_error(error: BaseException) -> bool:
    """Whether the catalog was busy, so that the same statement can succeed a moment later."""
    return isinstance(error, duckdb.Error) and "database is locked" in str(error)


def retry_when_locked(action: Callable[[], Result]) -> Result:
    """Run ``action``, and again after a random, growing pause where the catalog was locked."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_lock_error),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2.0),
        stop=tenacity.stop_after_attempt(RETRIES),
        reraise=True,
    )(action)


@functools.cache
def _engine() -> duckdb.DuckDBPyConnection:
    """Return this process's DuckDB with the extensions loaded and no catalog attached (loading takes 0.15 s).

    The extensions are loaded from the installed wheels, so that nothing is installed, shared or stale; DuckDB
    verifies their signatures as it does those of downloaded ones.
    """
    engine = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "threads": THREADS,
            # Or a process keeps what it has read, and grows with the history: the system's page cache is as fast.
            "enable_external_file_cache": False,
        },
    )
    for name in ("ducklake", "sqlite_scanner"):
        path = (
            Path(str(files(f"duckdb_extension_{name}"))) / f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"
        )
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: install duckdb-extension-{name.replace('_', '-')}=="
                f"{duckdb.__version__}, the version of duckdb itself"
            )
        engine.execute(f"LOAD {_quoted(path)}")
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    return engine


def _quoted(text: str | Path) -> str:
    return "'" + str(text).replace("'", "''") + "'"


@dataclass(frozen=True)
class Catalog:
    """A lake's folder: ``catalog.sqlite``, ``data/``, ``staging/``, ``write.lock``; ``lock_timeout`` is in seconds."""

    folder: Path
    lock_timeout: float

    @property
    def data(self) -> Path:
        """Folder of the files that snapshots name."""
        return self.folder / "data"

    @property
    def staging(self) -> Path:
        """Folder of the files that writers have not committed; on the file system of ``data``."""
        return self.folder / "staging"

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the lock of all writers, in this and in other processes; a killed holder frees it.

        Raises
        ------
        LakeLockedError
            Where it was not free within ``lock_timeout``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "write.lock"
        lock = FileLock(path, timeout=self.lock_timeout)
        try:
            lock.acquire()
        except Timeout as error:
            raise LakeLockedError(
                f"another process has held {path} for more than {self.lock_timeout:g} s: wait for the "
                "writing run to end or stop it (the lock ends with its process; do not delete the file)"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def attach(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """Open a connection; yield it and the name under which the lake is attached to it."""
        catalog = self.folder / "catalog.sqlite"
        if not catalog.exists():
            self._create(catalog)
        with self._attached(catalog) as attached:
            yield attached

    def _create(self, catalog: Path) -> None:
        with self.write_lock():
            if catalog.exists():
                return
            # Complete before it has its name: a kill on the way leaves no half-made catalog.
            unfinished = catalog.with_name("catalog.unfinished")
            for leftover in self.folder.glob(unfinished.name + "*"):
                leftover.unlink()
            with self._attached(unfinished):
                pass
            unfinished.rename(catalog)

    @contextmanager
    def _attached(self, catalog: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        connection = _engine().cursor()
        alias = f"lake_{next(_aliases)}"
        # The catalog notes its data path; overriding it lets the home folder be moved.
        options = (
            f"DATA_PATH {_quoted(f'{self.data}/')}, OVERRIDE_DATA_PATH true, META_JOURNAL_MODE 'WAL', "
            f"META_BUSY_TIMEOUT {BUSY_TIMEOUT_MS}, DATA_INLINING_ROW_LIMIT {INLINED_ROWS}"
        )
        statement = f"ATTACH {_quoted(f'ducklake:sqlite:{catalog}')} AS {alias} ({options})"
        try:
            retry_when_locked(lambda: connection.execute(statement))
            try:
                yield connection, alias
            finally:
                connection.execute(f"DETACH {alias}")
        finally:
            connection.close()

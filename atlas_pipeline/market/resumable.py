"""A remote source whose answers are kept on disk until an ingestion has committed them.

A download of hundreds of symbols that is killed goes on with the symbols it has no answer of: no request is made twice.
What is asked for, and when an ingestion is committed, is not known here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from atlas_pipeline.market.sources import BarSource, Fetched, Outcome

COMPLETE = b"complete"
ABANDONED_AFTER = timedelta(days=7)
FINAL = (Outcome.OK, Outcome.EMPTY, Outcome.UNKNOWN)
"""A symbol that was rate-limited or failed is asked for again."""


@dataclass(frozen=True)
class ResumableSource:
    """Asks ``source`` only for the symbols that ``folder`` holds no usable answer of.

    Attributes
    ----------
    source
        Where the others are asked for.
    folder
        One folder a question: source, interval and range. It belongs to one ingestion at a time.
    asked_since
        Answers of an earlier instant are not used: bars have been completed since.
    now
        The instant at which answers are received.
    """

    source: BarSource
    folder: Path
    asked_since: datetime
    now: datetime

    def fetch(self, symbols: Sequence[str], start: datetime, end: datetime) -> Iterator[Fetched]:
        """Answers that are kept, then those of the source, each on disk before it is given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = []
        present = {path.name for path in self.folder.iterdir()}
        for symbol in symbols:
            kept = self._kept(symbol) if self._path(symbol).name in present else None
            if kept is None:
                missing.append(symbol)
            else:
                yield kept
        if missing:
            for fetched in self.source.fetch(missing, start, end):
                if fetched.outcome in FINAL:
                    self._keep(fetched)
                yield fetched

    def discard(self) -> None:
        """Forget the answers, now that they are committed, and those of ingestions that nobody went on with."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for other in self.folder.parent.glob("*"):
            if time.time() - other.stat().st_mtime > ABANDONED_AFTER.total_seconds():
                shutil.rmtree(other, ignore_errors=True)

    def _path(self, symbol: str) -> Path:
        return self.folder / f"{quote(symbol, safe='^=')}.arrows"

    def _keep(self, fetched: Fetched) -> None:
        about = {"outcome": str(fetched.outcome), "detail": fetched.detail, "received": self.now.isoformat()}
        path = self._path(fetched.symbol)
        # In memory first: a write to the file lets go of the interpreter, and waits for the threads that parse.
        sink = pa.BufferOutputStream()
        for frame in (fetched.bars, fetched.actions):
            table = pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **about})
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        sink.write(COMPLETE)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(sink.getvalue())
        # Not flushed to the disk, which would take longer than the request: see ``_kept``.
        unfinished.rename(path)

    def _kept(self, symbol: str) -> Fetched | None:
        with pa.memory_map(str(self._path(symbol))) as file:
            file.seek(max(0, file.size() - len(COMPLETE)))
            if file.read() != COMPLETE:
                # The machine itself went down before the file was on its disk.
                return None
            file.seek(0)
            bars, actions = (_read(file) for _ in range(2))
        about = {key.decode(): value.decode() for key, value in bars.schema.metadata.items()}
        if datetime.fromisoformat(about["received"]) < self.asked_since:
            return None
        return Fetched(symbol, Outcome(about["outcome"]), bars.to_pandas(), actions.to_pandas(), about["detail"])


def _read(file: pa.NativeFile) -> pa.Table:
    with pa.ipc.open_stream(file) as stream:
        return stream.read_all()

"""Writes of several tables that are to become one snapshot, collected and validated before any lock is taken.

How they are made, and that they are made as one, is ``lake``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import pyarrow
import pyarrow.compute

from atlas_pipeline.market.table import Table
from resources import ducklake
from resources.rows import conforming_rows, version_of, version_of_nothing
from resources.staging import StagedFile, Staging


@dataclass(frozen=True)
class Commit:
    """What a transaction left behind.

    ``snapshot`` is the lake's last snapshot, not a new one where nothing had to change. ``rows`` counts, by
    table, the rows that the replaced partitions hold and those that appends inserted. ``data_versions`` are
    the content versions of the replaced partitions, by table and partition.
    """

    snapshot: int
    rows: dict[str, int]
    data_versions: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Replacement:
    """What a partition is to hold: few rows here, many in a file."""

    rows: int
    version: str
    content: pyarrow.Table | StagedFile


@dataclass
class Transaction:
    """Writes that are to become one snapshot; ``commit`` is there once the ``with`` block has ended."""

    staging: Staging
    replacements: dict[Table, dict[str, Replacement]] = field(default_factory=dict)
    appends: dict[Table, list[pyarrow.Table]] = field(default_factory=dict)
    commit: Commit | None = None

    def replace(self, table: Table, frames: Mapping[str, pd.DataFrame] | Iterable[tuple[str, pd.DataFrame]]) -> None:
        """Let the named partitions hold exactly these rows; an empty frame empties its partition.

        Each frame is done with before the next is asked for: pairs that are made one by one are never in memory
        together, however many.

        Raises
        ------
        InvalidRowsError
            Where rows do not conform to the table's declaration.
        ValueError
            Where the table has no partitions, or rows lie in another partition than the one named.
        """
        if table.partition_by is None:
            raise ValueError(
                f"table {table.name!r} has no partition_by, so nothing of it can be replaced: append to it"
            )
        for partition, frame in frames.items() if isinstance(frames, Mapping) else frames:
            self.replacements.setdefault(table, {})[partition] = self._replacement(
                table, partition, conforming_rows(table, frame)
            )

    def append(self, table: Table, frame: pd.DataFrame) -> None:
        """Add the rows whose key is not in the table yet; the others are left as they are stored.

        Raises
        ------
        InvalidRowsError
            Where rows do not conform to the table's declaration.
        """
        self.appends.setdefault(table, []).append(conforming_rows(table, frame))

    def _replacement(self, table: Table, partition: str, rows: pyarrow.Table) -> Replacement:
        if not len(rows):
            return Replacement(0, version_of_nothing(table), rows)
        strangers = {str(name) for name in pyarrow.compute.unique(rows[table.partition_by]).to_pylist()} - {partition}
        if strangers:
            raise ValueError(
                f"table {table.name!r}: rows of {table.partition_by} {sorted(strangers)} were given for "
                f"partition {partition!r}: split the frame by {table.partition_by}"
            )
        if len(rows) <= ducklake.INLINED_ROWS:
            return Replacement(len(rows), version_of(table, rows), rows)
        file, version = self.staging.write(table, partition, rows)
        return Replacement(len(rows), version, file)

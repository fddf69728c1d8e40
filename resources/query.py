"""The SQL of a read: its columns, its conditions, its snapshot; rows of the future are refused here.

Nothing here is executed; that is ``reading`` and ``inspection``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from atlas_pipeline.market.table import Column, Table
from resources.rows import SQL_TYPE, instant, quoted

# Where all partitions are gone through, so many rows are in memory at a time: some ten megabytes.
ROWS_AT_ONCE = 250_000


class FutureReadError(ValueError):
    """Rows were asked for that could not be known at the read's bound."""


def undeclared(table: Table, stored: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the stored and the declared SQL type of each column that differs, None where it is not there."""
    declared = {column.name: SQL_TYPE[column.dtype] for column in table.columns}
    return {
        name: (stored.get(name), declared.get(name))
        for name in stored | declared
        if stored.get(name) != declared.get(name)
    }


def batches(rows: Mapping[str, int]) -> Iterator[list[str]]:
    """Split partitions into those to read together: ``ROWS_AT_ONCE`` rows at most, or one partition."""
    batch: list[str] = []
    for name, own in rows.items():
        if batch and sum(rows[other] for other in batch) + own > ROWS_AT_ONCE:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def at_snapshot(snapshot: int | None) -> str:
    """Return what follows a table's name to read it in a snapshot, the last one where it is None."""
    return "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"


def where_all(conditions: Sequence[str]) -> str:
    """Return the WHERE clause of conditions that all hold."""
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def chosen_columns(table: Table, names: Collection[str] | None) -> list[Column]:
    """Return the named columns in declared order, all where ``names`` is None.

    Raises
    ------
    ValueError
        Where the table has no such column.
    """
    unknown = sorted(set(names or ()) - set(table.names))
    if unknown:
        raise ValueError(f"table {table.name!r} has no columns {unknown}; it has {list(table.names)}")
    return [column for column in table.columns if names is None or column.name in names]


def among(table: Table, name: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the condition that a column has one of the values, and its parameters."""
    (column,) = chosen_columns(table, [name])
    slots = ", ".join([f"CAST(? AS {SQL_TYPE[column.dtype]})"] * len(values))
    return (f"{quoted(name)} IN ({slots})" if values else "false"), list(values)


def conditions_of(
    table: Table,
    partitions: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    before: datetime | None,
    where: Mapping[str, Any] | None,
) -> tuple[list[str], list[Any]]:
    """Return the conditions of a read that all have to hold, and their parameters; see ``LakeReader.read``."""
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
        first = begins(partition)
        if first is not None and first >= bound:
            refuse(f"partition {partition!r}", first)


def begins(partition: str) -> pd.Timestamp | None:
    """First instant of a year, a month or a day; None of a partition by anything else."""
    return pd.Timestamp(partition, tz="UTC") if re.fullmatch(r"\d{4}(-\d{2}){0,2}", partition) else None

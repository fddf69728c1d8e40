"""What checks ask of a table of any size: counts, duplicate keys, and what breaks its declaration.

The engine answers; no row is read out but the few that are shown. Rows are judged before they are written: this finds
what got past that, another client's writes or a declaration that has become stricter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd

from atlas_pipeline.market.table import Column, Table
from resources.ducklake import retry_when_locked
from resources.query import at_snapshot, batches, chosen_columns, conditions_of, undeclared, where_all
from resources.reading import LakeReader
from resources.rows import empty, framed, quoted, selection

EXAMPLES = 5
ONE_ROW_A_KEY = "has one row a key"

VIOLATIONS = [
    Column("column", "string", "The column, or the columns of the key"),
    Column("rule", "string", "What the declaration asks for"),
    Column("rows", "int64", "Rows that break it; of keys, those that several rows have"),
    Column("examples", "string", "The first of them by key, with the value"),
]


@dataclass(frozen=True)
class _Rule:
    column: str
    says: str
    broken: str


class LakeInspector(LakeReader):
    """A reader that also answers checks."""

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
        """Count the rows of each group: the columns ``by``, then ``rows`` (int64), sorted by ``by``.

        Without ``by`` all rows are one group. A table with a time has also ``first`` and ``last``, the times of a
        group's first and last row. See ``read`` for the other parameters and the errors.
        """
        chosen = [column for name in by for column in chosen_columns(table, [name])]
        measured = [Column("rows", "int64", "rows of the group")]
        aggregates = ["count(*) AS rows"]
        if table.time is not None:
            measured += [Column(name, "timestamp", f"time of the {name} row") for name in ("first", "last")]
            aggregates += [f"min({quoted(table.time)}) AS first", f"max({quoted(table.time)}) AS last"]
        conditions, values = conditions_of(table, partitions, start, end, before, where)
        groups = ", ".join(map(quoted, by))

        def count() -> pd.DataFrame:
            if not self._exists(table, snapshot):
                return empty([*chosen, *measured])
            selected = ", ".join([*([selection(chosen)] if chosen else []), *aggregates])
            statement = f"SELECT {selected} FROM {self._name(table)}{at_snapshot(snapshot)}{where_all(conditions)}"
            if groups:
                statement += f" GROUP BY {groups} ORDER BY {groups}"
            return framed(self._connection.execute(statement, values).to_arrow_table(), [*chosen, *measured])

        return retry_when_locked(count)

    def row_count(self, table: Table) -> int:
        """Return the number of a table's rows, whatever their columns; none where it is not written yet."""
        statement = f"SELECT count(*) FROM {self._name(table)}"
        return retry_when_locked(lambda: 0 if self._stored_types(table, None) is None else self._value(statement))

    def duplicates(self, table: Table) -> pd.DataFrame:
        """Return the keys that more than one row has, with their number of ``rows``.

        Where the key tells the partition, rows are compared within partitions, in bounded memory.
        """
        columns = [*chosen_columns(table, table.key), Column("rows", "int64", "rows of this key")]
        key = ", ".join(map(quoted, table.key))
        parts: list[list[str] | None] = list(batches(self.partitions(table))) if _key_tells_partition(table) else [None]

        def found(partitions: list[str] | None) -> pd.DataFrame:
            conditions, values = conditions_of(table, partitions, None, None, None, None)
            grouped = f"SELECT {key}, count(*) AS rows FROM {self._name(table)}{where_all(conditions)} GROUP BY {key}"
            statement = f"SELECT {selection(columns)} FROM ({grouped} HAVING count(*) > 1) ORDER BY {key}"
            return framed(self._connection.execute(statement, values).to_arrow_table(), columns)

        if not retry_when_locked(lambda: self._exists(table, None)):
            return empty(columns)
        frames = [retry_when_locked(partial(found, partitions)) for partitions in parts]
        return pd.concat([empty(columns), *frames], ignore_index=True)

    def violations(self, table: Table) -> pd.DataFrame:
        """Judge a table's whole state by its declaration: column types, nulls, minimums, months, keys.

        A column ``month`` that the table is partitioned by must name the month (UTC) of ``available_at``.

        Returns
        -------
        pandas.DataFrame
            ``column`` (str), ``rule`` (str), ``rows`` (int64) and ``examples`` (str), one row a broken rule; empty
            where none is or the table is not written yet. Where types differ, nothing else can be judged.
        """
        found = retry_when_locked(lambda: list(self._broken(table)))
        return pd.DataFrame(found, columns=[column.name for column in VIOLATIONS]).astype(
            dict(empty(VIOLATIONS).dtypes)
        )

    def _broken(self, table: Table) -> Iterator[tuple[str, str, int, str]]:
        stored = self._stored_types(table, None)
        if stored is None:
            return
        differing = undeclared(table, stored)
        if differing:
            rows = self._value(f"SELECT count(*) FROM {self._name(table)}")
            for name, (is_, should) in differing.items():
                yield name, f"is {should or 'not declared'}", rows, f"is {is_ or 'not stored'}"
            return
        rules = [*_rules(table), *self._month_rules(table)]
        tallies = ", ".join(f"count(*) FILTER (WHERE {rule.broken})" for rule in rules)
        counts = self._rows(f"SELECT {tallies} FROM {self._name(table)}")[0] if rules else ()
        for rule, rows in zip(rules, counts, strict=True):
            if rows:
                yield rule.column, rule.says, rows, self._examples(table, rule)
        duplicates = self.duplicates(table)
        if len(duplicates):
            shown = duplicates.head(EXAMPLES).itertuples(index=False, name=None)
            examples = "; ".join(f"{_text(key)}: {rows} rows" for *key, rows in shown)
            yield ", ".join(table.key), ONE_ROW_A_KEY, len(duplicates), examples

    def _month_rules(self, table: Table) -> list[_Rule]:
        if not _is_by_month(table):
            return []
        # Two instants a month tell whether every row need be looked at.
        bounds = self._rows(f"SELECT month, min(available_at), max(available_at) FROM {self._name(table)} GROUP BY 1")
        if all(at is None or f"{at:%Y-%m}" == month for month, *instants in bounds for at in instants):
            return []
        named = "strftime(CAST(available_at AS TIMESTAMP), '%Y-%m')"
        return [_Rule("month", "is the month of available_at", f"{named} IS DISTINCT FROM month")]

    def _examples(self, table: Table, rule: _Rule) -> str:
        key = ", ".join(map(quoted, table.key))
        rows = self._rows(
            f"SELECT {key}, {quoted(rule.column)} FROM {self._name(table)} WHERE {rule.broken} "
            f"ORDER BY {key} LIMIT {EXAMPLES}"
        )
        return "; ".join(f"{_text(key)}: {value}" for *key, value in rows)


def _rules(table: Table) -> Iterator[_Rule]:
    for column in table.columns:
        name = quoted(column.name)
        if not column.nullable:
            nan = f" OR isnan({name})" if column.dtype.startswith("float") else ""
            yield _Rule(column.name, "is not null", f"({name} IS NULL{nan})")
        if column.minimum is not None:
            yield _Rule(column.name, f"is at least {column.minimum:g}", f"{name} < {column.minimum!r}")


def _is_by_month(table: Table) -> bool:
    return table.partition_by == "month" and "available_at" in table.names


def _key_tells_partition(table: Table) -> bool:
    return table.partition_by in table.key or (_is_by_month(table) and "available_at" in table.key)


def _text(key: Sequence[object]) -> str:
    return " ".join(f"{part:%Y-%m-%d %H:%M:%S}" if isinstance(part, datetime) else str(part) for part in key)

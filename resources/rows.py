"""A declared table's rows between pandas, Arrow and DuckDB: types, conformity, order by the key, content version.

Nothing here opens a catalog.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

from atlas_pipeline.market.table import PANDAS_DTYPE, Column, Dtype, Table

if TYPE_CHECKING:
    import pandera.pandas as pa

SQL_TYPE: dict[Dtype, str] = {
    "string": "VARCHAR",
    "float64": "DOUBLE",
    "float32": "FLOAT",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "date": "DATE",
}


ARROW_TYPE: dict[Dtype, pyarrow.DataType] = {
    "string": pyarrow.large_string(),
    "float64": pyarrow.float64(),
    "float32": pyarrow.float32(),
    "int64": pyarrow.int64(),
    "int32": pyarrow.int32(),
    "bool": pyarrow.bool_(),
    "timestamp": pyarrow.timestamp("us", "UTC"),
    "date": pyarrow.date32(),
}


class InvalidRowsError(ValueError):
    """Rows do not conform to their table's declaration."""


def quoted(name: str) -> str:
    """Return ``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column_definitions(table: Table) -> str:
    """Return the column list of ``CREATE TABLE``."""
    return ", ".join(f"{quoted(column.name)} {SQL_TYPE[column.dtype]}" for column in table.columns)


def selection(columns: list[Column]) -> str:
    """Return the select list that reads ``columns``; dates come as midnights, as pandas holds them."""
    return ", ".join(
        f"CAST({quoted(column.name)} AS TIMESTAMP) AS {quoted(column.name)}"
        if column.dtype == "date"
        else quoted(column.name)
        for column in columns
    )


def framed(rows: pyarrow.Table, columns: list[Column]) -> pd.DataFrame:
    """Return a query's rows with the declared pandas dtypes."""
    return rows.to_pandas().astype({column.name: PANDAS_DTYPE[column.dtype] for column in columns})


def empty(columns: list[Column]) -> pd.DataFrame:
    """Return a frame without rows and with the declared pandas dtypes."""
    return pd.DataFrame({column.name: pd.Series(dtype=PANDAS_DTYPE[column.dtype]) for column in columns})


@cache
def _schema(table: Table) -> pa.DataFrameSchema:
    return table.schema()


def conforming_rows(table: Table, frame: pd.DataFrame) -> pyarrow.Table:
    """Return the rows of ``frame`` as they are stored, in the key's order.

    ``Table.schema()`` is the judge. Rows that plainly conform are passed without asking it: pandera takes 7 ms for
    two rows, as long as the rest of a small append.

    Raises
    ------
    InvalidRowsError
        Naming the table, the columns and the values that do not conform.
    """
    if tuple(frame.columns) == table.names and all(
        str(frame[column.name].dtype) == PANDAS_DTYPE[column.dtype] for column in table.columns
    ):
        rows, unique = _in_key_order(table, _as_stored(table, frame))
        if unique and _within_bounds(table, rows):
            return rows
    return in_key_order(table, _as_stored(table, _validated(table, frame)))


def _validated(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    from pandera.errors import SchemaErrors

    try:
        return _schema(table).validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        shown = [
            f"{case.column if isinstance(case.column, str) else 'frame'}: {case.check} fails for "
            f"{case.failure_case!r}" + ("" if pd.isna(case.index) else f" in row {case.index}")
            for case in cases.head(5).itertuples()
        ]
        more = f"; and {len(cases) - 5} more" if len(cases) > 5 else ""
        raise InvalidRowsError(
            f"table {table.name!r} refuses {len(frame)} rows, nothing was written: {'; '.join(shown)}{more}. "
            "Correct or quarantine the rows"
        ) from error


def _as_stored(table: Table, frame: pd.DataFrame) -> pyarrow.Table:
    # One thread: handing columns of a partition's size to others takes longer than converting them.
    rows = pyarrow.Table.from_pandas(frame, preserve_index=False, nthreads=1)
    for number, column in enumerate(table.columns):
        if rows.schema.field(number).type != ARROW_TYPE[column.dtype]:
            rows = rows.set_column(number, column.name, rows[number].cast(ARROW_TYPE[column.dtype], safe=False))
    return rows.combine_chunks()


def _within_bounds(table: Table, rows: pyarrow.Table) -> bool:
    for column in table.columns:
        values = rows[column.name]
        if not column.nullable and values.null_count:
            return False
        if column.minimum is not None:
            less = pyarrow.compute.less(values, pyarrow.scalar(column.minimum, values.type))
            if pyarrow.compute.any(less).as_py():
                return False
    return True


def in_key_order(table: Table, rows: pyarrow.Table) -> pyarrow.Table:
    """Return rows in the order of the key: text by code points, nulls last."""
    return _in_key_order(table, rows)[0]


def _in_key_order(table: Table, rows: pyarrow.Table) -> tuple[pyarrow.Table, bool]:
    """Rows in the order of the key, and whether no key is there twice or has a null."""
    if _ascending([rows[name] for name in table.key]):
        return rows, True
    order = pyarrow.compute.sort_indices(rows, sort_keys=[(name, "ascending") for name in table.key])
    rows = rows.take(order)
    return rows, _ascending([rows[name] for name in table.key])


def _ascending(keys: list[pyarrow.Array | pyarrow.ChunkedArray]) -> bool:
    """Whether each row's key is greater than the one before, so that no two are equal either."""
    if len(keys[0]) < 2:
        return True
    undecided = np.ones(len(keys[0]) - 1, dtype=bool)
    for key in keys:
        values = key.combine_chunks() if isinstance(key, pyarrow.ChunkedArray) else key
        before, after = values.slice(0, len(values) - 1), values.slice(1)
        greater = pyarrow.compute.greater(after, before).fill_null(False).to_numpy(zero_copy_only=False)
        equal = pyarrow.compute.equal(after, before).fill_null(False).to_numpy(zero_copy_only=False)
        if (undecided & ~greater & ~equal).any():
            return False
        undecided &= equal
    return not undecided.any()


def content_version(table: Table, frame: pd.DataFrame) -> str:
    """Return the first 16 hex digits of the SHA-256 of the rows; neither their order nor the index matters.

    ``frame`` has the declared columns and dtypes. Equal are: every NaN and null of a column, 0.0 and -0.0.
    """
    return version_of(table, in_key_order(table, _as_stored(table, frame)))


def version_of(table: Table, rows: pyarrow.Table) -> str:
    """Return the content version of rows that are in the key's order; see ``content_version``."""
    digest = hashlib.sha256(repr([(column.name, column.dtype) for column in table.columns]).encode())
    for column in table.columns:
        for part in _canonical(rows[column.name].combine_chunks(), column.dtype):
            digest.update(part)
    return digest.hexdigest()[:16]


@cache
def version_of_nothing(table: Table) -> str:
    """Return the content version of a partition without rows: a backfill empties some hundred of them."""
    return content_version(table, empty(list(table.columns)))


def _canonical(values: pyarrow.Array, dtype: Dtype) -> tuple[memoryview, ...]:
    if dtype == "string":
        # Numbered in order of appearance, which is the order of the key; nulls are -1.
        encoded = values.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        texts = json.dumps(encoded.dictionary.to_pylist()).encode()
        return memoryview(texts), codes.astype("<i8").data
    numbers = values.to_numpy(zero_copy_only=False)
    if dtype in ("timestamp", "date"):
        return (numbers.astype("<M8[us]").view("<i8").data,)
    if numbers.dtype.kind == "f":
        numbers = numbers + 0
        numbers[np.isnan(numbers)] = np.nan
    return (np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<")).data,)


def instant(value: datetime, name: str) -> pd.Timestamp:
    """Return an aware ``value`` in UTC.

    Raises
    ------
    ValueError
        Where ``value`` has no time zone.
    """
    if value.tzinfo is None:
        raise ValueError(f"{name}={value.isoformat()} has no time zone: pass an aware datetime, such as one in UTC")
    return pd.Timestamp(value).tz_convert("UTC")

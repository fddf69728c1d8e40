"""A declared table's rows between pandas and DuckDB: SQL types, conformity, content version.

Nothing here opens a catalog.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pandas as pd

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


def fetch(result: duckdb.DuckDBPyConnection, columns: list[Column]) -> pd.DataFrame:
    """Return a query's rows with the declared pandas dtypes."""
    return result.to_arrow_table().to_pandas().astype({column.name: PANDAS_DTYPE[column.dtype] for column in columns})


def empty(columns: list[Column]) -> pd.DataFrame:
    """Return a frame without rows and with the declared pandas dtypes."""
    return pd.DataFrame({column.name: pd.Series(dtype=PANDAS_DTYPE[column.dtype]) for column in columns})


@cache
def _schema(table: Table) -> pa.DataFrameSchema:
    return table.schema()


def conform(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with the declared columns and dtypes.

    ``Table.schema()`` is the judge. A frame that plainly conforms is passed without asking it: pandera takes
    7 ms for two rows, as long as the rest of a small append.

    Raises
    ------
    InvalidRowsError
        Naming the table, the columns and the values that do not conform.
    """
    if _plainly_conforms(table, frame):
        return frame
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


def _plainly_conforms(table: Table, frame: pd.DataFrame) -> bool:
    if tuple(frame.columns) != table.names:
        return False
    for column in table.columns:
        values = frame[column.name]
        if str(values.dtype) != PANDAS_DTYPE[column.dtype] or (not column.nullable and values.hasnans):
            return False
        if column.minimum is not None and not (values.dropna() >= column.minimum).all():
            return False
    return not frame.duplicated(list(table.key)).any()


def content_version(table: Table, frame: pd.DataFrame) -> str:
    """Return the first 16 hex digits of the SHA-256 of the rows; neither their order nor the index matters.

    ``frame`` has the declared columns and dtypes. Equal are: every NaN and null of a column, 0.0 and -0.0.
    """
    return (
        _version_of_nothing(table) if frame.empty else _digest(table, frame.sort_values(list(table.key), kind="stable"))
    )


@cache
def _version_of_nothing(table: Table) -> str:
    # A backfill empties some hundred partitions of quarantine and of corporate actions.
    return _digest(table, empty(list(table.columns)))


def _digest(table: Table, frame: pd.DataFrame) -> str:
    digest = hashlib.sha256(repr([(column.name, column.dtype) for column in table.columns]).encode())
    for column in table.columns:
        for part in _canonical(frame[column.name], column.dtype):
            digest.update(part)
    return digest.hexdigest()[:16]


def _canonical(values: pd.Series, dtype: Dtype) -> tuple[bytes, ...]:
    if dtype == "string":
        # Numbered in order of appearance, which is the order of the key; nulls are -1.
        codes, texts = pd.factorize(values)
        return json.dumps(texts.tolist()).encode(), codes.astype("<i8").tobytes()
    if dtype in ("timestamp", "date"):
        return (values.astype("int64").to_numpy(dtype="<i8").tobytes(),)
    numbers = values.to_numpy()
    if numbers.dtype.kind == "f":
        numbers = np.where(np.isnan(numbers), numbers.dtype.type(np.nan), numbers + 0)
    return (numbers.astype(numbers.dtype.newbyteorder("<")).tobytes(),)


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

"""How rows are set aside instead of dropped: the structure they must have, and the split by reasons.

The rules themselves stand with what they judge (bars in ``validation``, ``quotes``, ``option_chain``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from atlas_pipeline.market.errors import BrokenSchemaError
from atlas_pipeline.market.table import PANDAS_DTYPE, Column, Table


def quarantine_table(table: Table) -> Table:
    """Declare the table that keeps the rows refused: nullable, with ``ordinal`` and ``reason``.

    ``ordinal`` counts the rows refused for one key, so that several refused duplicates keep apart.
    """
    placed = {*table.key, table.time, table.partition_by}
    return Table(
        name=f"quarantined_{table.name}",
        description=f"Rows that validation refused to let into {table.name}, as they came, with the reason",
        columns=(
            *(replace(column, nullable=column.name not in placed, minimum=None) for column in table.columns),
            Column("ordinal", "int64", "Position among the refused rows of the same key, from 0", minimum=0),
            Column("reason", "string", "Every rule that the row breaks, joined by a semicolon"),
        ),
        key=(*table.key, "ordinal"),
        partition_by=table.partition_by,
        time=table.time,
    )


def month_of(available_at: pd.Series) -> pd.Series:
    """Name the partition of each instant.

    Parameters
    ----------
    available_at
        Instants, ``datetime64[us, UTC]``, none missing.

    Returns
    -------
    pandas.Series
        ``str`` of the form ``YYYY-MM``, in UTC, with the same index.
    """
    months, inverse = np.unique(
        available_at.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[M]"),
        return_inverse=True,
    )
    return pd.Series(months.astype(str)[inverse], index=available_at.index, name="month", dtype="str")


def conform(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Put rows into the columns and types of ``table``, with ``month`` made from ``available_at``.

    Integers become floats where the table says so and instants become UTC microseconds; text is never parsed,
    since a column of text where numbers belong is a source that changed its format. Values are not judged.

    Parameters
    ----------
    frame
        At least the columns of ``table`` other than ``month``; others are left out.
    table
        A table with an ``available_at`` column.

    Raises
    ------
    BrokenSchemaError
        Naming every missing column, every column of the wrong type with what it holds, and the columns of the
        key that have missing values, with the first such rows.
    """
    expected = [column for column in table.columns if column.name != "month"]
    missing = [column.name for column in expected if column.name not in frame.columns]
    if missing:
        raise BrokenSchemaError(
            f"{table.name}: missing columns {missing}; the source gave {list(map(str, frame.columns))}. "
            "Map the source's columns to these names"
        )
    wrong = [
        f"{column.name} is {frame[column.name].dtype}, expected {PANDAS_DTYPE[column.dtype]}"
        for column in expected
        if not _kind_fits(frame[column.name], column)
    ]
    if wrong:
        raise BrokenSchemaError(f"{table.name}: wrong types: {'; '.join(wrong)}. Parse them where the source is read")
    keys = [column.name for column in expected if column.name in {*table.key, table.time}]
    holes = [f"{name} in row {int(np.flatnonzero(frame[name].isna())[0])}" for name in keys if frame[name].isna().any()]
    if holes:
        raise BrokenSchemaError(
            f"{table.name}: missing {', '.join(holes)}; a row without its key belongs nowhere. "
            "Repair or remove the row in the source"
        )
    taken = frame[[column.name for column in expected]].reset_index(drop=True)
    typed = taken.astype({column.name: _storable(taken[column.name], column) for column in expected})
    typed["month"] = month_of(typed["available_at"])
    return typed[list(table.names)]


def _storable(values: pd.Series, column: Column) -> str:
    # Whole numbers with holes (a size that was not quoted) have no integer type: they stay floats, to be
    # refused.
    whole_with_holes = column.dtype in ("int64", "int32") and bool(values.isna().any())
    return "float64" if whole_with_holes else PANDAS_DTYPE[column.dtype]


def _kind_fits(values: pd.Series, column: Column) -> bool:
    types = pd.api.types
    if column.dtype in ("float64", "float32", "int64", "int32"):
        return types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    if column.dtype == "timestamp":
        return isinstance(values.dtype, pd.DatetimeTZDtype)
    if column.dtype == "date":
        return types.is_datetime64_dtype(values)
    if column.dtype == "bool":
        return types.is_bool_dtype(values)
    return types.is_string_dtype(values)


def reasons_of(rules: Iterable[tuple[str, np.ndarray]], rows: int) -> np.ndarray:
    """Join the reasons of all rules that a row breaks by ``"; "``; empty where it breaks none.

    Parameters
    ----------
    rules
        Reason and a boolean mask, true where the rule is broken.
    rows
        Number of rows.
    """
    reasons = np.full(rows, "", dtype=object)
    for reason, broken in rules:
        first = broken & (reasons == "")
        reasons[broken & ~first] += f"; {reason}"
        reasons[first] = reason
    return reasons


def duplicate_rules(frame: pd.DataFrame, key: Collection[str], judged: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Two rules about rows that share a key: copies of a row, and rows that contradict one another.

    Of identical rows the first stays. Of contradicting rows none does: nothing in the data says which is
    true.

    Parameters
    ----------
    frame
        The rows.
    key
        Columns that make a row unique.
    judged
        Rows that other rules accept; the others take no part.
    """
    names = list(key)
    copies = np.zeros(len(frame), dtype=bool)
    conflicts = np.zeros(len(frame), dtype=bool)
    good = frame[judged]
    identical = good.duplicated(keep="first").to_numpy()
    copies[np.flatnonzero(judged)[identical]] = True
    distinct = good[~identical]
    contradicting = distinct.duplicated(names, keep=False).to_numpy()
    conflicts[np.flatnonzero(judged)[~identical][contradicting]] = True
    # Copies of a contradicted row are part of the contradiction, but keep their own, equally true, reason.
    return [("repeats an identical row", copies), ("contradicts another row of the same key", conflicts)]


def split(frame: pd.DataFrame, reasons: np.ndarray, table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part the accepted rows, sorted by the key, from those that go to quarantine.

    Parameters
    ----------
    frame
        Conformed rows.
    reasons
        One a row; empty where the row is accepted.
    table
        The table the accepted rows go to.
    """
    refused = reasons != ""
    accepted = frame[~refused].sort_values(list(table.key), kind="stable", ignore_index=True)
    # The rules should have let nothing through that the table forbids. The frame itself goes on, not pandera's
    # copy, which would count the days in nanoseconds.
    table.schema().validate(accepted, lazy=True)
    aside = frame[refused].copy()
    aside["ordinal"] = aside.groupby(list(table.key), sort=False).cumcount().astype("int64")
    aside["reason"] = pd.Series(reasons[refused], index=aside.index, dtype="str")
    target = quarantine_table(table)
    aside = aside.astype({c.name: PANDAS_DTYPE[c.dtype] for c in target.columns if c.dtype not in ("int64", "int32")})
    aside = aside.sort_values(list(target.key), kind="stable", ignore_index=True)
    return accepted, aside[list(target.names)]

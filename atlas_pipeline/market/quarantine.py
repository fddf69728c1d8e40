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
    months = available_at.to_numpy("datetime64[us]").astype("datetime64[M]").astype("int64")
    if not len(months):
        return pd.Series(index=available_at.index, name="month", dtype="str")
    first = int(months.min())
    names = pd.array(np.arange(first, months.max() + 1).astype("datetime64[M]").astype(str), dtype="str")
    return pd.Series(names.take(months - first), index=available_at.index, name="month")


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
        for row in np.flatnonzero(broken):
            reasons[row] = f"{reasons[row]}; {reason}" if reasons[row] else reason
    return reasons


def key_codes(frame: pd.DataFrame, key: Iterable[str]) -> list[np.ndarray]:
    """Give each column of a key as numbers that are ordered as its values are.

    Numbers are compared a hundred times as fast as text.

    Parameters
    ----------
    frame
        The rows.
    key
        Columns of text, instants, days or numbers.
    """
    codes = []
    for name in key:
        values = frame[name]
        if pd.api.types.is_string_dtype(values):
            codes.append(pd.factorize(values, sort=True)[0])
        elif isinstance(values.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(values):
            codes.append(values.to_numpy("datetime64[us]").astype("int64"))
        else:
            codes.append(values.to_numpy())
    return codes


def ascending(codes: list[np.ndarray], *, strictly: bool = False) -> bool:
    """Say whether rows with these ``key_codes`` are sorted, ``strictly``: without two of the same key.

    A missing number breaks any order.
    """
    undecided = np.ones(max(0, len(codes[0]) - 1), dtype=bool)
    for code in codes:
        before, after = code[:-1], code[1:]
        if (undecided & ~(before <= after)).any():
            return False
        undecided &= before == after
    return not (strictly and undecided.any())


def sort_by_key(frame: pd.DataFrame, key: Collection[str]) -> pd.DataFrame:
    """Sort rows by some columns, rows of the same key staying in the order in which they came."""
    codes = key_codes(frame, key)
    if ascending(codes):
        return frame.reset_index(drop=True)
    return frame.take(np.lexsort(codes[::-1])).reset_index(drop=True)


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
    rows = np.flatnonzero(judged)
    codes = [code[rows] for code in key_codes(frame, names)]
    if not ascending(codes, strictly=True):
        # Few rows share a key, and only those are compared whole.
        rows = rows[pd.DataFrame(dict(enumerate(codes))).duplicated(keep=False).to_numpy()]
        shared = frame.take(rows)
        identical = shared.duplicated(keep="first").to_numpy()
        copies[rows[identical]] = True
        conflicts[rows[~identical][shared[~identical].duplicated(names, keep=False).to_numpy()]] = True
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
    accepted = sort_by_key(frame[~refused] if refused.any() else frame, table.key)
    require_conforming(accepted, table)
    aside = frame[refused].copy()
    aside["ordinal"] = aside.groupby(list(table.key), sort=False).cumcount().astype("int64")
    aside["reason"] = pd.Series(reasons[refused], index=aside.index, dtype="str")
    target = quarantine_table(table)
    aside = aside.astype({c.name: PANDAS_DTYPE[c.dtype] for c in target.columns if c.dtype not in ("int64", "int32")})
    return accepted, sort_by_key(aside, target.key)[list(target.names)]


def require_conforming(frame: pd.DataFrame, table: Table) -> None:
    """Refuse rows that their table forbids: the rules of a room should have let none of them through.

    Raises
    ------
    pandera.errors.SchemaErrors
        Naming each row and what it breaks.
    """
    # pandera takes minutes for what can be seen in a second; it is called to say what is wrong.
    if not _conforms(frame, table):
        table.schema().validate(frame, lazy=True)


def _conforms(frame: pd.DataFrame, table: Table) -> bool:
    if tuple(frame.columns) != table.names:
        return False
    for column in table.columns:
        values = frame[column.name]
        if values.dtype != PANDAS_DTYPE[column.dtype]:
            return False
        if not column.nullable and values.isna().any():
            return False
        if column.minimum is not None and (values < column.minimum).any():
            return False
    codes = key_codes(frame, table.key)
    return ascending(codes, strictly=True) or not pd.DataFrame(dict(enumerate(codes))).duplicated().any()

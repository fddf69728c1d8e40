"""What every table's blocking check judges: its schema and its keys, over the table's whole state."""

from __future__ import annotations

import dagster as dg
import pandas as pd

from assets.metadata import frame
from atlas_pipeline.market.table import Table
from resources.warehouse import Warehouse


def stored(warehouse: Warehouse, table: Table) -> pd.DataFrame:
    """Return all rows of a table.

    Raises
    ------
    dagster.Failure
        Where there are none: a check of nothing would be green.
    """
    rows = warehouse.read(table)
    if rows.empty:
        raise dg.Failure(f"table {table.name} has no rows: materialize its asset first", allow_retries=False)
    return rows


def schema_result(table: Table, rows: pd.DataFrame, warehouse: Warehouse) -> dg.AssetCheckResult:
    """Judge rows by the table's declaration and count keys that occur twice in the lake."""
    import pandera.errors

    duplicates = warehouse.duplicates(table)
    try:
        table.schema().validate(rows, lazy=True)
        failures = pd.DataFrame(columns=["column", "check", "failure_case", "index"])
    except pandera.errors.SchemaErrors as error:
        failures = error.failure_cases[["column", "check", "failure_case", "index"]]
    passed = failures.empty and duplicates.empty
    return dg.AssetCheckResult(
        passed=passed,
        description=None
        if passed
        else f"{table.name}: {len(failures)} values break the schema, {len(duplicates)} keys occur twice",
        metadata={"rows": len(rows), "failures": frame(failures.head(20)), "duplicates": frame(duplicates.head(20))},
    )

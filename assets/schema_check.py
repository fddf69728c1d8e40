"""What every table's blocking check judges: its schema and its keys, over the table's whole state."""

from __future__ import annotations

import dagster as dg
import pandas as pd

from assets.metadata import frame
from atlas_pipeline.market.table import Table
from resources.inspection import ONE_ROW_A_KEY
from resources.warehouse import Warehouse


def require_rows(warehouse: Warehouse, table: Table) -> int:
    """Return the number of a table's rows.

    Raises
    ------
    dagster.Failure
        Where there are none: a check of nothing would be green.
    """
    rows = warehouse.row_count(table)
    if not rows:
        raise dg.Failure(f"table {table.name} has no rows: materialize its asset first", allow_retries=False)
    return rows


def stored(warehouse: Warehouse, table: Table) -> pd.DataFrame:
    """Return all rows of a table that is known to be small; of another, ask ``counts`` or go through ``scan``.

    Raises
    ------
    dagster.Failure
        Where there are none; see ``require_rows``.
    """
    require_rows(warehouse, table)
    return warehouse.read(table)


def schema_result(table: Table, warehouse: Warehouse) -> dg.AssetCheckResult:
    """Judge a stored table by its declaration, in the engine: column types, nulls, minimums, months, keys."""
    broken = warehouse.violations(table)
    keys = broken["rule"] == ONE_ROW_A_KEY
    shown = [f"{first.column} {first.rule}, but {first.examples}" for first in broken.head(3).itertuples()]
    return dg.AssetCheckResult(
        passed=broken.empty,
        description=None
        if broken.empty
        else f"{table.name}: {broken.loc[~keys, 'rows'].sum()} values break the schema, "
        f"{broken.loc[keys, 'rows'].sum()} keys occur twice: {'. '.join(shown)}",
        metadata={"rows": warehouse.row_count(table), "violations": frame(broken)},
    )

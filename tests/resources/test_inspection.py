"""What checks ask: counts, duplicate keys, what breaks the declaration."""

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.table import Column, Table
from resources import ducklake
from resources.inspection import ONE_ROW_A_KEY
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, GATE, LEDGER, bars, decisions


def test_duplicates_are_shown(warehouse: Warehouse) -> None:
    warehouse.append(LEDGER, decisions(1, 2))
    with warehouse.session() as lake:
        lake._connection.execute(f"INSERT INTO {lake._name(LEDGER)} SELECT * FROM {lake._name(LEDGER)} LIMIT 1")
    found = warehouse.duplicates(LEDGER)
    assert found["available_at"].tolist() == [pd.Timestamp("2016-01-01", tz="UTC")]
    assert found["rows"].tolist() == [2]


MONTH = "is the month of available_at"


def sql(warehouse: Warehouse, statement: str) -> None:
    """Change the lake behind the warehouse's back."""
    with warehouse.session() as lake:
        lake._connection.execute(statement.format(lake=f"{lake._alias}.main"))


def test_rows_are_counted_by_columns(warehouse: Warehouse) -> None:
    assert warehouse.counts(BARS, ["symbol"]).empty
    warehouse.replace(BARS, {"2016-01": bars("2016-01"), "2016-02": bars("2016-02", 1)})
    counts = warehouse.counts(BARS, ["symbol", "month"])
    assert counts["rows"].tolist() == [3, 1, 3, 1] and counts["rows"].dtype == "int64"
    assert counts["month"].tolist() == ["2016-01", "2016-02"] * 2
    assert counts["first"].iloc[0] == pd.Timestamp("2016-01-01 21:00", tz="UTC")
    assert counts["last"].iloc[0] == pd.Timestamp("2016-01-03 21:00", tz="UTC")
    assert warehouse.counts(BARS, ["session"])["session"].dtype == "datetime64[us]"
    assert warehouse.counts(BARS, [], where={"symbol": "B"}, partitions=["2016-01"])["rows"].tolist() == [3]
    warehouse.append(GATE, pd.DataFrame({"step": [1], "verdict": ["wait"]}))
    assert warehouse.counts(GATE, ["verdict"]).columns.tolist() == ["verdict", "rows"]
    assert warehouse.row_count(GATE) == 1 and warehouse.row_count(LEDGER) == 0
    with pytest.raises(ValueError, match="no columns"):
        warehouse.counts(BARS, ["price"])


@pytest.mark.parametrize("days", [3, ducklake.INLINED_ROWS], ids=["inlined", "parquet"])
def test_what_conforms_has_no_violations(warehouse: Warehouse, days: int) -> None:
    assert warehouse.violations(BARS).empty
    rows = bars("2016-01", days)
    rows.loc[1, ["weight", "session", "note"]] = [np.nan, pd.NaT, None]
    warehouse.replace(BARS, {"2016-01": rows, "2016-02": bars("2016-02")})
    warehouse.append(GATE, pd.DataFrame({"step": [1], "verdict": ["wait"]}))
    assert warehouse.violations(BARS).empty
    assert warehouse.violations(GATE).empty


@pytest.mark.parametrize(
    ("change", "column", "rule", "rows", "example"),
    [
        ("close = -1 WHERE symbol = 'A'", "close", "is at least 0", 3, "A 2016-01-01 21:00:00: -1.0; A 2016-01-02"),
        ("close = 'nan' WHERE symbol = 'B'", "close", "is not null", 3, "B 2016-01-01 21:00:00: nan"),
        ("volume = NULL WHERE count = 4", "volume", "is not null", 1, "B 2016-01-02 21:00:00: None"),
        ("month = '2016-02' WHERE count = 0", "month", MONTH, 1, "2016-01-01 21:00:00: 2016-02"),
        ("available_at = TIMESTAMPTZ '2016-02-01' WHERE count = 1", "month", MONTH, 1, "00:00:00: 2016-01"),
        ("symbol = 'A'", "symbol, available_at", ONE_ROW_A_KEY, 3, "A 2016-01-01 21:00:00: 2 rows"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("long", [False, True])
def test_what_breaks_the_declaration_is_named(
    warehouse: Warehouse, change: str, column: str, rule: str, rows: int, example: str, long: bool
) -> None:
    warehouse.replace(BARS, {"2016-01": bars("2016-01")})
    if long:
        warehouse.replace(BARS, {"2017-01": bars("2017-01", ducklake.INLINED_ROWS)})
        change = (
            change.replace("WHERE", "WHERE month = '2016-01' AND")
            if "WHERE" in change
            else f"{change} WHERE month < '2017'"
        )
    sql(warehouse, f"UPDATE {{lake}}.bars SET {change}")
    (found,) = warehouse.violations(BARS).itertuples()
    assert (found.column, found.rule, found.rows) == (column, rule, rows)
    assert example in found.examples


def test_another_type_is_named(warehouse: Warehouse) -> None:
    warehouse.append(GATE, pd.DataFrame({"step": [500], "verdict": ["wait"]}))
    columns = (Column("step", "string", "step"), Column("why", "string", "reason"))
    found = warehouse.violations(Table("gate_decisions", "verdicts", columns, key=("step",))).set_index("column")
    assert found.loc["step", ["rule", "rows", "examples"]].tolist() == ["is VARCHAR", 1, "is BIGINT"]
    assert found.loc["why", "examples"] == "is not stored"
    assert found.loc["verdict", "rule"] == "is not declared"


def test_keys_that_span_partitions_are_compared_over_the_table(warehouse: Warehouse) -> None:
    columns = (Column("part", "string", "part"), Column("row", "int64", "row"))
    table = Table("rows", "rows", columns, key=("row",), partition_by="part")
    for part in ("p", "q"):
        warehouse.replace(table, {part: pd.DataFrame({"part": pd.Series([part], dtype="str"), "row": [1]})})
    assert warehouse.duplicates(table)["rows"].tolist() == [2]
    assert warehouse.violations(table)["rule"].tolist() == [ONE_ROW_A_KEY]

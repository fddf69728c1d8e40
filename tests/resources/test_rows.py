"""Rows of a declared table: what conforms, what is refused, the content version."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.rows import InvalidRowsError, conforming_rows, content_version
from resources.warehouse import Warehouse
from tests.resources.tables import BARS, GATE, bars


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_content_version_follows_the_content_alone(order: list[int], row: int) -> None:
    frame = bars("2016-01")
    version = content_version(BARS, frame)
    assert content_version(BARS, frame.iloc[list(order)]) == version
    changes = {
        "close": 0.5,
        "note": "x",
        "weight": -1.0,
        "volume": 2**53,
        "session": pd.Timestamp("1999-01-01"),
    }
    for column, value in changes.items():
        other = frame.copy()
        other.loc[row, column] = value
        assert content_version(BARS, other) != version


def test_content_version_of_equal_values() -> None:
    frame = bars("2016-01").assign(close=[0.0, 1, 2, 3, 4, 5])
    assert content_version(BARS, frame.assign(close=[-0.0, 1, 2, 3, 4, 5])) == content_version(BARS, frame)
    null = np.array([np.nan], dtype="float32").view("uint32")
    odd = np.repeat((null | 1).view("float32"), 6)
    assert content_version(BARS, frame.assign(weight=odd)) == content_version(
        BARS, frame.assign(weight=np.float32("nan"))
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (bars("2016-01").assign(close=-1.0), r"close: .*-1\.0 in row 0"),
        (bars("2016-01").drop(columns="count"), "count"),
        (bars("2016-01").assign(extra=1), "extra"),
        (pd.concat([bars("2016-01")] * 2, ignore_index=True), "refuses 12 rows"),
        (bars("2016-01").assign(close=np.nan), "close"),
        (bars("2016-01").assign(close="much"), "close"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(warehouse: Warehouse, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(InvalidRowsError, match=message) as refusal:
        warehouse.replace(BARS, {"2016-02": bars("2016-02"), "2016-01": frame})
    assert "table 'bars'" in str(refusal.value)
    assert warehouse.snapshot() == 0
    assert warehouse.row_counts() == {}


def test_coercible_rows_are_coerced(warehouse: Warehouse) -> None:
    frame = pd.DataFrame({"step": ["500"], "verdict": ["wait"]})
    assert conforming_rows(GATE, frame)["step"].to_pylist() == [500]
    warehouse.append(GATE, frame)
    assert warehouse.read(GATE)["step"].tolist() == [500]

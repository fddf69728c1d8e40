from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.as_of import latest_as_of

LIMIT = timedelta(days=4)
START = pd.Timestamp("2015-01-05 21:00", tz="UTC").as_unit("us")


def rows(*entries: tuple[str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(entries, columns=["symbol", "available_at", "value"])
    times = pd.to_datetime(frame["available_at"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    return frame.assign(available_at=times, symbol=frame["symbol"].astype("str"))


def test_a_bar_gets_the_last_row_published_by_then_of_its_own_symbol():
    bars = rows(("A", "2015-01-06 21:00", 0), ("A", "2015-01-05 21:00", 0), ("B", "2015-01-06 21:00", 0))
    bars.index = [7, 3, 5]
    known = rows(("A", "2015-01-05 21:00", 1), ("A", "2015-01-06 21:00:00.000001", 2), ("B", "2015-01-06 20:59", 3))
    found = latest_as_of(bars, known, ["value"], LIMIT)
    # A microsecond after the bar is after the bar.
    pd.testing.assert_frame_equal(found, pd.DataFrame({"value": [1.0, 1.0, 3.0]}, index=[7, 3, 5]))


def test_a_row_of_exactly_the_limit_still_counts_and_an_older_one_does_not():
    known = rows(("A", "2015-01-05 21:00", 1))
    bars = rows(("A", "2015-01-09 21:00", 0), ("A", "2015-01-09 21:00:00.000001", 0))
    assert latest_as_of(bars, known, ["value"], LIMIT)["value"].tolist()[0] == 1.0
    assert latest_as_of(bars, known, ["value"], LIMIT)["value"].isna().tolist() == [False, True]


def test_a_missing_value_is_not_looked_for_in_an_older_row():
    known = rows(("A", "2015-01-05 21:00", 1), ("A", "2015-01-06 21:00", np.nan))
    assert latest_as_of(rows(("A", "2015-01-06 22:00", 0)), known, ["value"], LIMIT)["value"].isna().all()


def test_without_rows_or_bars_there_is_nothing():
    bars, none = rows(("A", "2015-01-06 21:00", 0)), rows()
    assert latest_as_of(bars, none, ["value"], LIMIT)["value"].isna().tolist() == [True]
    assert latest_as_of(none, bars, ["value"], LIMIT).empty
    assert latest_as_of(bars, none, ["value"], LIMIT)["value"].dtype == "float64"


def test_two_rows_of_one_instant_and_a_negative_limit_are_refused():
    known = rows(("A", "2015-01-05 21:00", 1), ("A", "2015-01-05 21:00", 2))
    with pytest.raises(ValueError, match=r"1 rows share symbol and available_at .* first A at 2015-01-05 21:00"):
        latest_as_of(known, known, ["value"], LIMIT)
    with pytest.raises(ValueError, match="negative"):
        latest_as_of(known, known[:1], ["value"], -LIMIT)


ENTRY = st.tuples(st.sampled_from("AB"), st.integers(0, 40))


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRY, max_size=30), st.lists(ENTRY, max_size=30, unique=True), st.integers(0, 15))
def test_it_equals_looking_through_all_rows(bars, known, limit):
    def frame(entries):
        times = pd.Series([START + timedelta(hours=hours) for _, hours in entries], dtype="datetime64[us, UTC]")
        symbols = pd.Series([symbol for symbol, _ in entries], dtype="str")
        return pd.DataFrame({"symbol": symbols, "available_at": times, "value": np.arange(len(entries), dtype=float)})

    found = latest_as_of(frame(bars), frame(known), ["value"], timedelta(hours=limit))["value"].to_numpy()
    for (symbol, hours), value in zip(bars, found, strict=True):
        usable = [(at, number) for number, (own, at) in enumerate(known) if own == symbol and 0 <= hours - at <= limit]
        np.testing.assert_equal(value, float(max(usable)[1]) if usable else np.nan)

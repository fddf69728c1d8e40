from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, QUARANTINED_BARS
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.errors import BrokenSchemaError
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.validation import validate_bars


def calendar_of(frame: pd.DataFrame) -> pd.DataFrame:
    return sessions(frame["session"].min(), frame["session"].max())


def refused(frame: pd.DataFrame, **options) -> pd.DataFrame:
    outcome = validate_bars(frame, calendar_of(frame), **options)
    assert len(outcome.bars) + len(outcome.quarantined) == len(frame)
    return outcome.quarantined


def test_all_bundled_bars_are_accepted_unchanged(bundled_bars):
    outcome = validate_bars(bundled_bars, calendar_of(bundled_bars))
    assert outcome.quarantined.empty
    expected = bundled_bars.sort_values(["symbol", "available_at"], ignore_index=True)
    pd.testing.assert_frame_equal(outcome.bars, expected)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("close", np.nan, "a price is missing"),
        ("open", np.nan, "a price is missing"),
        ("high", np.inf, "a price is infinite"),
        ("low", 0.0, "a price is not positive"),
        ("close", -5.0, "a price is not positive"),
        ("high", 50.0, "high is below open, low or close; low is above open, high or close"),
        ("low", 130.0, "high is below open, low or close; low is above open, high or close"),
        ("volume", -1.0, "volume is negative or infinite"),
        ("volume", np.inf, "volume is negative or infinite"),
        ("session", pd.NaT, "session is missing"),
        ("session", pd.Timestamp("2015-01-25"), "the exchange does not trade on this session"),
        ("available_at", pd.Timestamp("2015-01-30 20:59", tz="UTC"), "available_at is not the close of the session"),
    ],
)
def test_each_rule_refuses_its_row_and_no_other(make_bars, column, value, reason):
    bars = make_bars()
    bars.loc[19, column] = value
    outcome = refused(bars)
    assert outcome["reason"].tolist() == [reason]
    assert outcome["month"].tolist() == ["2015-01"]
    QUARANTINED_BARS.schema().validate(outcome, lazy=True)


def test_a_missing_volume_is_a_fact_and_stays(make_bars):
    bars = make_bars()
    bars["volume"] = np.nan
    assert refused(bars).empty


def test_identical_duplicates_keep_one_and_contradicting_ones_none(make_bars):
    bars = make_bars()
    other = bars.iloc[[7]].assign(close=lambda row: row["open"])
    outcome = refused(pd.concat([bars, bars.iloc[[3]], bars.iloc[[3]], other]))
    repeats = outcome[outcome["available_at"] == bars["available_at"][3]]
    assert repeats["reason"].unique().tolist() == ["repeats an identical row"]
    assert repeats["ordinal"].tolist() == [0, 1]
    contradictions = outcome[outcome["available_at"] == bars["available_at"][7]]
    assert contradictions["reason"].unique().tolist() == ["contradicts another row of the same key"]
    assert len(contradictions) == 2


def test_a_broken_duplicate_does_not_cost_the_good_bar(make_bars):
    bars = make_bars()
    outcome = refused(pd.concat([bars, bars.iloc[[7]].assign(close=np.nan)]))
    assert outcome["reason"].tolist() == ["a price is missing"]


def test_a_misplaced_decimal_point_is_refused_and_the_way_back_is_not(make_bars):
    bars = make_bars()
    bars.loc[30, ["open", "high", "low", "close"]] *= 10
    bars.loc[40, "low"] /= 100
    outcome = refused(bars)
    assert outcome["session"].tolist() == bars["session"][[30, 40]].tolist()
    assert outcome["reason"].unique().tolist() == ["price is off the last accepted close by more than a factor of 5"]


def test_the_first_bar_of_a_month_is_compared_with_history(make_bars):
    bars = make_bars()
    history, month = bars[:40], bars[40:].copy()
    month.iloc[0, month.columns.get_indexer(["open", "high", "low", "close"])] *= 10
    alone = refused(month)  # nothing tells that the first of its bars is the wrong one
    assert alone["available_at"].tolist() == [month["available_at"].iloc[1]]
    assert refused(month, history=history)["available_at"].tolist() == [month["available_at"].iloc[0]]


def test_an_unknown_split_costs_one_bar_and_a_recorded_one_none(make_bars):
    bars = make_bars()
    bars.loc[30:, ["open", "high", "low", "close"]] /= 7
    assert refused(bars)["session"].tolist() == [bars["session"][30]]
    action = pd.DataFrame(
        {
            "symbol": ["AAA"],
            "available_at": [bars["available_at"][30] - timedelta(hours=7)],
            "session": [bars["session"][30]],
            "kind": ["split"],
            "value": [7.0],
        }
    )
    outcome = validate_bars(bars, calendar_of(bars), actions=conform(action, CORPORATE_ACTIONS))
    assert outcome.quarantined.empty
    assert "jump" not in set(outcome.tripwires["kind"])


def test_acceptance_never_depends_on_later_bars(make_bars):
    bars = make_bars(count=50)
    bars.loc[20, ["open", "high", "low", "close"]] *= 8
    bars.loc[35, "close"] *= 1.8
    bars.loc[35, "high"] *= 2
    whole = validate_bars(bars, calendar_of(bars))
    for cut in (1, 2, 20, 21, 22, 23, 35, 36, 37, 49):
        part = validate_bars(bars[:cut], calendar_of(bars))
        last = bars["available_at"][cut - 1]
        pd.testing.assert_frame_equal(part.bars, whole.bars[whole.bars["available_at"] <= last])


def test_missing_columns_and_wrong_types_are_one_clear_error(make_bars):
    bars = make_bars()
    with pytest.raises(BrokenSchemaError, match=r"missing columns \['high', 'volume'\]"):
        validate_bars(bars.drop(columns=["high", "volume"]), calendar_of(bars))
    with pytest.raises(BrokenSchemaError, match=r"open is str.*close is bool"):
        validate_bars(bars.assign(open="12.5", close=True), calendar_of(bars))
    with pytest.raises(BrokenSchemaError, match=r"available_at is datetime64\[us\]"):
        naive = bars.assign(available_at=bars["available_at"].dt.tz_localize(None))
        validate_bars(naive, calendar_of(bars))
    keyless = bars.copy()
    keyless.loc[4, "available_at"] = pd.NaT
    with pytest.raises(BrokenSchemaError, match="available_at in row 4"):
        validate_bars(keyless, calendar_of(bars))


def test_sessions_that_do_not_cover_the_bars_are_refused(make_bars):
    bars = make_bars()
    with pytest.raises(ValueError, match="sessions cover"):
        validate_bars(bars, sessions(datetime(2015, 1, 2), datetime(2015, 2, 2)))


def test_no_bars_at_all_are_valid():
    none = pd.DataFrame({name: [] for name in BARS.names}).astype(
        {
            **dict.fromkeys(("open", "high", "low", "close", "volume"), "float64"),
            **dict.fromkeys(("symbol", "interval", "month"), "str"),
            "available_at": "datetime64[us, UTC]",
            "session": "datetime64[us]",
        }
    )
    outcome = validate_bars(none, sessions(datetime(2015, 1, 2), datetime(2015, 2, 2)))
    assert outcome.bars.empty
    assert outcome.quarantined.empty
    assert outcome.tripwires.empty


PRICE = st.one_of(
    st.floats(80, 120), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-300, 1e300, 100.0, 1000.0])
)
ROW = st.tuples(
    st.sampled_from(["AAA", "BBB"]),
    st.integers(0, 12),
    st.integers(-1, 1),
    PRICE,
    PRICE,
    PRICE,
    PRICE,
    st.sampled_from([np.nan, 0.0, 5.0, -1.0, np.inf]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROW, max_size=25))
def test_every_row_goes_somewhere_and_what_is_let_in_is_sound(rows):
    days = sessions(datetime(2015, 1, 2), datetime(2015, 1, 30))
    frame = pd.DataFrame(rows, columns=["symbol", "day", "minutes", "open", "high", "low", "close", "volume"])
    frame = frame.astype(
        {"day": int, "minutes": int, **dict.fromkeys(("open", "high", "low", "close", "volume"), float)}
    )
    frame["symbol"] = frame["symbol"].astype("str")
    picked = days.iloc[frame["day"]].reset_index(drop=True)
    frame["interval"] = pd.Series("1d", index=frame.index, dtype="str")
    frame["session"] = picked["session"]
    frame["available_at"] = picked["available_at"] + pd.to_timedelta(frame["minutes"], unit="min")
    outcome = validate_bars(frame, days)
    assert len(outcome.bars) + len(outcome.quarantined) == len(frame)
    assert not outcome.quarantined.duplicated(list(QUARANTINED_BARS.key)).any()
    assert (outcome.quarantined["reason"] != "").all()
    bars = outcome.bars
    assert not bars.duplicated(list(BARS.key)).any()
    assert (bars["high"] >= bars[["open", "low", "close"]].max(axis=1)).all()
    assert (bars["low"] <= bars[["open", "high", "close"]].min(axis=1)).all()
    assert np.isfinite(bars[["open", "high", "low", "close"]].to_numpy()).all()
    assert (bars["low"] > 0).all()
    assert bars["available_at"].isin(days["available_at"]).all()
    QUARANTINED_BARS.schema().validate(outcome.quarantined, lazy=True)
    both = [
        outcome.bars[frame.columns.drop(["day", "minutes"])],
        outcome.quarantined[frame.columns.drop(["day", "minutes"])],
    ]
    out = pd.concat(both).sort_values(list(both[0].columns), ignore_index=True)
    came = frame[out.columns].sort_values(list(out.columns), ignore_index=True)
    pd.testing.assert_frame_equal(out, came, check_dtype=False)

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, QUARANTINED_BARS
from atlas_pipeline.market.calendars import bar_grid, sessions
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


def intraday(days: pd.DataFrame, interval: str) -> pd.DataFrame:
    grid = bar_grid(days, interval)
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, len(grid))))
    prices = {"open": close, "high": close * 1.001, "low": close * 0.999, "close": close, "volume": 10.0}
    return conform(grid.assign(symbol="AAA", interval=interval, **prices), BARS)


@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "90m"])
def test_intraday_bars_on_the_grid_are_let_in_half_days_included(interval):
    days = sessions(datetime(2015, 10, 30), datetime(2015, 11, 30))
    bars = intraday(days, interval)
    outcome = validate_bars(bars, days)
    assert outcome.quarantined.empty
    pd.testing.assert_frame_equal(outcome.bars, bars)


@pytest.mark.parametrize(
    ("minutes", "reason"),
    [
        (0, "available_at is the opening of the session: labelled by its start"),
        (-5, "available_at lies outside the session"),
        (211, "available_at lies outside the session"),
        (395, "available_at lies outside the session"),
        (7, "available_at is no end of a 5m bar counted from the opening"),
        (5.5, "available_at is no end of a 5m bar counted from the opening"),
    ],
)
def test_intraday_bars_beside_the_grid_are_refused_with_the_reason(minutes, reason):
    days = sessions(datetime(2015, 11, 25), datetime(2015, 11, 30))
    half_day = days[days["session"] == "2015-11-27"].iloc[0]
    bars = intraday(days, "5m")
    at = int(bars.index[bars["session"] == half_day["session"]][20])
    bars.loc[at, "available_at"] = half_day["opens_at"] + timedelta(minutes=minutes)
    outcome = validate_bars(bars, days)
    assert outcome.quarantined["reason"].tolist() == [reason]
    assert len(outcome.bars) == len(bars) - 1


@pytest.mark.parametrize("interval", ["1m", "5m", "1h"])
def test_a_session_labelled_by_the_starts_of_its_bars_is_refused_whole(interval):
    days = sessions(datetime(2015, 11, 25), datetime(2015, 11, 30))
    bars = intraday(days, interval)
    own = bars["session"] == days["session"][0]
    ends = bars.loc[own, "available_at"]
    bars.loc[own, "available_at"] = ends.shift(fill_value=days["opens_at"][0])
    outcome = validate_bars(bars, days)
    assert len(outcome.quarantined) == own.sum() and len(outcome.bars) == (~own).sum()
    assert outcome.quarantined["reason"].str.contains("each is the start of its bar").all()


def test_hours_of_a_session_that_is_no_multiple_of_them_end_with_the_close():
    days = sessions(datetime(2015, 11, 24), datetime(2015, 11, 25))
    bars = intraday(days, "1h")
    past_the_close = bars["available_at"] == days["available_at"][0]
    bars.loc[past_the_close, "available_at"] += timedelta(minutes=30)
    assert validate_bars(bars, days).quarantined["reason"].tolist() == ["available_at lies outside the session"]


def test_a_bar_of_another_session_than_its_instants_is_refused():
    days = sessions(datetime(2015, 11, 23), datetime(2015, 11, 25))
    bars = intraday(days, "5m")
    bars.loc[3, "session"] = days["session"][1]
    assert validate_bars(bars, days).quarantined["reason"].tolist() == ["available_at lies outside the session"]


def test_several_intervals_are_judged_by_their_own_grids():
    days = sessions(datetime(2015, 11, 23), datetime(2015, 11, 25))
    bars = pd.concat([intraday(days, "5m"), intraday(days, "1h"), intraday(days, "1d")], ignore_index=True)
    assert validate_bars(bars, days).quarantined.empty
    wrong = bars.assign(interval=bars["interval"].replace({"5m": "15m"}))
    reasons = validate_bars(wrong, days).quarantined["reason"].value_counts().to_dict()
    assert reasons == {"available_at is no end of a 15m bar counted from the opening": 3 * 52}
    with pytest.raises(ValueError, match="interval '5min' is none"):
        validate_bars(bars.assign(interval="5min"), days)


@pytest.mark.parametrize(("interval", "last"), [("1wk", "04-02"), ("1mo", "03-31"), ("3mo", "03-31")])
def test_bars_of_weeks_and_months_end_with_the_last_session_of_their_period(make_bars, interval, last):
    days = sessions(datetime(2015, 3, 2), datetime(2015, 4, 30))
    bars = make_bars(count=1).iloc[[0, 0, 0]].reset_index(drop=True).assign(interval=interval)
    picked = days[days["session"].isin([pd.Timestamp(f"2015-{last}"), *pd.to_datetime(["2015-03-11", "2015-03-12"])])]
    bars["session"], bars["available_at"] = picked["session"].to_numpy(), picked["available_at"].reset_index(drop=True)
    bars.loc[1, "available_at"] -= timedelta(minutes=1)
    outcome = validate_bars(bars, days)
    assert outcome.bars["session"].dt.strftime("%m-%d").tolist() == [last]
    assert outcome.quarantined["reason"].tolist() == [
        f"session is not the last of its {interval}",
        "available_at is not the close of the session",
    ]
    with pytest.raises(ValueError, match=f"the last one of {interval} bars: pass at least one more"):
        validate_bars(bars, days[days["session"] <= bars["session"].max()])


def test_bars_of_several_sessions_need_only_end_with_one(make_bars):
    bars = make_bars(count=9)[::3].reset_index(drop=True).assign(interval="3d")
    assert validate_bars(bars, calendar_of(bars)).quarantined.empty


def test_where_trading_never_stops_bars_are_let_in():
    days = sessions(datetime(2024, 2, 27), datetime(2024, 3, 3), "24/7")
    for interval in ("1h", "1d"):
        bars = intraday(days, interval)
        assert validate_bars(bars, days).quarantined.empty


def test_a_dividend_of_most_of_the_price_explains_a_fall_and_an_impossible_action_explains_nothing(make_bars):
    bars = make_bars()
    level = bars["close"][29]
    bars.loc[30:, ["open", "high", "low", "close"]] /= 10
    action = {"symbol": "AAA", "available_at": bars["available_at"][30], "session": bars["session"][30]}
    rows = [{**action, "kind": "dividend", "value": 0.9 * level}]
    paid = conform(pd.DataFrame(rows), CORPORATE_ACTIONS)
    assert refused(bars)["session"].tolist() == [bars["session"][30]]
    assert refused(bars, actions=paid).empty
    for value in (2 * level, np.nan, -1.0, np.inf):
        assert len(refused(bars, actions=paid.assign(value=value))) == 1


def test_a_split_while_bars_are_refused_moves_both_levels(make_bars):
    bars = make_bars()
    prices = ["open", "high", "low", "close"]
    bars.loc[30:, prices] /= 2
    bars.loc[29, prices] *= 9  # refused; the split comes the day after
    action = bars.loc[[30], ["symbol", "session", "available_at"]].assign(kind="split", value=2.0)
    split = conform(action, CORPORATE_ACTIONS)
    assert refused(bars, actions=split)["session"].tolist() == [bars["session"][29]]
    bars.loc[30, prices] *= 9
    # Where the second of two agrees with the first in the units of its own day, the new level is confirmed.
    assert refused(bars, actions=split)["session"].tolist() == bars["session"][[29, 31]].tolist()


def test_levels_are_followed_as_bar_by_bar(make_bars):
    """The reference keeps two levels, the last accepted and the last refused, and a bar must fit one of them."""
    random = np.random.default_rng(11)
    bars = pd.concat([make_bars(symbol, seed=seed) for seed, symbol in enumerate("ABCDEF")], ignore_index=True)
    steps = random.choice([1.0, 6.0, 1 / 6, 40.0], len(bars), p=[0.85, 0.05, 0.05, 0.05])
    steps *= np.where(random.random(len(bars)) < 0.05, 7.0, 1.0).cumprod() ** 0.2
    prices = ["open", "high", "low", "close"]
    bars[prices] = bars[prices].to_numpy() * steps[:, None]
    expected = []
    for _, own in bars.groupby("symbol"):
        accepted = rejected = own["close"].iloc[0]
        for row in own.iloc[1:].itertuples():
            if any(row.high <= 5 * level and row.low * 5 >= level for level in (accepted, rejected)):
                accepted = rejected = row.close
            else:
                rejected = row.close
                expected.append(row.available_at)
    assert 20 < len(expected) < 200
    assert sorted(refused(bars)["available_at"]) == sorted(expected)


def test_a_frame_in_any_order_is_judged_alike(make_bars):
    bars = pd.concat([make_bars(), make_bars("BBB", seed=1)], ignore_index=True)
    bars.loc[[7, 70], "close"] *= 20
    bars.loc[[9, 90], "high"] = np.nan
    bars = pd.concat([bars, bars.iloc[[3, 3, 50]]], ignore_index=True)
    sorted_, shuffled = (
        validate_bars(frame, calendar_of(bars)) for frame in (bars, bars.sample(frac=1, random_state=2))
    )
    pd.testing.assert_frame_equal(shuffled.bars, sorted_.bars)
    pd.testing.assert_frame_equal(shuffled.quarantined, sorted_.quarantined)

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BAR_TRIPWIRES, BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import bar_grid, sessions
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.tripwires import HISTORY_BARS, ZERO_VOLUME_BARS
from atlas_pipeline.market.validation import validate_bars

PRICES = ["open", "high", "low", "close"]


def calendar_of(frame: pd.DataFrame) -> pd.DataFrame:
    return sessions(frame["session"].min(), frame["session"].max())


def tripped(frame: pd.DataFrame, kind: str | None = None, **options) -> pd.DataFrame:
    outcome = validate_bars(frame, calendar_of(frame), **options)
    assert outcome.quarantined.empty
    BAR_TRIPWIRES.schema().validate(outcome.tripwires, lazy=True)
    found = outcome.tripwires
    return found if kind is None else found[found["kind"] == kind].reset_index(drop=True)


def action(bars: pd.DataFrame, row: int, kind: str, value: float) -> pd.DataFrame:
    frame = bars.loc[[row], ["symbol", "session", "available_at"]].assign(kind=kind, value=value)
    return conform(frame.assign(available_at=frame["available_at"] - timedelta(hours=6)), CORPORATE_ACTIONS)


def minutes(count: int) -> pd.DataFrame:
    """Bars of five minutes, each beginning where the last ended, but for the night."""
    days = sessions(date(2015, 1, 2), date(2015, 1, 2) + timedelta(days=400))
    grid = bar_grid(days, "5m").head(count)
    random = np.random.default_rng(0)
    overnight = 0.002 * grid["session"].ne(grid["session"].shift()).to_numpy()
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, count) + overnight))
    open_ = np.r_[100.0, close[:-1]] * np.exp(overnight)
    return conform(
        grid.assign(
            symbol="AAA",
            interval="5m",
            open=open_,
            high=np.maximum(open_, close) * 1.0005,
            low=np.minimum(open_, close) * 0.9995,
            close=close,
            volume=random.integers(1, 1000, count).astype("float64"),
        ),
        BARS,
    )


def test_sound_bars_trip_nothing(make_bars):
    assert tripped(pd.concat([make_bars(count=300), make_bars("BBB", count=200, seed=1)])).empty
    assert tripped(minutes(3000)).empty


def test_a_jump_is_remarked_upon_and_kept(make_bars):
    bars = make_bars()
    bars.loc[30:, PRICES] *= 1.5
    jumps = tripped(bars)
    assert jumps["kind"].tolist() == ["jump"]
    assert jumps["session"].tolist() == [bars["session"][30]]
    assert jumps["value"][0] > 12
    assert "a return of +48.5% is 35.3 trailing deviations" in jumps["message"][0]
    assert tripped(bars, jump_sigmas=100.0).empty


@pytest.mark.parametrize(
    ("kind", "value", "factor"), [("split", 2.0, 0.5), ("split", 0.25, 4.0), ("dividend", 40.0, None)]
)
def test_a_corporate_action_explains_a_jump_and_its_absence_does_not(make_bars, kind, value, factor):
    bars = make_bars()
    level = bars["close"][29]
    bars.loc[30:, PRICES] *= factor if factor else (level - value) / level
    assert tripped(bars)["kind"].tolist() == ["jump"]
    assert tripped(bars, actions=action(bars, 30, kind, value)).empty
    # Of another symbol it explains nothing; on another day it is one that nobody saw, a jump by itself.
    other = action(bars, 30, kind, value).assign(symbol="BBB")
    assert tripped(bars, actions=other)["kind"].tolist() == ["jump"]
    assert tripped(bars, actions=action(bars, 29, kind, value))["session"].tolist() == [bars["session"][29]]


def test_a_split_and_a_dividend_between_two_bars_are_taken_in_their_order(make_bars):
    bars = make_bars()
    level = bars["close"][29]
    # Two days without a bar: first the halves, then half of what is left is paid out.
    bars.loc[32:, PRICES] *= (level / 2 - level / 4) / bars["close"][31]
    actions = pd.concat([action(bars, 31, "dividend", level / 4), action(bars, 30, "split", 2.0)])
    assert tripped(bars.drop(index=[30, 31]), kind="jump", actions=actions).empty
    swapped = pd.concat([action(bars, 30, "dividend", level / 4), action(bars, 31, "split", 2.0)])
    assert len(tripped(bars.drop(index=[30, 31]), kind="jump", actions=swapped)) == 1


def test_a_gap_overnight_is_measured_in_sessions_and_one_in_the_day_in_bars():
    bars = minutes(20 * 78)
    moved = bars.copy()
    moved.loc[78 * 10 :, PRICES] *= 1.03  # 30 deviations of five minutes, 3.4 of a session
    assert tripped(moved).empty
    moved = bars.copy()
    moved.loc[78 * 10 + 30 :, PRICES] *= 1.03
    assert tripped(moved, "jump")["available_at"].tolist() == [bars["available_at"][78 * 10 + 30]]


def test_a_tick_after_a_long_calm_is_no_jump(make_bars):
    bars = make_bars()
    bars[PRICES] = 100.0
    bars["high"], bars["low"] = 100.5, 99.5
    bars["volume"] = np.arange(1.0, 61.0)
    bars.loc[40:, "close"] = 100.5
    assert tripped(bars, "jump").empty
    bars.loc[40:, ["high", "close"]] = 102.0
    assert tripped(bars, "jump")["value"].tolist() == [pytest.approx(np.log(1.02) / 0.001)]


def test_a_run_without_volume_is_remarked_upon_once_at_the_bar_that_makes_it_one(make_bars):
    bars = make_bars()
    bars.loc[10:13, "volume"] = 0.0
    bars.loc[20:33, "volume"] = 0.0
    bars.loc[40:49, "volume"] = np.nan
    found = tripped(bars)
    assert found["kind"].tolist() == ["zero_volume"]
    assert found["session"].tolist() == [bars["session"][20 + ZERO_VOLUME_BARS - 1]]
    # Bars in front of the month count towards a run, and a run that began there is not found again.
    assert tripped(bars[22:], history=bars[:22])["session"].tolist() == found["session"].tolist()
    assert tripped(bars[25:], history=bars[:25]).empty


def test_a_bar_that_repeats_the_one_before_is_remarked_upon_once_a_run(make_bars):
    bars = make_bars()
    for row in (20, 21, 22, 40):
        bars.loc[row, [*PRICES, "volume"]] = bars.loc[row - 1, [*PRICES, "volume"]]
    found = tripped(bars)
    assert found["kind"].unique().tolist() == ["stale_repeat"]
    assert found["session"].tolist() == bars["session"][[20, 40]].tolist()
    bars["volume"] = np.nan
    assert len(tripped(bars)) == 2
    bars.loc[19:22, PRICES] = bars.loc[40, "close"]  # a flat bar may well come twice
    assert len(tripped(bars, "stale_repeat")) == 1


def test_stale_opens_are_remarked_upon_once_a_month_with_the_share_known_then(make_bars):
    bars = make_bars(count=63)
    february = bars["month"] == "2015-02"
    stale = february & (bars.index % 2 == 0)
    bars.loc[stale, "open"] = bars["close"].shift()[stale] * (1 + 5e-5)
    bars["high"] = bars[["high", "open"]].max(axis=1)
    bars["low"] = bars[["low", "open"]].min(axis=1)
    found = tripped(bars)
    assert found["kind"].tolist() == ["stale_open"]
    assert found["session"].tolist() == [bars["session"][february].iloc[9]]
    assert found["value"].tolist() == [0.6]
    assert "6 of the month's first 10 sessions" in found["message"][0]


def test_only_the_first_bar_of_a_session_has_an_open_to_be_stale():
    bars = minutes(15 * 78)
    assert tripped(bars).empty
    first = bars.groupby("session").head(1).index[1:]
    bars.loc[first, "open"] = bars["close"].shift()[first]
    bars.loc[first, "low"] = bars.loc[first, ["open", "low"]].min(axis=1)
    found = tripped(bars)
    assert found[["kind", "value"]].to_numpy().tolist() == [["stale_open", 1.0]]
    assert found["available_at"].tolist() == [bars["available_at"][10 * 78]]


def test_the_bundled_series_print_the_close_before_as_open(bundled_bars):
    found = tripped(bundled_bars)
    of_index = found[(found["symbol"] == "SP500") & (found["kind"] == "stale_open")]
    early = of_index["session"] < "2007"
    # Of 96 months until 2006, 96% of whose opens are stale; 21% of the later ones are.
    assert early.sum() == 96
    assert 0 < (~early).sum() < 72
    assert "jump" not in set(found["kind"])


def test_a_hole_is_remarked_upon_at_the_bar_that_ends_it(make_bars):
    one, two = make_bars(), make_bars("BBB", seed=1)
    frame = pd.concat([one.drop(index=[10, 11, 12, 30]), two[:50]])
    found = tripped(frame)
    assert found["kind"].unique().tolist() == ["missing_sessions"]
    # That of BBB lasts: whether it is one is for the coverage to say.
    assert list(zip(found["symbol"], found["session"], found["value"], strict=True)) == [
        ("AAA", one["session"][13], 3.0),
        ("AAA", one["session"][31], 1.0),
    ]
    days = one["session"].dt.strftime("%F")
    assert found["message"][0] == f"3 sessions without a bar, {days[10]} to {days[12]}"
    later = validate_bars(one[13:], calendar_of(one), history=one[:10]).tripwires
    pd.testing.assert_frame_equal(later.iloc[[0]], found.iloc[[0]])


def test_a_symbol_listed_later_misses_nothing_before_its_first_bar(make_bars):
    assert tripped(pd.concat([make_bars(), make_bars("NEW", seed=1)[25:]])).empty


def test_holes_of_weekly_bars_are_weeks(make_bars):
    bars = make_bars(count=90).assign(interval="1wk")
    friday = bars["session"].dt.to_period("W-SUN")
    weekly = bars[friday != friday.shift(-1)].iloc[:-1]
    wide = sessions(date(2015, 1, 2), date(2015, 6, 30))
    found = validate_bars(weekly.drop(index=weekly.index[[5, 6]]), wide)
    assert found.quarantined.empty
    assert found.tripwires[["kind", "value"]].to_numpy().tolist() == [["missing_sessions", 2.0]]


def test_disorder_is_remarked_upon_and_sorted(make_bars):
    bars = make_bars()
    outcome = validate_bars(bars[::-1], calendar_of(bars))
    pd.testing.assert_frame_equal(outcome.bars, bars)
    found = outcome.tripwires
    assert found["kind"].unique().tolist() == ["out_of_order"]
    # One a month, at the first bar that came too late; the very last bar came first.
    assert found["month"].tolist() == ["2015-01", "2015-02", "2015-03"]
    assert found["session"].tolist() == bars.groupby("month")["session"].min().tolist()
    assert found["value"].sum() == 59
    # Symbols that take turns are no disorder, nor is one after another in any order.
    mixed = pd.concat([make_bars("BBB", seed=1), bars]).sort_values("available_at", kind="stable")
    assert tripped(mixed).empty
    assert tripped(pd.concat([make_bars("BBB", seed=1), bars])).empty


def odd_bars(make_bars, count: int) -> pd.DataFrame:
    """Bars with something of everything, and fat tails."""
    random = np.random.default_rng(7)
    frames = []
    for seed, symbol in enumerate(("AAA", "BBB", "CCC")):
        bars = make_bars(symbol, count=count, seed=seed)
        bars[PRICES] = bars[PRICES].to_numpy() * np.exp(np.cumsum(random.standard_t(2, count) * 0.004))[:, None]
        bars.loc[random.integers(0, count, 12), "volume"] = 0.0
        for start in random.integers(0, count - 20, 6):
            bars.loc[start : start + 6, "volume"] = 0.0
        for row in random.integers(1, count, 8):
            bars.loc[row, [*PRICES, "volume"]] = bars.loc[row - 1, [*PRICES, "volume"]]
        stale = random.random(count) < 0.2
        opens = bars["close"].shift().where(stale, bars["open"]).fillna(bars["open"])
        bars = bars.assign(open=opens, high=np.maximum(bars["high"], opens), low=np.minimum(bars["low"], opens))
        frames.append(bars.drop(index=random.integers(1, count, 10)))
    return pd.concat(frames, ignore_index=True)


def test_a_tail_of_history_is_as_good_as_all_of_it(make_bars):
    frame = odd_bars(make_bars, 700)
    days = calendar_of(frame)
    month = datetime(2017, 3, 1, tzinfo=UTC)
    history, recent = frame[frame["available_at"] < month], frame[frame["available_at"] >= month]
    tail = history.groupby("symbol").tail(HISTORY_BARS)
    assert len(tail) < len(history)
    whole = validate_bars(recent, days, history=history, jump_sigmas=4.0)
    short = validate_bars(recent, days, history=tail, jump_sigmas=4.0)
    pd.testing.assert_frame_equal(short.bars, whole.bars)
    assert set(whole.tripwires["kind"]) == {"jump", "zero_volume", "stale_repeat", "stale_open", "missing_sessions"}
    # 0.94**249 of the weight of a variance is left out, and a variance of long ago may be a hundred times today's.
    pd.testing.assert_frame_equal(
        short.tripwires.drop(columns="message"), whole.tripwires.drop(columns="message"), rtol=100 * 0.94**249, atol=0
    )


def test_later_bars_neither_make_nor_take_back_a_remark(make_bars):
    frame = odd_bars(make_bars, 260)
    whole = validate_bars(frame, calendar_of(frame), jump_sigmas=4.0).tripwires
    for cut in (5, 23, 61, 130, 131, 187, 259):
        now = frame["available_at"].drop_duplicates().sort_values().iloc[cut]
        known = frame[frame["available_at"] <= now]
        expected = whole[whole["available_at"] <= now].reset_index(drop=True)
        found = validate_bars(known, calendar_of(known), jump_sigmas=4.0).tripwires
        pd.testing.assert_frame_equal(found, expected)

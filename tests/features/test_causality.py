"""The audit must pass what is causal and catch every planted leak, however well it hides."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.causality import audit_causality
from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.market.adjustment import as_of
from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.quarantine import conform

KEYS = ["symbol", "available_at"]


@pytest.fixture
def bars(make_bars, walk) -> pd.DataFrame:
    return pd.concat([make_bars(walk(400)), make_bars(walk(400, seed=1), "BBB")], ignore_index=True)


def by_symbol(feature):
    """Make a feature function of one from closes to values."""

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame.groupby("symbol", sort=False)["close"].transform(feature)
        return frame[KEYS].assign(leak=values, fine=frame["close"])

    return function


def ahead_of_the_largest_move(close: pd.Series) -> pd.Series:
    result = close.copy()
    moves = np.log(close).diff().abs()
    if len(moves) > 1:
        largest = int(moves.argmax())
        result.iloc[largest - 1] = close.iloc[largest]
    return result


def newest_only(close: pd.Series) -> pd.Series:
    """Shows that it is the last: a label that is settled only when the next bar comes."""
    result = close.copy()
    result.iloc[-1:] = 0.0
    return result


def with_a_hole(frame: pd.DataFrame) -> pd.DataFrame:
    holed = frame.copy()
    holed.loc[150:152, "close"] = np.nan
    return holed


LEAKS = {
    "next bar": lambda close: close.shift(-1),
    "whole-column maximum": lambda close: close / close.max(),
    "rank over the whole column": lambda close: close.rank(),
    "count of rows": lambda close: close * 0 + len(close),
    "reversed average": lambda close: close[::-1].ewm(span=5).mean()[::-1],
    "one bar ahead at the largest move only": ahead_of_the_largest_move,
    "the newest bar only": newest_only,
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_planted_leaks_are_caught(bars, leak):
    report = audit_causality(by_symbol(leak), bars)
    assert not report.passed
    assert set(report.violations["column"]) == {"leak"}
    assert "looks ahead: ['leak']" in report.summary()


def test_a_leak_across_symbols_is_caught(bars):
    def other_symbols_next(frame: pd.DataFrame) -> pd.DataFrame:
        wide = frame.pivot(index="available_at", columns="symbol", values="close")
        swapped = wide.shift(-1).rename(columns={"AAA": "BBB", "BBB": "AAA"}).unstack().rename("leak").reset_index()
        return frame[KEYS].merge(swapped, on=KEYS)

    assert not audit_causality(other_symbols_next, bars).passed


def test_rows_that_come_and_go_with_the_future_are_caught(bars):
    def drops_the_newest(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[[*KEYS, "close"]].groupby("symbol").head(len(frame) // 2 - 1)

    report = audit_causality(drops_the_newest, bars)
    assert set(report.violations["column"]) == {"rows"}


def test_a_change_of_one_bit_is_caught(bars):
    def last_bit(close: pd.Series) -> pd.Series:
        values = close.copy()
        values.iloc[0] = np.nextafter(values.iloc[0], np.inf) if len(close) == 400 else values.iloc[0]
        return values

    report = audit_causality(by_symbol(last_bit), bars)
    # Both alter the number of rows, on which the bit depends.
    assert set(report.violations["perturbation"]) == {"cut off", "continued"}


def test_text_columns_are_compared_too(bars):
    def labelled(frame: pd.DataFrame) -> pd.DataFrame:
        above = frame["close"] > frame.groupby("symbol")["close"].transform("mean")
        return frame[KEYS].assign(regime=np.where(above, "high", "low"), note=None)

    assert set(audit_causality(labelled, bars).violations["column"]) == {"regime"}


@pytest.mark.parametrize(
    "fine",
    [
        lambda close: close.rolling(20).mean(),
        lambda close: close.ewm(span=10).mean(),
        lambda close: (close - close.expanding().min()) / (close.expanding().max() - close.expanding().min()),
        lambda close: close.ffill(),
    ],
)
def test_causal_functions_pass(bars, fine):
    assert audit_causality(by_symbol(fine), with_a_hole(bars)).passed


def test_every_row_is_compared_and_the_newest_is_given_a_future(bars):
    report = audit_causality(by_symbol(LEAKS["next bar"]), bars, cuts=4)
    assert "continued" in set(report.violations["perturbation"])
    fine = audit_causality(by_symbol(lambda close: close.ffill()), bars, cuts=4)
    assert fine.rows == fine.rows_compared == len(bars)
    assert fine.cuts[-1] == bars["available_at"].max()
    assert fine.symbols == ("AAA", "BBB")
    assert fine.summary().startswith("causal: no row changed with its future (800 of 800 rows of 2 of 2 symbols")


def test_half_of_the_cuts_are_where_leaks_hide(bars, make_actions):
    actions = make_actions(("AAA", "2015-06-01", "dividend", 0.7))
    report = audit_causality(lambda frame, actions: by_symbol(lambda close: close)(frame), with_a_hole(bars), actions)
    instants = bars["available_at"].drop_duplicates()
    moves = np.log(bars["close"]).groupby(bars["symbol"]).diff().abs()
    before_the_largest = instants.iloc[int(moves.idxmax()) % 400 - 1]
    for place in (instants.iloc[0], instants.iloc[150], pd.Timestamp("2015-05-31 21:00", tz="UTC"), before_the_largest):
        assert place in report.cuts
    assert len(report.cuts) <= 24
    assert np.diff(report.cuts.to_numpy()).max() < np.timedelta64(80, "D")


def test_of_many_symbols_a_sample_is_audited_and_said(make_bars, make_actions, walk):
    many = pd.concat([make_bars(walk(60, seed=seed), f"S{seed:02}") for seed in range(12)], ignore_index=True)
    many.loc[many.index[many["symbol"] == "S07"][5:9], "close"] = np.nan
    actions = make_actions(("S03", "2015-01-20", "dividend", 0.7))
    seen = []

    def function(frame, actions):
        seen.append((tuple(frame["symbol"].unique()), tuple(actions["symbol"].unique())))
        return by_symbol(lambda close: close)(frame)

    report = audit_causality(function, many, actions, cuts=4, symbols=3)
    assert report.symbols_given == 12
    assert len(report.symbols) == 3
    assert {"S03", "S07"} < set(report.symbols)
    assert seen[0] == (report.symbols, ("S03",))
    assert report.rows == report.rows_compared == 180
    assert "180 of 180 rows of 3 of 12 symbols" in report.summary()
    assert audit_causality(function, many, actions, cuts=4, symbols=3).symbols == report.symbols
    assert len(audit_causality(function, many, actions, cuts=4, symbols=99).symbols) == 12


@pytest.mark.parametrize("seed", range(3))
def test_the_audit_itself_is_reproducible(bars, seed):
    leak = by_symbol(LEAKS["next bar"])
    one, two = (audit_causality(leak, bars, seed=seed) for _ in range(2))
    pd.testing.assert_frame_equal(one.violations, two.violations)


def test_too_little_to_audit_is_an_error(bars):
    fine = by_symbol(lambda close: close)
    with pytest.raises(ValueError, match="two instants"):
        audit_causality(fine, bars[:1])
    with pytest.raises(ValueError, match="cuts=2"):
        audit_causality(fine, bars, cuts=2)
    with pytest.raises(ValueError, match="symbols=0 leaves nothing"):
        audit_causality(fine, bars, symbols=0)


def later(frame: pd.DataFrame, actions: pd.DataFrame) -> np.ndarray:
    return frame["available_at"].to_numpy()[:, None] < actions["available_at"].to_numpy()


ACTION_LEAKS = {
    "adjusted by every action known today": lambda frame, actions: by_symbol(lambda close: close)(
        as_of(frame, actions, frame["available_at"].max().to_pydatetime())
    ),
    "number of later actions": lambda frame, actions: frame[KEYS].assign(leak=later(frame, actions).sum(axis=1)),
    "sum of later actions": lambda frame, actions: frame[KEYS].assign(
        leak=later(frame, actions) @ actions["value"].to_numpy()
    ),
}


@pytest.mark.parametrize("leak", ACTION_LEAKS.values(), ids=ACTION_LEAKS.keys())
@pytest.mark.parametrize("paid", [True, False], ids=["with actions", "before the first action ever"])
def test_a_function_that_knows_later_actions_is_caught(bars, make_actions, leak, paid):
    drawn = [("AAA", "2015-06-01", "dividend", 0.7), ("BBB", "2015-12-01", "split", 0.25)]
    report = audit_causality(leak, bars, make_actions(*(drawn if paid else [])), cuts=8)
    assert not report.passed
    assert "leak" in set(report.violations["column"])


def test_a_volatility_index_is_altered_with_the_bars(bars):
    index = pd.DataFrame({"available_at": bars["available_at"][:400] + pd.Timedelta(minutes=15), "close": 20.0})
    index["close"] += np.arange(400) % 7

    def newest_value(frame, *, volatility_index):
        return frame[KEYS].assign(leak=volatility_index["close"].iloc[-1] if len(volatility_index) else 0.0)

    def as_published(frame, *, volatility_index):
        return pd.merge_asof(frame[KEYS].sort_values("available_at"), volatility_index, on="available_at")

    found = audit_causality(newest_value, bars, volatility_index=index, cuts=4).violations
    assert set(found["perturbation"]) == {"cut off", "changed", "permuted", "continued"}
    assert audit_causality(as_published, bars, volatility_index=index, cuts=4).passed
    assert audit_causality(as_published, bars, volatility_index=index[:0], cuts=4).passed


@st.composite
def markets(draw):
    """Bars of two symbols with missing values, holes and short histories; splits and dividends; a late index."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    missing, level = draw(st.sampled_from([0.0, 0.02, 0.2])), draw(st.sampled_from([1e-3, 100.0, 1e6]))
    days = pd.date_range("2015-01-01 21:00", periods=draw(st.integers(30, 300)), freq="D", tz="UTC", unit="us")
    parts = []
    for symbol in ("AAA", "BBB"):
        kept = np.sort(random.choice(len(days), size=int(random.integers(2, len(days) + 1)), replace=False))
        close = level * np.exp(np.cumsum(random.normal(0.0, 0.02, len(kept))))
        spread = 1.0 + 0.01 * random.random(len(kept))
        part = pd.DataFrame({"available_at": days[kept], "close": close, "high": close * spread, "low": close / spread})
        part["open"] = part["low"] + random.random(len(kept)) * (part["high"] - part["low"])
        part["volume"] = random.integers(0, 1000, len(kept)).astype("float64")
        prices = ["open", "high", "low", "close", "volume"]
        part[prices] = part[prices].mask(random.random((len(kept), 5)) < missing)
        parts.append(part.assign(symbol=symbol, interval="1d", session=days[kept].tz_localize(None).normalize()))
    bars = conform(pd.concat(parts, ignore_index=True), BARS)
    chosen = bars.iloc[random.permutation(len(bars))[: draw(st.integers(0, 6))]]
    splits = random.random(len(chosen)) < 0.5
    value = np.where(splits, random.choice([0.2, 2.0, 7.0], len(chosen)), 1e-3 * level)
    actions = chosen[["symbol", "session"]].assign(
        kind=np.where(splits, "split", "dividend"),
        value=value,
        available_at=chosen["available_at"] - pd.Timedelta(hours=6),
    )
    published = days[random.random(len(days)) < 0.9] + pd.Timedelta(minutes=15)
    index = pd.DataFrame({"available_at": published, "close": 15.0 + random.random(len(published))})
    return bars, conform(actions, CORPORATE_ACTIONS), index


@given(markets(), st.booleans())
@settings(max_examples=8, deadline=None)
def test_our_features_pass_on_any_market(market, with_index):
    bars, actions, index = market
    if bars["available_at"].nunique() < 2:
        return
    report = audit_causality(
        compute_features, bars, actions, volatility_index=index if with_index else None, cuts=6, seed=len(bars)
    )
    assert report.passed, report.summary()
    assert report.rows_compared == report.rows == len(bars)


def test_our_features_pass_on_every_row_of_the_bundled_bars(bundled_bars):
    index = BundledSource().index_closes(datetime(2014, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))
    report = audit_causality(compute_features, bundled_bars, volatility_index=index)
    assert report.passed, report.summary()
    assert report.rows_compared == len(bundled_bars)
    assert len(report.cuts) >= 20
    assert report.cuts[0] == bundled_bars["available_at"].min()

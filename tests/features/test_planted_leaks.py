"""Leaks as they happen in practice, planted into real bars: the audit must catch each, and pass its causal twin."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.causality import audit_causality
from atlas_pipeline.market.adjustment import as_of
from atlas_pipeline.market.bundled import BundledSource

KEYS = ["symbol", "available_at"]
# Of a leak at every row each cut shows it; the default is for leaks at a few rows.
CUTS = 5


@pytest.fixture(scope="module")
def bars(bundled_bars) -> pd.DataFrame:
    """Three years of both indices."""
    return bundled_bars[bundled_bars["month"].between("2015-01", "2017-12")].reset_index(drop=True)


@pytest.fixture(scope="module")
def index_closes() -> pd.DataFrame:
    """The VIX, published a quarter of an hour after the stocks' close."""
    return BundledSource().index_closes(datetime(2014, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def payments(bars, make_actions) -> pd.DataFrame:
    """A dividend of each index every quarter, and a split."""
    paid = [(symbol, day, "dividend", 9.0) for symbol in ("SP500", "NASDAQ") for day in _quarters(bars)]
    return make_actions(*paid, ("SP500", "2016-06-01", "split", 2.0))


def _quarters(bars: pd.DataFrame) -> list[str]:
    days = bars["session"].drop_duplicates().sort_values()
    return [f"{day:%Y-%m-%d}" for day in days.iloc[40::63]]


def of_closes(feature):
    """Make a feature function of one from a symbol's closes to values."""

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame.groupby("symbol", sort=False)["close"].transform(feature)
        return frame[KEYS].assign(feature=values, close=frame["close"])

    return function


def returns(close: pd.Series) -> pd.Series:
    return np.log(close).diff()


def weekly(close: pd.Series, frame: pd.DataFrame, *, complete: bool) -> pd.Series:
    """The week's last close, joined by the label of its end, or the one of the week before, which is complete."""
    week = frame.loc[close.index, "session"].dt.to_period("W-FRI")
    last = close.groupby(week.to_numpy()).last()
    known = last.shift(1) if complete else last
    return pd.Series(known.reindex(week).to_numpy(), index=close.index)


def resampled(*, complete: bool):
    def function(frame: pd.DataFrame) -> pd.DataFrame:
        parts = [weekly(own["close"], frame, complete=complete) for _, own in frame.groupby("symbol", sort=False)]
        return frame[KEYS].assign(feature=pd.concat(parts), close=frame["close"])

    return function


PAIRS = {
    "centred window": (
        lambda close: close.rolling(5, center=True).mean(),
        lambda close: close.rolling(5).mean(),
    ),
    "min-max of the whole column": (
        lambda close: (close - close.min()) / (close.max() - close.min()),
        lambda close: (close - close.expanding().min()) / (close.expanding().max() - close.expanding().min()),
    ),
    "z-score of the whole column": (
        lambda close: (returns(close) - returns(close).mean()) / returns(close).std(),
        lambda close: (returns(close) - returns(close).expanding().mean()) / returns(close).expanding().std(),
    ),
    "backward fill of a warm-up": (
        lambda close: close.rolling(20).mean().bfill(),
        lambda close: close.rolling(20).mean(),
    ),
    "label joined one bar early": (
        lambda close: np.sign(returns(close)).shift(-1),
        lambda close: np.sign(returns(close)),
    ),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_a_leak_of_closes_is_caught_and_its_causal_twin_passes(bars, pair):
    leak, fine = pair
    report = audit_causality(of_closes(leak), bars, cuts=CUTS)
    assert set(report.violations["column"]) == {"feature"}, report.summary()
    assert audit_causality(of_closes(fine), bars, cuts=CUTS).passed


def test_a_week_joined_by_the_label_of_its_end_is_caught(bars):
    report = audit_causality(resampled(complete=False), bars, cuts=CUTS)
    assert set(report.violations["column"]) == {"feature"}
    assert audit_causality(resampled(complete=True), bars, cuts=CUTS).passed


def test_a_backward_fill_over_missing_bars_is_caught(bars):
    holed = bars.copy()
    holed.loc[200:202, "close"] = np.nan
    report = audit_causality(of_closes(lambda close: close.bfill()), holed)
    assert set(report.violations["column"]) == {"feature"}
    assert audit_causality(of_closes(lambda close: close.ffill()), holed, cuts=CUTS).passed


def test_prices_back_adjusted_by_later_actions_are_caught(bars, payments):
    def back_adjusted(frame: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
        adjusted = as_of(frame, actions, frame["available_at"].max().to_pydatetime())
        return of_closes(lambda close: close.diff(10))(adjusted)

    def as_traded(frame: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
        return of_closes(lambda close: close.diff(10))(frame)

    report = audit_causality(back_adjusted, bars, payments, cuts=CUTS)
    assert {"feature", "close"} == set(report.violations["column"])
    assert audit_causality(as_traded, bars, payments, cuts=CUTS).passed


def test_a_volatility_index_joined_by_date_is_caught(bars, index_closes):
    def by_date(frame: pd.DataFrame, *, volatility_index: pd.DataFrame) -> pd.DataFrame:
        closes = volatility_index.assign(session=volatility_index["available_at"].dt.tz_localize(None).dt.normalize())
        joined = frame[[*KEYS, "session"]].merge(closes[["session", "close"]], on="session", how="left")
        return joined[KEYS].assign(vix=joined["close"])

    def as_published(frame: pd.DataFrame, *, volatility_index: pd.DataFrame) -> pd.DataFrame:
        left = frame[KEYS].sort_values("available_at", kind="stable")
        return pd.merge_asof(left, volatility_index[["available_at", "close"]], on="available_at")

    report = audit_causality(by_date, bars, volatility_index=index_closes, cuts=CUTS)
    assert set(report.violations["column"]) == {"vix"}
    # Only the bar at the cut itself has an index that was not published yet.
    assert (report.violations["rows"] == 2).all()
    assert audit_causality(as_published, bars, volatility_index=index_closes, cuts=CUTS).passed


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_a_shift_is_caught_in_one_direction_only(bars, rows, seed):
    some = bars.iloc[: len(bars) // 4]
    assert not audit_causality(of_closes(lambda close: close.shift(-rows)), some, cuts=4, seed=seed).passed
    assert audit_causality(of_closes(lambda close: close.shift(rows)), some, cuts=4, seed=seed).passed


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_one_row_that_sees_the_next_largest_move_is_found(bars, seed):
    """The rarest of leaks: a single row of the series, where a trader would want it."""

    def ahead_of_the_crash(close: pd.Series) -> pd.Series:
        result = close.copy()
        moves = returns(close).abs()
        if moves.notna().any():
            row = int(moves.to_numpy()[1:].argmax())
            result.iloc[row] = close.iloc[row + 1]
        return result

    own = bars[bars["symbol"] == "SP500"]
    assert not audit_causality(of_closes(ahead_of_the_crash), own, seed=seed).passed

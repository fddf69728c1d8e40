"""The audit must pass what is causal and catch every planted leak, however well it hides."""

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.causality import audit_causality
from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.market.adjustment import as_of

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


def with_a_hole(frame: pd.DataFrame) -> pd.DataFrame:
    holed = frame.copy()
    holed.loc[150:152, "close"] = np.nan
    return holed


LEAKS = {
    "centred window": lambda close: close.rolling(5, center=True).mean(),
    "next bar": lambda close: close.shift(-1),
    "whole-column min-max": lambda close: (close - close.min()) / (close.max() - close.min()),
    "whole-column z-score": lambda close: (close - close.mean()) / close.std(),
    "whole-column maximum": lambda close: close / close.max(),
    "rank over the whole column": lambda close: close.rank(),
    "backward fill of a warm-up": lambda close: close.rolling(20).mean().bfill(),
    "count of rows": lambda close: close * 0 + len(close),
    "reversed average": lambda close: close[::-1].ewm(span=5).mean()[::-1],
    "one bar ahead at the largest move only": ahead_of_the_largest_move,
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_planted_leaks_are_caught(bars, leak):
    report = audit_causality(by_symbol(leak), bars)
    assert not report.passed
    assert set(report.violations["column"]) == {"leak"}
    assert "looks ahead: ['leak']" in report.summary()


def test_a_backward_fill_over_missing_bars_is_caught(bars):
    report = audit_causality(by_symbol(lambda close: close.bfill()), with_a_hole(bars))
    assert not report.passed
    assert set(report.violations["column"]) == {"leak"}


def test_back_adjusted_prices_are_caught(bars):
    dividends = bars.assign(dividend=0.0)
    dividends.loc[dividends.index % 63 == 62, "dividend"] = 0.5

    def back_adjusted(frame: pd.DataFrame) -> pd.DataFrame:
        factor = 1 - frame["dividend"] / frame["close"]
        later = factor[::-1].groupby(frame["symbol"]).cumprod()[::-1] / factor
        return compute_features(frame.assign(close=frame["close"] * later)[[c for c in frame if c != "dividend"]])

    def forward_adjusted(frame: pd.DataFrame) -> pd.DataFrame:
        factor = 1 / (1 - frame["dividend"] / frame["close"])
        return compute_features(frame.assign(close=frame["close"] * factor.groupby(frame["symbol"]).cumprod()))

    report = audit_causality(back_adjusted, dividends)
    assert not report.passed
    assert {"MACD", "Momentum"} <= set(report.violations["column"])
    assert audit_causality(forward_adjusted, dividends).passed


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
    assert set(report.violations["perturbation"]) == {"cut off"}


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


def test_our_features_pass_on_every_row_of_the_bundled_bars(bundled_bars):
    compute_features(bundled_bars)
    report = audit_causality(compute_features, bundled_bars)
    assert report.passed, report.summary()
    # All but the newest instant, which has no future to alter.
    assert report.rows_compared == len(bundled_bars) - 2
    assert len(report.cuts) >= 20
    assert report.cuts[0] == bundled_bars["available_at"].min()
    assert report.summary().startswith("causal: no row changed with its future (10060 rows")


@pytest.mark.parametrize("seed", range(3))
def test_the_audit_itself_is_reproducible(bars, seed):
    leak = by_symbol(LEAKS["centred window"])
    one, two = (audit_causality(leak, bars, seed=seed) for _ in range(2))
    pd.testing.assert_frame_equal(one.violations, two.violations)


def test_too_little_to_audit_is_an_error(bars):
    with pytest.raises(ValueError, match="two instants"):
        audit_causality(compute_features, bars[:1])
    with pytest.raises(ValueError, match="cuts=2"):
        audit_causality(compute_features, bars, cuts=2)


def test_our_features_pass_with_corporate_actions(bars, make_actions):
    actions = make_actions(
        ("AAA", "2015-03-02", "dividend", 0.7),
        ("AAA", "2015-06-01", "split", 2.0),
        ("BBB", "2015-06-01", "dividend", 0.4),
        ("BBB", "2015-12-01", "split", 0.25),
    )
    report = audit_causality(compute_features, bars, actions)
    assert report.passed, report.summary()
    assert audit_causality(compute_features, bars, actions[:0]).passed


def later(frame: pd.DataFrame, actions: pd.DataFrame) -> np.ndarray:
    return frame["available_at"].to_numpy()[:, None] < actions["available_at"].to_numpy()


ACTION_LEAKS = {
    "adjusted by every action known today": lambda frame, actions: compute_features(
        as_of(frame, actions, frame["available_at"].max().to_pydatetime())
    ),
    "number of later actions": lambda frame, actions: frame[KEYS].assign(MACD=later(frame, actions).sum(axis=1)),
    "sum of later actions": lambda frame, actions: frame[KEYS].assign(
        MACD=later(frame, actions) @ actions["value"].to_numpy()
    ),
}


@pytest.mark.parametrize("leak", ACTION_LEAKS.values(), ids=ACTION_LEAKS.keys())
@pytest.mark.parametrize("paid", [True, False], ids=["with actions", "before the first action ever"])
def test_a_function_that_knows_later_actions_is_caught(bars, make_actions, leak, paid):
    drawn = [("AAA", "2015-06-01", "dividend", 0.7), ("BBB", "2015-12-01", "split", 0.25)]
    report = audit_causality(leak, bars, make_actions(*(drawn if paid else [])))
    assert not report.passed
    assert "MACD" in set(report.violations["column"])

"""Splits and dividends: a row is what the formulas give on the bars back-adjusted as of it, and stays that for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.market.adjustment import as_of
from atlas_pipeline.market.bars import CORPORATE_ACTIONS, empty
from tests.features.markets import index_of

ROWS = 280
MOVED = ["MACD", "ATR", "Momentum"]
UNSPLIT_VOLUME = np.random.default_rng(1).integers(1_000, 9_000, ROWS).astype(float)


@pytest.fixture
def market(make_bars, make_actions, walk):
    """A walk as it would trade through splits, a reverse split and dividends, two of them on days without a bar."""
    drawn = [
        ("AAA", "2015-01-20", "dividend", 0.8),
        ("AAA", "2015-02-20", "split", 7.0),
        ("AAA", "2015-02-20", "dividend", 0.1),
        ("AAA", "2015-03-25", "dividend", 0.12),
        ("AAA", "2015-03-26", "split", 0.5),
        ("AAA", "2015-04-20", "dividend", 0.3),
        ("AAA", "2015-05-20", "split", 3.0),
    ]
    bars = make_bars(walk(ROWS, volatility=0.02))
    bars["volume"] = UNSPLIT_VOLUME
    shares = np.ones(ROWS)
    for _, day, kind, value in drawn:
        later = (bars["session"] >= pd.Timestamp(day)).to_numpy()
        if kind == "split":
            shares[later] *= value
    for name in ("open", "high", "low", "close"):
        bars[name] /= shares
    bars["volume"] *= shares
    holed = bars[~bars["session"].isin(pd.to_datetime(["2015-03-25", "2015-03-26"]))].reset_index(drop=True)
    return holed, make_actions(*drawn)


def test_each_row_is_that_of_the_bars_back_adjusted_as_of_it(market):
    bars, actions = market
    index = index_of(bars)
    found = compute_features(bars, actions, volatility_index=index)
    names = list(REGISTRY)
    acted = np.flatnonzero((found["split"] != 1) | (found["dividend"] > 0))
    rows = np.unique([*range(0, len(bars), 4), *acted, *(acted + 1), len(bars) - 1])
    last = [
        compute_features(as_of(bars, actions, instant.to_pydatetime()), volatility_index=index).iloc[-1]
        for instant in bars["available_at"].iloc[rows]
    ]
    expected = pd.DataFrame(last)[names].astype("float64").set_index(rows)
    booked, found, bars = found[["split", "dividend"]], found.loc[rows], bars.loc[rows]
    scale = {name: bars["close"] if feature.in_currency else 1.0 for name, feature in REGISTRY.items()}
    for name in names:
        np.testing.assert_array_equal(found[name].isna(), expected[name].isna(), err_msg=name)
        # Both are rounded to float32 once. Relative to the price for what is a price: a difference of averages near
        # zero has lost its own digits.
        error = ((found[name] - expected[name]).abs() / np.maximum(expected[name].abs(), scale[name])).max()
        assert error < 2.0**-23, name
    assert (booked["split"] != 1).sum() == 3
    assert (booked["dividend"] > 0).sum() == 4


def test_no_split_is_a_price_move(market, make_bars, walk):
    """Every feature is that of the walk without splits: what is in currency on its bar's scale, all else as it was."""
    bars, actions = market
    splits = actions[actions["kind"] == "split"]
    walked = make_bars(walk(ROWS, volatility=0.02)).assign(volume=UNSPLIT_VOLUME)
    walked = walked[walked["available_at"].isin(bars["available_at"])].reset_index(drop=True)
    expected, found = compute_features(walked), compute_features(bars, splits)
    shares = found["split"].cumprod()
    for name, feature in REGISTRY.items():
        # A price times its factor is rounded; what counts its last digit is a difference of prices.
        values = found[name] * shares if feature.in_currency else found[name]
        np.testing.assert_allclose(values, expected[name], rtol=2.0**-22, atol=1e-9, err_msg=name)
    assert compute_features(bars)["volatility_ewma"].max() > 10 * found["volatility_ewma"].max()


@pytest.mark.parametrize("kind", ["dividend", "split"])
def test_no_feature_moves_when_a_later_action_is_added(market, make_actions, kind):
    bars, actions = market
    added = make_actions(("AAA", "2015-05-01", kind, 0.25))
    before, after = compute_features(bars, actions), compute_features(bars, pd.concat([actions, added]))
    earlier = (bars["session"] < pd.Timestamp("2015-05-01")).to_numpy()
    pd.testing.assert_frame_equal(before[earlier], after[earlier], check_exact=True)
    assert (before.loc[~earlier, MOVED] != after.loc[~earlier, MOVED]).any(axis=None)


def test_features_of_prices_adjusted_by_every_action_known_today_do_move(market, make_actions):
    """The negative control: what a vendor's adjusted closes do to MACD and ATR at bars long past."""
    bars, actions = market
    added = make_actions(("AAA", "2015-05-01", "dividend", 0.25))
    today = bars["available_at"].iloc[-1].to_pydatetime()
    earlier = (bars["session"] < pd.Timestamp("2015-05-01")).to_numpy()
    before, after = (
        compute_features(as_of(bars, known, today))[earlier] for known in (actions, pd.concat([actions, added]))
    )
    known = before["MACD"].notna()
    for name in MOVED:
        changed = (before.loc[known, name] != after.loc[known, name]).mean()
        assert changed > 0.99, name


def test_no_actions_are_no_actions_bit_for_bit(bundled_bars):
    pd.testing.assert_frame_equal(
        compute_features(bundled_bars), compute_features(bundled_bars, empty(CORPORATE_ACTIONS)), check_exact=True
    )
    close = compute_features(bundled_bars)["Close"].to_numpy()
    stored = bundled_bars.sort_values(["symbol", "available_at"])["close"].astype("float32")
    np.testing.assert_array_equal(close, stored)


def test_a_real_split_of_seven_to_one_is_no_jump(make_bars, make_actions):
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "daily.parquet"
    if not path.is_file():
        pytest.skip("no ../shared/data beside the repository: a real split is tested only with it")
    daily = (
        pd.read_parquet(path).query("symbol == 'AAPL' and '2013-06-01' < date < '2014-12-31'").reset_index(drop=True)
    )
    days = daily["date"].astype("datetime64[us]")
    bars = make_bars(daily["close"].to_numpy(), "AAPL").assign(
        session=days,
        available_at=(days + pd.Timedelta(hours=21)).dt.tz_localize("UTC"),
        high=daily["high"],
        low=daily["low"],
    )
    blind = compute_features(bars)
    found = compute_features(bars, make_actions(("AAPL", "2014-06-09", "split", 7.0)))
    split = int((days == pd.Timestamp("2014-06-09")).to_numpy().argmax())
    # The return counts in its own volatility, so that no crash reaches more than 1 / sqrt(1 - decay) = 4.08 of it.
    assert blind.loc[split, "relative_return"] < -4.0
    assert abs(found.loc[split, "relative_return"]) < 2.0
    assert blind["volatility_ewma"].max() > 40
    assert found["volatility_ewma"].max() < 3
    assert found.loc[split, "split"] == 7.0
    for name in MOVED:
        steps = (found[name] / found["Close"]).diff().abs()
        assert steps[split] < 4 * steps.std(), name

"""What the audit does to the future must leave the past alone, and stay what a feature function may be given."""

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.perturbation import PERTURBATIONS, Inputs, continued
from atlas_pipeline.market.adjustment import actions_by_bar
from atlas_pipeline.market.bars import BARS

CUT = pd.Timestamp("2015-03-01 21:00", tz="UTC")


@pytest.fixture
def inputs(make_bars, make_actions, walk) -> Inputs:
    bars = pd.concat([make_bars(walk(100)), make_bars(walk(80, seed=1), "BBB")], ignore_index=True)
    actions = make_actions(
        ("AAA", "2015-02-02", "dividend", 0.7),
        ("AAA", "2015-03-10", "split", 50.0),
        ("AAA", "2015-03-10", "dividend", 0.9),
        ("BBB", "2015-03-12", "split", 0.1),
    )
    index = pd.DataFrame({"available_at": bars["available_at"][:100] + pd.Timedelta(minutes=15), "close": 20.0})
    return Inputs(bars, actions, index.assign(close=index["close"] + np.arange(100)))


def past(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["available_at"] <= CUT].reset_index(drop=True)


@pytest.mark.parametrize("name", [*PERTURBATIONS, "continued"])
def test_the_past_stays_and_the_future_does_not(inputs, name):
    altered = PERTURBATIONS.get(name, continued)(inputs, CUT, np.random.default_rng(0))
    for field in ("bars", "actions", "volatility_index"):
        before, after = getattr(inputs, field), getattr(altered, field)
        pd.testing.assert_frame_equal(past(before), past(after))
        assert not before.reset_index(drop=True).equals(after.reset_index(drop=True)), field
        assert list(before.columns) == list(after.columns)
        assert (before.dtypes == after.dtypes).all()
    for _, own in altered.bars.groupby("symbol"):
        assert own["available_at"].is_monotonic_increasing
        assert own["available_at"].is_unique
    assert altered.volatility_index["available_at"].is_monotonic_increasing
    BARS.schema().validate(altered.bars)


def test_the_continuation_of_the_newest_bar_is_later_bars_of_both_symbols(inputs):
    newest = inputs.bars["available_at"].max()
    altered = continued(inputs, newest, np.random.default_rng(0))
    added = altered.bars[altered.bars["available_at"] > newest]
    assert len(added) == 32 + 12  # BBB ended 20 days before
    assert (added["available_at"].dt.strftime("%Y-%m") == added["month"]).all()
    assert (added["session"] == added["available_at"].dt.tz_localize(None).dt.normalize()).all()
    assert set(altered.actions.loc[altered.actions["available_at"] > newest, "kind"]) == {"split", "dividend"}
    assert (altered.volatility_index["available_at"] > newest).sum() == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_dividend_is_more_than_the_share_is_worth(inputs, seed):
    """As ``actions_by_bar`` would refuse it, the audit would fail for no fault of the function's."""
    for perturbation in (*PERTURBATIONS.values(), continued):
        altered = perturbation(inputs, CUT, np.random.default_rng(seed))
        actions_by_bar(altered.bars, altered.actions)


def test_what_is_not_given_is_not_made(inputs):
    for perturbation in (*PERTURBATIONS.values(), continued):
        altered = perturbation(Inputs(inputs.bars), CUT, np.random.default_rng(0))
        assert altered.actions is None
        assert altered.volatility_index is None


def test_a_function_may_write_into_its_inputs(inputs):
    before = inputs.bars.copy()

    def careless(frame, actions, *, volatility_index):
        frame["close"] = 0.0
        actions["value"] = 0.0
        volatility_index["close"] = 0.0
        return frame

    inputs.given_to(careless)
    pd.testing.assert_frame_equal(inputs.bars, before)
    assert (inputs.actions["value"] > 0).all()

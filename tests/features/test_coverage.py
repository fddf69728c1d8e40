"""Every empty cell has the one reason that a reader would give it, and no cell is counted twice or not at all."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.compute import continue_features
from atlas_pipeline.features.coverage import (
    AGES,
    FEATURE_COVERAGE,
    REASONS,
    coverage_of,
    summary,
    valid_share_by_year,
)
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.registry import REGISTRY

# Read off the formulas: rows before its own that a feature reads of an input that may be missing by itself. The one of
# overnight_gap is the previous close's: as a gap has a value wherever two bars have prices, no cell depends on it.
LOOK_BACKS = {
    "relative_gap": ("open", 0),
    "overnight_gap": ("open", 1),
    "garman_klass_20": ("open", 19),
    "volume_ratio": ("volume", 19),
    "volume_zscore_20": ("volume", 19),
    "vix": ("volatility_index", 0),
    "vix_return": ("volatility_index", 1),
    "vix_over_sma_20": ("volatility_index", 19),
    "vix_zscore_100": ("volatility_index", 99),
    "volatility_premium": ("volatility_index", 0),
}


def counted(bars: pd.DataFrame, index: pd.DataFrame | None = None) -> pd.DataFrame:
    made = continue_features(SeriesMemory.empty(), bars, volatility_index=index)
    return coverage_of(made.frame, made.ages)


def of(coverage: pd.DataFrame, feature: str) -> dict[str, int]:
    own = coverage[coverage["feature"] == feature]
    return own.groupby("reason")["rows"].sum().to_dict()


@pytest.fixture
def bars(make_bars, walk) -> pd.DataFrame:
    random = np.random.default_rng(3)
    made = make_bars(walk(200))
    return made.assign(open=made["close"] * 0.999, volume=random.integers(1, 1000, 200).astype(float))


@pytest.fixture
def index(bars) -> pd.DataFrame:
    values = 15.0 + np.random.default_rng(4).random(len(bars))
    return pd.DataFrame({"available_at": bars["available_at"], "close": values})


def test_a_whole_series_lacks_its_warm_up_only(bars, index):
    coverage = counted(bars, index)
    for name, feature in REGISTRY.items():
        expected = min(feature.warmup, len(bars))
        assert of(coverage, name) == ({"warm-up": expected} if expected else {}), name
    FEATURE_COVERAGE.schema().validate(coverage)
    assert coverage.equals(coverage.sort_values(list(FEATURE_COVERAGE.key), ignore_index=True))


def test_a_bar_without_a_usable_price_has_its_own_reason_and_begins_a_warm_up(bars):
    bars.loc[70, "close"] = np.nan
    bars.loc[120, "low"] = 0.0
    bars.loc[121, "high"] = np.inf
    found = of(counted(bars), "RSI")
    assert found == {"no usable price": 3, "warm-up": 3 * 14}
    assert of(counted(bars), "Close") == {"no usable price": 3}


def test_a_hole_of_more_than_two_weeks_begins_a_warm_up(bars):
    assert of(counted(bars.drop(index=range(60, 73))), "RSI") == {"warm-up": 14}
    assert of(counted(bars.drop(index=range(60, 74))), "RSI") == {"warm-up": 2 * 14}


def test_missing_inputs_are_named_in_the_features_that_read_them(bars, index):
    bars.loc[100, "open"] = np.nan
    bars.loc[150, "volume"] = np.nan
    coverage = counted(bars, index[index.index < 130])
    assert of(coverage, "overnight_gap") == {"warm-up": 1, "missing open": 1}
    assert of(coverage, "relative_gap") == {"warm-up": 20, "missing open": 1}
    assert of(coverage, "garman_klass_20") == {"warm-up": 19, "missing open": 20}
    assert of(coverage, "volume_ratio") == {"warm-up": 19, "missing volume": 20}
    assert of(coverage, "RSI") == {"warm-up": 14}
    # The last value of the index is used for a week.
    absent = 200 - 130 - 7
    assert of(coverage, "vix") == {"missing volatility index": absent}
    assert of(coverage, "volatility_premium") == {"warm-up": 20, "missing volatility index": absent}
    assert of(counted(bars), "vix_zscore_100") == {"missing volatility index": 200}


def test_a_price_that_never_moved_leaves_the_formula_without_a_value(make_bars):
    coverage = counted(make_bars(np.full(60, 50.0)))
    assert of(coverage, "relative_return") == {"warm-up": 20, "undefined": 40}
    assert of(coverage, "RSI") == {"warm-up": 14}


def reason_of(feature: str, price: int, own: dict[str, int]) -> str:
    """The definitions, cell by cell."""
    if price == 0:
        return "no usable price"
    if feature in LOOK_BACKS:
        name, look_back = LOOK_BACKS[feature]
        if any(own[name] == back for back in range(look_back + 1)) and own[name] < price:
            return f"missing {name.replace('_', ' ')}"
    return "warm-up" if price <= REGISTRY[feature].warmup else "undefined"


@st.composite
def ages_and_empty_cells(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 150))
    usable = random.random(rows) > draw(st.sampled_from([0.0, 0.02, 0.3]))
    present = random.random((rows, 3)) > draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    ages = np.zeros((rows, 4), np.int32)
    for row in range(rows):
        before = ages[row - 1] if row else ages[0]
        there = np.array([usable[row], *(present[row] & usable[row])])
        ages[row] = np.where(there, before + 1, 0)
    return ages, random.random((rows, len(REGISTRY))) < draw(st.sampled_from([0.1, 0.9]))


@given(ages_and_empty_cells())
@settings(max_examples=40, deadline=None)
def test_reasons_equal_their_definitions_cell_by_cell(drawn):
    ages, empty = drawn
    days = pd.date_range("2015-01-20", periods=len(ages), freq="D").strftime("%Y-%m").to_numpy()
    frame = pd.DataFrame(np.where(empty, np.nan, 1.0).astype("float32"), columns=list(REGISTRY))
    frame = frame.assign(symbol="AAA", interval="1d", month=days)
    expected: dict[tuple[str, str, str], int] = {}
    for row, column in np.argwhere(empty):
        name = list(REGISTRY)[column]
        key = (str(days[row]), name, reason_of(name, ages[row, 0], dict(zip(AGES, ages[row], strict=True))))
        expected[key] = expected.get(key, 0) + 1
    found = coverage_of(frame, ages)
    assert found.set_index(["month", "feature", "reason"])["rows"].to_dict() == expected


def test_symbols_and_months_are_kept_apart_in_any_order(make_bars, walk):
    bars = pd.concat([make_bars(walk(60)), make_bars(walk(40, seed=1), "BBB")], ignore_index=True)
    made = continue_features(SeriesMemory.empty(), bars)
    whole = coverage_of(made.frame, made.ages)
    order = np.random.default_rng(0).permutation(len(bars))
    pd.testing.assert_frame_equal(coverage_of(made.frame.iloc[order], made.ages[order]), whole)
    own = whole[(whole["symbol"] == "BBB") & (whole["feature"] == "sma_50")]
    assert own[["month", "reason", "rows"]].to_numpy().tolist() == [
        ["2015-01", "warm-up", 31],
        ["2015-02", "warm-up", 9],
    ]


def test_the_summary_and_the_shares_add_up(bars):
    made = continue_features(SeriesMemory.empty(), bars)
    coverage = coverage_of(made.frame, made.ages)
    table = summary(coverage, len(bars)).set_index("feature")
    assert list(table.index) == list(REGISTRY)
    assert list(table.columns) == ["rows", "valid_share", *REASONS]
    for name in REGISTRY:
        assert table.loc[name, list(REASONS)].sum() == made.frame[name].isna().sum()
        assert table.loc[name, "valid_share"] == pytest.approx(made.frame[name].notna().mean())
    shares = valid_share_by_year(coverage, made.frame.groupby("month").size())
    assert list(shares.columns) == ["2015"]
    np.testing.assert_allclose(shares["2015"], table["valid_share"])


def test_no_rows_are_covered_by_nothing(make_bars, walk):
    made = continue_features(SeriesMemory.empty(), make_bars(walk(30)))
    coverage = coverage_of(made.frame[:0], made.ages[:0])
    assert coverage.empty
    FEATURE_COVERAGE.schema().validate(coverage)
    assert (summary(coverage, 10)["valid_share"] == 1.0).all()
    assert summary(coverage, 0)["valid_share"].isna().all()


def test_ages_of_other_rows_are_refused(make_bars, walk):
    made = continue_features(SeriesMemory.empty(), make_bars(walk(30)))
    with pytest.raises(ValueError, match=r"ages have the shape \(29, 4\), expected \(30, 4\)"):
        coverage_of(made.frame, made.ages[:-1])

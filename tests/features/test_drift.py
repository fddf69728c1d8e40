"""A shift that was planted must show, and chance must not."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from atlas_pipeline.features.drift import LARGE, MODERATE, drift

END = datetime(2010, 1, 1, tzinfo=UTC)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Ten years of 500 rows each; from 2012 on some features have moved."""
    random = np.random.default_rng(0)
    years = np.repeat(np.arange(2005, 2015), 500)
    times = pd.to_datetime({"year": years, "month": 6, "day": 1}).dt.tz_localize("UTC")
    noise = random.normal(size=(4, len(years)))
    late = years >= 2012
    return pd.DataFrame(
        {
            "available_at": times.astype("datetime64[us, UTC]"),
            "still": noise[0].astype("float32"),
            "level": (noise[1] + 1.0 * late).astype("float32"),
            "scale": (noise[2] * np.where(late, 2.0, 1.0)).astype("float32"),
            "signal": np.where(late & (noise[3] > 0), 1.0, np.sign(noise[3])).astype("float32"),
            "one": np.ones(len(years), "float32"),
        }
    )


def test_a_planted_shift_shows_and_its_absence_does_not(frame):
    found = drift(frame, END, ["still", "level", "scale"])
    assert list(found.columns) == ["feature", "year", "psi", "ks", "rows"]
    assert (found["rows"] == 500).all()
    moved = (found["year"] >= 2012) & (found["feature"] != "still")
    assert (found.loc[moved, "psi"] > LARGE).all()
    assert (found.loc[~moved, "psi"] < MODERATE).all()
    # Two samples of one distribution, 500 against 2,500, are apart by 0.08 once in a hundred.
    assert (found.loc[~moved, "ks"] < 0.08).all()
    assert (found.loc[moved, "ks"] > 0.12).all()


def test_chance_alone_is_as_large_as_theory_says(frame):
    """The mean index of independent samples is (bins - 1)(1/n + 1/m); the reference's own years share its rows."""
    random = np.random.default_rng(1)
    later = []
    for _ in range(40):
        frame["still"] = random.normal(size=len(frame))
        found = drift(frame, END, ["still"])
        later.append(found.loc[found["year"] >= 2010, "psi"].mean())
    assert np.mean(later) == pytest.approx(9 * (1 / 500 + 1 / 2500), rel=0.1)


def test_bins_are_fitted_on_the_reference_only(frame):
    other = frame.assign(level=frame["level"].where(frame["available_at"] < "2012-01-01", 1000.0))
    before, after = (drift(each, END, ["level"]).set_index("year") for each in (frame, other))
    pd.testing.assert_frame_equal(before[before.index < 2012], after[after.index < 2012])
    assert after.loc[2012, "ks"] == 1.0


def test_repeated_values_have_bins_of_their_own(frame):
    found = drift(frame, END, ["signal", "one"]).set_index(["feature", "year"])["psi"]
    frame.loc[frame["available_at"].dt.year == 2014, "one"] = 0.999
    frame.loc[frame["available_at"].dt.year == 2014, "signal"] = 1.0
    moved = drift(frame, END, ["signal", "one"]).set_index(["feature", "year"])["psi"]
    assert found["one", 2014] < 0.01
    assert found["signal", 2014] < MODERATE
    assert moved["one", 2014] > LARGE
    assert moved["signal", 2014] > LARGE


def test_what_is_missing_is_left_aside_and_too_little_is_not_judged(frame):
    frame.loc[frame["available_at"].dt.year == 2013, "level"] = np.nan
    frame.loc[frame.index[frame["available_at"].dt.year == 2012][99:], "still"] = np.nan
    frame.loc[frame["available_at"] < "2010-01-01", "scale"] = np.nan
    found = drift(frame, END, ["level", "still", "scale"]).set_index(["feature", "year"])
    assert found.loc[("level", 2013), "rows"] == 0
    assert found.loc[("still", 2012), "rows"] == 99
    assert np.isnan(found.loc[[("level", 2013), ("still", 2012), ("scale", 2014)], ["psi", "ks"]]).all(axis=None)
    assert found.loc[("level", 2012), "psi"] > LARGE


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_distance_is_that_of_scipy(seed, rounded):
    random = np.random.default_rng(seed)
    values = random.normal(size=500) + np.where(np.arange(500) < 300, 0.0, random.normal())
    values = np.round(values, 1) if rounded else values
    times = pd.to_datetime(np.where(np.arange(500) < 300, "2009-05-01", "2010-05-01")).tz_localize("UTC")
    found = drift(pd.DataFrame({"available_at": times, "x": values}), END, ["x"]).set_index("year")
    # Differences of shares of 300 and 200: the order of the subtractions may differ.
    assert found.loc[2010, "ks"] == pytest.approx(ks_2samp(values[:300], values[300:]).statistic, abs=1e-12)
    assert found.loc[2009, "psi"] == found.loc[2009, "ks"] == 0.0


def test_the_order_of_rows_does_not_matter(frame):
    shuffled = frame.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(drift(shuffled, END, ["level"]), drift(frame, END, ["level"]))


def test_a_reference_that_cannot_be_is_refused(frame):
    with pytest.raises(ValueError, match="has no time zone"):
        drift(frame, datetime(2010, 1, 1), ["still"])
    with pytest.raises(ValueError, match="no row lies before reference_end=2000-01-01"):
        drift(frame, datetime(2000, 1, 1, tzinfo=UTC), ["still"])
    with pytest.raises(ValueError, match=r"lacks the features \['absent'\]"):
        drift(frame, END, ["still", "absent"])

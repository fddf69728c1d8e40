"""Pictures are drawn of whatever there is, at the width of the asset's page."""

import struct
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import continue_features
from atlas_pipeline.features.coverage import coverage_of
from atlas_pipeline.features.drift import drift
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.plots import plot_coverage, plot_distributions, plot_drift
from atlas_pipeline.features.registry import REGISTRY, SETS


@pytest.fixture
def made(make_bars, walk):
    return continue_features(SeriesMemory.empty(), make_bars(walk(500)))


def size(picture: bytes) -> tuple[int, int]:
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", picture[16:24])


def test_coverage_is_drawn_a_line_a_feature(made):
    width, height = size(plot_coverage(coverage_of(made.frame, made.ages), made.frame.groupby("month").size()))
    assert width == 1000
    assert height > 20 * len(REGISTRY)


def test_coverage_of_many_years_is_drawn_without_numbers(made):
    months = pd.Series(100, index=[f"{year}-01" for year in range(1950, 2020)])
    assert size(plot_coverage(coverage_of(made.frame, made.ages).assign(month="1950-01"), months))[0] == 1000


@pytest.mark.parametrize("name", ["relative", "a25"])
def test_distributions_are_drawn_also_where_a_feature_has_no_values(made, name):
    assert made.frame["vix"].isna().all()
    assert size(plot_distributions(made.frame, SETS[name]))[0] == 1000


def test_distributions_of_an_older_half_that_is_all_warm_up(made):
    assert size(plot_distributions(made.frame[:30], SETS["relative"]))[0] == 1000
    assert size(plot_distributions(made.frame[:1], ["Close"]))[0] == 1000


def test_drift_is_drawn_also_where_it_is_unknown(made):
    end = datetime(2016, 1, 1, tzinfo=UTC)
    found = drift(made.frame, end, SETS["a25"])
    assert np.isnan(found["psi"]).any()
    assert size(plot_drift(found, end))[0] == 1000

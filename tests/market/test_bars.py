from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, QUARANTINED_BARS, compare_bars, empty
from atlas_pipeline.market.quarantine import month_of

SEEN = datetime(2020, 1, 1, tzinfo=UTC)


def test_the_same_bars_give_no_revision(make_bars):
    found = compare_bars(make_bars(), make_bars(), SEEN)
    assert found.empty
    BAR_REVISIONS.schema().validate(found, lazy=True)


def test_a_changed_value_is_recorded_with_old_and_new(make_bars):
    old, new = make_bars(), make_bars()
    new.loc[5, "close"] = np.nextafter(new.loc[5, "close"], 1e9)
    new.loc[9, ["open", "volume"]] = [101.0, np.nan]
    found = compare_bars(old, new, SEEN)
    BAR_REVISIONS.schema().validate(found, lazy=True)
    assert found["column"].tolist() == ["close", "open", "volume"]
    assert found["old"].tolist() == [old["close"][5], old["open"][9], old["volume"][9]]
    assert found["new"].tolist()[:2] == [new["close"][5], 101.0]
    assert np.isnan(found["new"][2])
    assert (found["seen_at"] == pd.Timestamp(SEEN)).all()


def test_later_bars_are_additions_and_earlier_ones_revisions(make_bars):
    bars = make_bars()
    assert compare_bars(bars[:50], bars, SEEN).empty
    late = compare_bars(bars.drop(index=20), bars, SEEN)
    assert late["available_at"].unique().tolist() == [bars["available_at"][20]]
    assert late["old"].isna().all()
    withdrawn = compare_bars(bars, bars.drop(index=20), SEEN)
    assert withdrawn["new"].isna().all()
    assert len(withdrawn) == 5


def test_the_first_ingestion_revises_nothing(make_bars):
    assert compare_bars(empty(BARS), make_bars(), SEEN).empty


def test_an_instant_without_time_zone_is_refused(make_bars):
    with pytest.raises(ValueError, match="no time zone"):
        compare_bars(make_bars(), make_bars(), datetime(2020, 1, 1))


def test_empty_frames_satisfy_their_tables():
    for table in (BARS, QUARANTINED_BARS, BAR_REVISIONS, CORPORATE_ACTIONS):
        table.schema().validate(empty(table), lazy=True)


def test_months_are_those_of_utc():
    instants = pd.Series(pd.to_datetime(["2015-01-31 20:00-05:00", "2015-01-31 18:59-05:00"], utc=True))
    assert month_of(instants.dt.tz_convert("America/New_York")).tolist() == ["2015-02", "2015-01"]

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.clock import ReplayClock, WallClock


@pytest.fixture
def instants() -> pd.Series:
    closes = sessions(datetime(2015, 1, 2), datetime(2015, 3, 31))["available_at"]
    return pd.concat([closes, closes]).sample(frac=1, random_state=0)


@pytest.mark.parametrize("bars", [1, 5, 7, 1000])
def test_ticks_visit_every_bar_once_and_touch_one_month_each(instants, bars):
    clock = ReplayClock(instants)
    ordered = sorted(instants.unique())
    now, passed, ticks = clock.first - timedelta(days=1), [], 0
    while clock.remaining(now):
        then = clock.after(now, bars)
        fresh = [instant for instant in ordered if now < instant <= then]
        assert 1 <= len(fresh) <= bars
        assert len({(instant.year, instant.month) for instant in fresh}) == 1
        passed += fresh
        now, ticks = then, ticks + 1
    assert passed == ordered
    assert now == clock.last
    assert ticks == {1: 61, 5: 13, 7: 10, 1000: 3}[bars]


def test_the_end_is_a_standstill(instants):
    clock = ReplayClock(instants)
    assert clock.after(clock.last, 5) == clock.last
    assert clock.remaining(clock.last) == 0


def test_a_time_between_bars_counts_only_what_comes(instants):
    clock = ReplayClock(instants)
    assert clock.after(datetime(2015, 1, 3, tzinfo=UTC), 1) == datetime(2015, 1, 5, 21, tzinfo=UTC)


def test_unusable_arguments_are_refused(instants):
    with pytest.raises(ValueError, match="bars=0"):
        ReplayClock(instants).after(datetime(2015, 1, 3, tzinfo=UTC), 0)
    with pytest.raises(ValueError, match="no time zone"):
        ReplayClock(instants).remaining(datetime(2015, 1, 3))
    with pytest.raises(ValueError, match="at least one bar"):
        ReplayClock(instants[:0])


def test_the_wall_clock_is_in_utc():
    before = datetime.now(UTC)
    assert before <= WallClock().now() <= datetime.now(UTC)

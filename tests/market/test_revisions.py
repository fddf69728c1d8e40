from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, PRICES, empty
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.revisions import compare_actions, compare_bars, settle

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


def test_the_noise_of_single_precision_is_no_revision(make_bars):
    old = make_bars()
    # What a vendor publishes before and after a split of 7 for 1, multiplied back.
    new = old.assign(**{name: (old[name] / 7).astype("float32").astype("float64") * 7 for name in PRICES})
    noisy = old.assign(**{name: old[name].astype("float32").astype("float64") for name in PRICES})
    assert not noisy.equals(new)
    pd.testing.assert_frame_equal(settle(noisy, new), noisy)
    assert compare_bars(noisy, settle(noisy, new), SEEN).empty


def test_a_small_volume_can_be_restated(make_bars):
    old = make_bars().assign(volume=40.0)
    new = old.assign(volume=old["volume"].where(old.index != 3, 0.0))
    found = compare_bars(old, settle(old, new), SEEN)
    assert found[["column", "old", "new"]].to_numpy().tolist() == [["volume", 40.0, 0.0]]


def test_the_last_decimal_of_a_dividend_is_no_revision(make_bars):
    day = f"{make_bars('X')['session'][3]:%Y-%m-%d}"
    pd.testing.assert_frame_equal(settle(actions({day: 1.594937}), actions({day: 1.59494})), actions({day: 1.594937}))
    assert settle(actions({day: 1.59}), actions({day: 1.6}))["value"].tolist() == [1.6]


def test_a_cent_is_a_revision(make_bars):
    old = make_bars()
    new = old.assign(close=old["close"].where(old.index != 7, old["close"] + 0.01))
    found = compare_bars(old, settle(old, new), SEEN)
    assert found[["column", "old", "new"]].to_numpy().tolist() == [["close", old["close"][7], new["close"][7]]]


def test_settling_keeps_rows_that_are_new_and_values_that_are_null(make_bars):
    new = make_bars().assign(volume=np.nan)
    settled = settle(make_bars()[:50], new)
    pd.testing.assert_frame_equal(settled, new)


def actions(values: dict[str, float], kind: str = "dividend") -> pd.DataFrame:
    days = pd.Series(list(values), dtype="datetime64[us]")
    return conform(
        pd.DataFrame(
            {
                "symbol": pd.Series("X", index=days.index, dtype="str"),
                "available_at": days.dt.tz_localize("UTC") + pd.Timedelta(hours=14, minutes=30),
                "session": days,
                "kind": pd.Series(kind, index=days.index, dtype="str"),
                "value": list(values.values()),
            }
        ),
        CORPORATE_ACTIONS,
    )


def test_actions_restated_withdrawn_or_announced_late_are_revisions(make_bars):
    bars = make_bars("X")
    days = [f"{day:%Y-%m-%d}" for day in bars["session"]]
    old = actions({days[3]: 0.5, days[9]: 0.5})
    new = actions({days[3]: 0.55, days[20]: 0.6})
    found = compare_actions(old, new, bars, SEEN)
    BAR_REVISIONS.schema().validate(found, lazy=True)
    assert found["column"].tolist() == ["dividend"] * 3 and (found["interval"] == "").all()
    np.testing.assert_array_equal(found["old"], [0.5, 0.5, np.nan])
    np.testing.assert_array_equal(found["new"], [0.55, np.nan, 0.6])


def test_an_action_after_the_last_stored_bar_is_news(make_bars):
    bars = make_bars("X")
    days = [f"{day:%Y-%m-%d}" for day in bars["session"]]
    assert compare_actions(actions({}), actions({days[20]: 2.0}, "split"), bars[:20], SEEN).empty
    late = compare_actions(actions({}), actions({days[19]: 2.0}, "split"), bars[:20], SEEN)
    assert late[["column", "new"]].to_numpy().tolist() == [["split", 2.0]]

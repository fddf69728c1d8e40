from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.errors import BrokenSchemaError
from atlas_pipeline.market.option_chain import QUARANTINED_OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUARANTINED_QUOTES, validate_quotes


@pytest.fixture
def quotes() -> pd.DataFrame:
    instants = pd.date_range(datetime(2015, 1, 5, 15, tzinfo=UTC), periods=6, freq="min", unit="us")
    return pd.DataFrame(
        {"symbol": "AAA", "available_at": instants, "bid": 99.9, "bid_size": 300.0, "ask": 100.1, "ask_size": 200.0}
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bid": np.nan}, "a price or size is missing"),
        ({"ask": np.inf}, "a price or size is infinite"),
        ({"bid": 0.0}, "a price is not positive"),
        ({"ask_size": 0.0}, "a size is not positive"),
        ({"bid": 100.2}, "crossed: bid is above ask"),
        ({"bid": 100.1}, "locked: bid equals ask"),
        ({"bid": 90.0}, "spread is above 2.0% of the mid"),
    ],
)
def test_each_rule_of_quotes_refuses_its_row_and_no_other(quotes, values, reason):
    quotes.loc[2, list(values)] = list(values.values())
    kept, refused = validate_quotes(quotes)
    assert refused["reason"].tolist() == [reason]
    assert len(kept) == 5
    QUARANTINED_QUOTES.schema().validate(refused, lazy=True)


def test_duplicate_quotes(quotes):
    kept, refused = validate_quotes(pd.concat([quotes, quotes.iloc[[0]], quotes.iloc[[1]].assign(bid=99.8)]))
    assert len(kept) == 5
    assert sorted(refused["reason"]) == ["contradicts another row of the same key"] * 2 + ["repeats an identical row"]


def test_whole_sizes_with_holes_are_refused_rows_not_a_broken_schema(quotes):
    quotes["bid_size"] = quotes["bid_size"].astype("Int64").where(quotes.index != 1)
    assert validate_quotes(quotes)[1]["reason"].tolist() == ["a price or size is missing"]


def test_quotes_without_a_column_are_refused(quotes):
    with pytest.raises(BrokenSchemaError, match=r"quotes: missing columns \['ask'\]"):
        validate_quotes(quotes.drop(columns="ask"))


@pytest.fixture
def chain() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "underlying": "AAA",
            "available_at": pd.Series([datetime(2015, 1, 5, 21, tzinfo=UTC)] * 4).astype("datetime64[us, UTC]"),
            "session": pd.Timestamp("2015-01-05"),
            "expiry": pd.Timestamp("2015-01-17"),
            "right": ["call", "call", "put", "put"],
            "strike": [95.0, 100.0, 95.0, 100.0],
            "bid": [5.0, 2.0, np.nan, 2.0],
            "bid_size": 10.0,
            "ask": [5.2, 2.1, 0.1, 2.1],
            "ask_size": 10.0,
            "last": np.nan,
            "volume": np.nan,
            "open_interest": np.nan,
            "implied_volatility": np.nan,
            "underlying_close": 100.0,
        }
    )


def test_a_contract_that_nobody_bids_for_stays(chain):
    kept, refused = validate_option_chain(chain)
    assert len(kept) == 4
    assert refused.empty


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"expiry": pd.Timestamp("2015-01-02")}, "expired: expiry lies before the session"),
        ({"right": "straddle"}, "right is neither call nor put"),
        ({"underlying_close": 0.0}, "strike or underlying price is missing, infinite or not positive"),
        ({"bid": -0.5}, "a price, size, count or volatility is negative"),
        ({"implied_volatility": -0.2}, "a price, size, count or volatility is negative"),
        ({"volume": np.inf}, "a price, size, count or volatility is infinite"),
        ({"bid": 3.0}, "crossed: bid is above ask"),
        ({"session": pd.NaT}, "session is missing"),
    ],
)
def test_each_rule_of_chains_refuses_its_row_and_no_other(chain, values, reason):
    chain.loc[1, list(values)] = list(values.values())
    kept, refused = validate_option_chain(chain)
    assert refused["reason"].tolist() == [reason]
    assert len(kept) == 3
    QUARANTINED_OPTION_CHAIN.schema().validate(refused, lazy=True)


def test_an_option_on_its_last_day_has_not_expired(chain):
    assert validate_option_chain(chain.assign(expiry=pd.Timestamp("2015-01-05")))[1].empty

from datetime import UTC, datetime

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.microstructure import MICROSTRUCTURE_FEATURES, compute_microstructure
from atlas_pipeline.market.quotes import validate_quotes

QUOTE = st.tuples(st.floats(1, 1000), st.floats(1e-4, 0.015), st.floats(1, 1e6), st.floats(1, 1e6))


@settings(max_examples=30, deadline=None)
@given(st.lists(QUOTE, min_size=1, max_size=20))
def test_formulas_and_bounds(rows):
    instants = pd.date_range(datetime(2015, 1, 5, 15, tzinfo=UTC), periods=len(rows), freq="min", unit="us")
    bid, spread, bid_size, ask_size = np.array(rows).T
    ask = bid * (1 + spread)
    frame = pd.DataFrame(
        {"symbol": "A", "available_at": instants, "bid": bid, "bid_size": bid_size, "ask": ask, "ask_size": ask_size}
    )
    quotes, refused = validate_quotes(frame)
    assert refused.empty
    found = compute_microstructure(quotes)
    MICROSTRUCTURE_FEATURES.schema().validate(found, lazy=True)
    microprice = (bid * ask_size + ask * bid_size) / (bid_size + ask_size)
    mid = (bid + ask) / 2
    np.testing.assert_allclose(found["microprice"], microprice, rtol=1e-12)
    # The difference of two near prices loses their common digits: a rounding of the price, not of the difference.
    np.testing.assert_allclose(found["effective_spread"], (microprice - mid) / mid, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["order_imbalance"], (bid_size - ask_size) / (bid_size + ask_size), rtol=1e-12)
    assert (found["microprice"] >= bid * (1 - 1e-14)).all()
    assert (found["microprice"] <= ask * (1 + 1e-14)).all()
    assert (found["effective_spread"].abs() <= found["quoted_spread"] / 2 * (1 + 1e-12)).all()


def test_a_large_bid_leans_the_price_to_the_ask():
    frame = pd.DataFrame(
        {
            "symbol": "A",
            "available_at": pd.to_datetime(["2015-01-05 15:00Z"]).as_unit("us"),
            "bid": 99.0,
            "bid_size": 900.0,
            "ask": 100.0,
            "ask_size": 100.0,
            "month": "2015-01",
        }
    )
    found = compute_microstructure(frame).iloc[0]
    assert found["microprice"] == 99.9
    assert found["order_imbalance"] == 0.8
    assert found["effective_spread"] > 0

"""Option chains that tests look at: quotes around the prices of a smile that is known, and real ones."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features import black_scholes
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.files import FileSet, FilesSource
from atlas_pipeline.market.option_chain import CALL, PUT, validate_option_chain


def make_chain(
    smile=lambda strike, years: 0.2 - 0.3 * np.log(strike / 100),
    expiries=("2015-01-09", "2015-01-16", "2015-02-07", "2015-02-20", "2015-04-17"),
    carry: float = 0.0,
    rate: float = 0.0,
    at: str = "2015-01-05 21:00",
    underlying: str = "AAA",
    half_spread: float = 0.001,
) -> pd.DataFrame:
    """Quotes around Black-Scholes prices of a smile, of one instant and strikes from 70 to 130."""
    available_at = pd.Timestamp(at, tz="UTC").as_unit("us")
    days = pd.to_datetime(list(expiries)).astype("datetime64[us]")
    closes = sessions(days[0] - pd.Timedelta(days=7), days[-1])
    last = closes["available_at"].iloc[closes["session"].searchsorted(days, side="right") - 1]
    strikes = np.arange(70.0, 131.0, 2.5)
    shape = (len(days), 2, len(strikes))
    years, strike, call = np.broadcast_arrays(
        ((last - available_at) / pd.Timedelta(days=365)).to_numpy()[:, None, None],
        strikes,
        np.array([True, False])[:, None],
    )
    spots = np.full(shape, 100.0).ravel()
    years, strike, call = np.array(years).ravel(), np.array(strike).ravel(), np.array(call).ravel()
    mid = black_scholes.prices(spots, strike, years, smile(strike, years), rate, np.full(len(spots), carry), call)
    mid = np.maximum(mid, 0.0)  # rounding can leave a worthless one below nothing
    frame = pd.DataFrame(
        {
            "underlying": pd.Series(underlying, index=range(len(mid)), dtype="str"),
            "available_at": available_at,
            "session": available_at.tz_localize(None).normalize(),
            "expiry": days.repeat(2 * len(strikes)),
            "right": np.where(call, CALL, PUT),
            "strike": strike,
            "bid": (1 - half_spread) * mid,
            "bid_size": 1.0,
            "ask": (1 + half_spread) * mid,
            "ask_size": 1.0,
            "underlying_close": 100.0,
        }
    ).assign(last=np.nan, volume=np.nan, open_interest=np.nan, implied_volatility=np.nan)
    accepted, refused = validate_option_chain(frame)
    assert refused.empty
    return accepted


@cache
def apple_chain() -> pd.DataFrame:
    """AAPL's chains of 2014-06-06 and 2014-06-09, on both sides of a 7:1 split."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "options_chain.parquet"
    if not path.is_file():
        pytest.skip("no ../shared/data beside the repository: a real option chain is tested only with it")
    source = FilesSource(option_chain=FileSet(path, {"session": "date"}))
    year = datetime(2014, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC)
    return validate_option_chain(source.option_chain(["AAPL"], *year))[0]

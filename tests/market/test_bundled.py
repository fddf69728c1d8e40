import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market import bundled
from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError, UnknownSymbolError

START, END = datetime(2015, 1, 1, tzinfo=UTC), datetime(2015, 2, 1, tzinfo=UTC)


def test_the_bars_are_those_of_the_package(bundled_bars):
    from arch.data import nasdaq, sp500

    for symbol, original in (("SP500", sp500.load()), ("NASDAQ", nasdaq.load())):
        own = bundled_bars[bundled_bars["symbol"] == symbol]
        assert own["session"].tolist() == original.index.tolist()
        for column in ("Open", "High", "Low", "Close", "Volume"):
            np.testing.assert_array_equal(own[column.lower()], original[column])


def test_the_range_stated_is_the_range_of_the_data(bundled_bars):
    source = BundledSource()
    assert source.range() == (bundled_bars["available_at"].min(), bundled_bars["available_at"].max())
    assert not source.live


def test_ranges_are_half_open():
    source = BundledSource()
    january = source.bars(["SP500"], START, END)
    BARS.schema().validate(january, lazy=True)
    assert len(january) == 20
    last = january["available_at"].max().to_pydatetime()
    assert len(source.bars(["SP500"], START, last)) == 19
    assert source.bars(["SP500"], END, END).empty
    assert source.bars([], START, END).empty


def test_unusable_requests_are_refused():
    source = BundledSource()
    with pytest.raises(UnknownSymbolError, match=r"no symbol 'DAX', 'FTSE'; it has: SP500, NASDAQ"):
        source.bars(["SP500", "DAX", "FTSE"], START, END)
    with pytest.raises(ValueError, match="no time zone"):
        source.bars(["SP500"], datetime(2015, 1, 1), END)
    with pytest.raises(ValueError, match="lies before"):
        source.bars(["SP500"], END, START)
    with pytest.raises(NotOfferedError, match=r"offers no quotes: use the files"):
        source.quotes(["SP500"], START, END)
    with pytest.raises(NotOfferedError, match="offers no option chains"):
        source.option_chain(["SP500"], START, END)
    assert source.corporate_actions(["SP500"], START, END).empty


def test_vix_has_closes_only_and_later_than_the_stocks():
    with pytest.raises(UnknownSymbolError):
        BundledSource().bars(["VIX"], START, END)
    closes = BundledSource().index_closes(datetime(2014, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))
    assert closes["close"].notna().all()
    days = sessions(closes["session"].min(), closes["session"].max()).set_index("session")
    assert closes["session"].isin(days.index).all()
    delay = closes["available_at"] - closes["session"].map(days["available_at"])
    assert (delay == timedelta(minutes=15)).all()


def test_a_missing_package_or_a_broken_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(SourceUnavailableError, match="'arch', which is missing: install it"):
        bundled._read("sp500")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(bundled, "find_spec", lambda name: Spec)
    with pytest.raises(SourceUnavailableError, match=r"sp500\.csv\.gz cannot be read"):
        bundled._read("sp500")
    folder = tmp_path / "data" / "sp500"
    folder.mkdir(parents=True)
    pd.DataFrame({"Date": ["yesterday"], "Open": [1.0]}).to_csv(folder / "sp500.csv.gz", index=False)
    with pytest.raises(SourceUnavailableError, match="reinstall 'arch'"):
        bundled._read("sp500")


def test_the_room_imports_no_heavy_package():
    modules = (
        "bars, bundled, calendars, clock, coverage, files, intervals, option_chain, quotes, resampling, series, "
        "sources, tripwires, validation, yahoo"
    )
    heavy = "torch numba arch pandera exchange_calendars yfinance dagster duckdb mlflow"
    code = (
        f"import sys; from atlas_pipeline.market import {modules}; "
        "from atlas_pipeline.market.bundled import BundledSource; BundledSource().range(); "
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]; assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError, UnknownSymbolError
from atlas_pipeline.market.files import FileSet, FilesSource
from atlas_pipeline.market.option_chain import OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import QUOTES, validate_quotes
from atlas_pipeline.market.validation import validate_bars

ALWAYS = (datetime(1980, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
COLUMNS = {"session": "Date", "open": "Open", "high": "High", "low": "Low", "close": "Close", "volume": "Volume"}


@pytest.fixture
def vendor_rows(make_bars) -> pd.DataFrame:
    bars = make_bars()
    return pd.DataFrame({theirs: bars[ours] for ours, theirs in COLUMNS.items()})


def test_one_symbol_a_file_takes_its_name_from_the_file(tmp_path, vendor_rows, make_bars):
    vendor_rows.to_csv(tmp_path / "AAA.csv", index=False)
    vendor_rows.to_parquet(tmp_path / "BBB.parquet")
    (tmp_path / "notes.txt").write_text("not data")
    for path in (tmp_path, tmp_path / "*.*", str(tmp_path / "[AB]*")):
        source = FilesSource(bars={"path": path, "columns": COLUMNS})
        assert source.symbols == ("AAA", "BBB")
        read = source.bars(["AAA"], *ALWAYS)
        pd.testing.assert_frame_equal(read, make_bars())
    assert source.range() == (read["available_at"].min(), read["available_at"].max())


def test_many_symbols_in_one_file(tmp_path, make_bars):
    both = pd.concat([make_bars(), make_bars("BBB", seed=1)])
    both.drop(columns="month").to_parquet(tmp_path / "all.parquet")
    source = FilesSource(FileSet(tmp_path / "all.parquet"))
    pd.testing.assert_frame_equal(source.bars(["BBB"], *ALWAYS), make_bars("BBB", seed=1))


def test_times_without_zone_are_those_of_the_set(tmp_path):
    pd.DataFrame(
        {"time": ["2015-01-05 10:30:00"], "open": 1.0, "high": 2.0, "low": 1.0, "close": 2, "volume": 5}
    ).to_csv(tmp_path / "X.csv", index=False)
    bars = FilesSource(FileSet(tmp_path, {"available_at": "time"}, time_zone="Europe/Berlin", interval="1h")).bars(
        ["X"], *ALWAYS
    )
    assert bars["available_at"][0] == datetime(2015, 1, 5, 9, 30, tzinfo=UTC)
    assert bars["session"][0] == pd.Timestamp("2015-01-05")
    assert bars["interval"].tolist() == ["1h"]


def test_no_volume_column_gives_null_not_a_number(tmp_path, vendor_rows):
    vendor_rows.drop(columns="Volume").to_csv(tmp_path / "X.csv", index=False)
    columns = {ours: theirs for ours, theirs in COLUMNS.items() if ours != "volume"}
    assert FilesSource(FileSet(tmp_path, columns)).bars(["X"], *ALWAYS)["volume"].isna().all()


def test_a_day_without_trading_is_kept_for_validation(tmp_path, vendor_rows):
    vendor_rows.loc[0, "Date"] = pd.Timestamp("2015-01-03")
    vendor_rows.to_csv(tmp_path / "X.csv", index=False)
    bars = FilesSource(FileSet(tmp_path, COLUMNS)).bars(["X"], *ALWAYS)
    assert len(bars) == len(vendor_rows)
    outcome = validate_bars(bars, sessions(bars["session"].min(), bars["session"].max()))
    assert outcome.quarantined["reason"].tolist() == ["the exchange does not trade on this session"]


def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path, vendor_rows):
    with pytest.raises(SourceUnavailableError, match="no file ending in"):
        FilesSource(FileSet(tmp_path / "none*.csv")).range()
    vendor_rows.to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=r"X\.csv has no column \['close_price'\]"):
        FilesSource(FileSet(tmp_path, {**COLUMNS, "close": "close_price"})).range()
    vendor_rows.astype({"Date": "str"}).assign(Date="Total").to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=r"X\.csv: column session holds what is no time"):
        FilesSource(FileSet(tmp_path, COLUMNS)).range()
    vendor_rows.assign(Date=vendor_rows["Date"].where(vendor_rows.index != 3)).to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match="session is missing in row 3"):
        FilesSource(FileSet(tmp_path, COLUMNS)).range()
    (tmp_path / "X.csv").unlink()
    (tmp_path / "Y.parquet").write_text("this is no parquet file")
    with pytest.raises(SourceUnavailableError, match=r"Y\.parquet cannot be read"):
        FilesSource(FileSet(tmp_path, COLUMNS)).range()


def test_an_hour_that_summer_time_skips_is_named(tmp_path):
    rows = {"time": ["2015-03-08 02:30"], "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1}
    pd.DataFrame(rows).to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match="write the times in UTC"):
        FilesSource(FileSet(tmp_path, {"available_at": "time"}, interval="1h")).range()


def test_unknown_symbols_and_kinds_without_files_are_refused(tmp_path, vendor_rows):
    vendor_rows.to_csv(tmp_path / "AAA.csv", index=False)
    source = FilesSource(FileSet(tmp_path, COLUMNS))
    with pytest.raises(UnknownSymbolError, match="it has: AAA"):
        source.bars(["ZZZ"], *ALWAYS)
    with pytest.raises(NotOfferedError, match="give the source a FileSet for quotes"):
        source.quotes(["AAA"], *ALWAYS)
    assert source.corporate_actions(["AAA"], *ALWAYS).empty
    with pytest.raises(ValueError, match="at least one FileSet"):
        FilesSource()


def test_daily_bars_of_a_vendor(shared_data):
    source = FilesSource(FileSet(shared_data / "daily.parquet", {"session": "date"}))
    bars = source.bars(source.symbols, *ALWAYS)
    assert len(bars) == 43_698
    outcome = validate_bars(bars, sessions(bars["session"].min(), bars["session"].max()))
    assert len(outcome.bars) + len(outcome.quarantined) == len(bars)
    BARS.schema().validate(outcome.bars, lazy=True)
    found = set(zip(outcome.quarantined["symbol"], outcome.quarantined["session"].dt.strftime("%F"), strict=True))
    # Three lows a tenth of the day's other prices, AIG's 1:20 and AAPL's 7:1 split without corporate actions,
    # and EEM's ticker, which was another company's before.
    assert found >= {("AAPL", "2009-09-21"), ("AAPL", "2014-06-09"), ("AIG", "2009-07-01"), ("EEM", "2003-04-11")}
    assert len(found) < 10
    holes = outcome.warnings[(outcome.warnings["kind"] == "missing_sessions") & (outcome.warnings["symbol"] == "QQQ")]
    assert holes["message"].tolist() == ["1588 sessions without a bar, 2004-12-01 to 2011-03-22"]


def test_vix_bars_of_a_csv_file(shared_data):
    columns = {"session": "DATE", "open": "OPEN", "high": "HIGH", "low": "LOW", "close": "CLOSE"}
    bars = FilesSource(FileSet(shared_data / "vix_daily.csv", columns)).bars(["vix_daily"], *ALWAYS)
    assert len(bars) == 9_235
    outcome = validate_bars(bars, sessions(bars["session"].min(), bars["session"].max()))
    assert len(outcome.quarantined) < 0.01 * len(bars)


def test_quotes_of_a_vendor(shared_data):
    source = FilesSource(quotes=FileSet(shared_data / "quotes_minute.parquet", {"available_at": "ts"}))
    quotes = source.quotes(source.symbols, *ALWAYS)
    kept, refused = validate_quotes(quotes)
    assert len(kept) + len(refused) == len(quotes) == 18_217
    QUOTES.schema().validate(kept, lazy=True)
    counts = refused["reason"].value_counts().to_dict()
    assert counts == {"locked: bid equals ask": 204, "spread is above 2.0% of the mid": 80}
    absurd = refused[(refused["bid"] == 175.0) & (refused["ask"] == 184.83)]
    assert absurd["available_at"].min() == datetime(2013, 10, 9, 8, tzinfo=UTC)


def test_option_chains_of_a_vendor(shared_data):
    source = FilesSource(option_chain=FileSet(shared_data / "options_chain.parquet", {"session": "date"}))
    chain = source.option_chain(["AAPL"], *ALWAYS)
    kept, refused = validate_option_chain(chain)
    assert len(kept) == 4_532
    assert refused.empty
    OPTION_CHAIN.schema().validate(kept, lazy=True)
    assert kept["available_at"].unique().tolist() == [
        datetime(2014, 6, 6, 20, tzinfo=UTC),
        datetime(2014, 6, 9, 20, tzinfo=UTC),
    ]
    assert len(source.option_chain(["AAPL"], datetime(2014, 6, 7, tzinfo=UTC), ALWAYS[1])) == 2_180
    assert timedelta(0) <= (kept["expiry"] - kept["session"]).min()

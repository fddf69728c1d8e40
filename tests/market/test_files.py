from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from atlas_pipeline.market.bars import CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError, UnknownSymbolError
from atlas_pipeline.market.files import FileSet, FilesSource
from atlas_pipeline.market.option_chain import validate_option_chain
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
    vendor_rows.assign(Date="2015-02-30").to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=r"column session holds what is no time.*2015-02-30"):
        FilesSource(FileSet(tmp_path, COLUMNS)).range()
    vendor_rows.astype({"Date": "str"}).assign(Date="Total").to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=r"X\.csv: column session holds what is no time.*time_format"):
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


def test_reading_month_by_month_parses_the_text_once(tmp_path, vendor_rows, monkeypatch):
    import pyarrow.csv

    parsed = []
    read_csv = pyarrow.csv.read_csv
    monkeypatch.setattr(pyarrow.csv, "read_csv", lambda path, **how: parsed.append(path) or read_csv(path, **how))
    vendor_rows.assign(Note="unread").to_csv(tmp_path / "AAA.csv", index=False)
    source = FilesSource(FileSet(tmp_path, COLUMNS))
    whole = source.bars(["AAA"], *ALWAYS)
    months = [(datetime(2015, month, 1, tzinfo=UTC), datetime(2015, month + 1, 1, tzinfo=UTC)) for month in range(1, 6)]
    cut = pd.concat([answer.bars for month in months for answer in source.fetch(["AAA"], *month)], ignore_index=True)
    pd.testing.assert_frame_equal(cut, whole)
    assert len(parsed) == 1


def test_rows_out_of_order_are_all_found_and_keep_their_order(tmp_path, make_bars):
    rows = pd.concat([make_bars("BBB"), make_bars("AAA", seed=1)]).sample(frac=1, random_state=0).drop(columns="month")
    rows.to_parquet(tmp_path / "all.parquet")
    start, end = datetime(2015, 2, 1, tzinfo=UTC), datetime(2015, 3, 1, tzinfo=UTC)
    read = FilesSource(FileSet(tmp_path)).bars(["AAA", "BBB"], start, end)
    for symbol in ("AAA", "BBB"):
        expected = rows[(rows["symbol"] == symbol) & rows["available_at"].between(start, end, inclusive="left")]
        own = read[read["symbol"] == symbol].drop(columns="month").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, expected.reset_index(drop=True))


def test_several_file_sets_with_their_own_columns_and_calendars(tmp_path, vendor_rows, make_bars):
    vendor_rows.drop(columns="Volume").to_csv(tmp_path / "VIX.csv", index=False)
    make_bars().drop(columns="month").to_parquet(tmp_path / "AAA.parquet")
    index = {ours: theirs for ours, theirs in COLUMNS.items() if ours != "volume"}
    source = FilesSource(
        [{"path": tmp_path / "*.parquet"}, {"path": tmp_path / "*.csv", "columns": index, "calendar": "XCBF"}]
    )
    assert source.symbols == ("AAA", "VIX")
    bars = source.bars(["AAA", "VIX"], *ALWAYS)
    delay = bars.groupby("symbol")["available_at"].max()
    assert delay["VIX"] - delay["AAA"] == timedelta(minutes=15)
    assert bars[bars["symbol"] == "VIX"]["volume"].isna().all()


def test_tickers_and_whole_numbers_are_what_they_look_like(tmp_path):
    # A ticker that reads as missing, one that reads as a truth value, one of digits; volumes that turn fractional late.
    rows = pd.DataFrame({"symbol": ["NA", "TRUE", "7203"] * 30_000, "volume": ["1"] * 89_999 + ["2.5"]})
    rows = rows.assign(session="2015-01-05", open=1.0, high=1.0, low=1.0, close=1.0)
    rows.to_csv(tmp_path / "all.csv", index=False)
    source = FilesSource(FileSet(tmp_path))
    assert source.symbols == ("7203", "NA", "TRUE")
    assert source.bars(["7203"], *ALWAYS)["volume"].max() == 2.5


def intraday(path, times, **columns):
    rows = {"time": times, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0, **columns}
    pd.DataFrame(rows).to_csv(path / "X.csv", index=False)


def test_bars_that_a_vendor_labels_by_their_start_are_labelled_by_their_end(tmp_path):
    intraday(tmp_path, ["2015-11-25 15:00", "2015-11-27 09:30", "2015-11-27 12:30", "2015-11-27 08:30"])
    bars = FilesSource(FileSet(tmp_path, {"starts_at": "time"}, interval="1h")).bars(["X"], *ALWAYS)
    local = bars["available_at"].dt.tz_convert("America/New_York").dt.strftime("%d %H:%M").tolist()
    # A half day closes at 13:00; before the opening nothing cuts a bar.
    assert local == ["25 16:00", "27 10:30", "27 13:00", "27 09:30"]
    assert bars["session"].dt.day.tolist() == [25, 27, 27, 27]
    with pytest.raises(ValueError, match="'1d' cannot be labelled by starts_at"):
        FilesSource(FileSet(tmp_path, {"starts_at": "time"})).range()


def test_a_rest_at_noon_ends_a_bar(tmp_path):
    intraday(tmp_path, ["2015-01-05 11:00", "2015-01-05 12:30"])
    tokyo = FileSet(tmp_path, {"starts_at": "time"}, time_zone="Asia/Tokyo", interval="1h", calendar="XTKS")
    bars = FilesSource(tokyo).bars(["X"], *ALWAYS)
    assert bars["available_at"].dt.tz_convert("Asia/Tokyo").dt.strftime("%H:%M").tolist() == ["11:30", "13:30"]


def test_an_evening_bar_belongs_to_the_session_it_opens(tmp_path):
    intraday(tmp_path, ["2015-01-05 18:00", "2015-01-06 10:00"])
    chicago = FileSet(tmp_path, {"available_at": "time"}, time_zone="America/Chicago", interval="1h", calendar="CMES")
    assert FilesSource(chicago).bars(["X"], *ALWAYS)["session"].dt.day.tolist() == [6, 6]


def test_offsets_in_the_text_are_used_across_summer_time(tmp_path):
    intraday(tmp_path, ["2015-03-06 10:30:00-05:00", "2015-03-09 10:30:00-04:00"])
    files = FileSet(tmp_path, {"available_at": "time"}, time_zone="Asia/Tokyo", interval="1h")
    assert FilesSource(files).bars(["X"], *ALWAYS)["available_at"].dt.hour.tolist() == [15, 14]
    intraday(tmp_path, ["2015-03-06 10:30:00-05:00", "2015-03-09 10:30:00"])
    with pytest.raises(SourceUnavailableError, match="mixes times with and without an offset"):
        FilesSource(files).range()


def test_a_day_with_a_zone_is_the_day_written(tmp_path):
    intraday(tmp_path, ["2015-01-05 00:00:00-05:00", "2015-07-06 00:00:00-04:00"])
    bars = FilesSource(FileSet(tmp_path, {"session": "time"}, time_zone="UTC")).bars(["X"], *ALWAYS)
    assert bars["session"].dt.strftime("%F").tolist() == ["2015-01-05", "2015-07-06"]


def test_no_order_of_day_and_month_is_guessed(tmp_path):
    intraday(tmp_path, ["05/01/2015", "06/01/2015"])
    with pytest.raises(SourceUnavailableError, match="give the file set a time_format"):
        FilesSource(FileSet(tmp_path, {"session": "time"})).range()
    bars = FilesSource(FileSet(tmp_path, {"session": "time"}, time_format="%d/%m/%Y")).bars(["X"], *ALWAYS)
    assert bars["session"].dt.month.tolist() == [1, 1]
    intraday(tmp_path, [20150105, 20150106])
    assert len(FilesSource(FileSet(tmp_path, {"session": "time"})).bars(["X"], *ALWAYS)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="Low"), r"X\.csv has no column \['Low'\]"),
        (lambda rows: rows.assign(Low="cheap"), r"X\.csv cannot be read \(.*'cheap'"),
        (lambda rows: rows.iloc[:, [0, 1, 2, 3, 4, 5, 5]], r"X\.csv has more than one column \['Volume'\]"),
        (lambda rows: rows.iloc[:0, :0], r"X\.csv has no column"),
    ],
)
def test_what_is_wrong_with_a_column_is_said_with_the_files_name(tmp_path, vendor_rows, change, message):
    change(vendor_rows).to_csv(tmp_path / "X.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=message):
        FilesSource(FileSet(tmp_path, COLUMNS)).range()


def test_columns_that_nothing_names(tmp_path, make_bars):
    bars = make_bars().drop(columns="month")
    bars.drop(columns="close").to_parquet(tmp_path / "X.parquet")
    with pytest.raises(SourceUnavailableError, match=r"X\.parquet has no column for close"):
        FilesSource(FileSet(tmp_path)).range()
    bars.drop(columns=["session", "available_at"]).to_parquet(tmp_path / "X.parquet")
    with pytest.raises(SourceUnavailableError, match="no column for session or available_at"):
        FilesSource(FileSet(tmp_path)).range()
    bars.astype({"close": "str"}).to_parquet(tmp_path / "X.parquet")
    with pytest.raises(SourceUnavailableError, match=r"column close holds .*string where numbers belong"):
        FilesSource(FileSet(tmp_path)).range()
    bars.drop(columns="session").to_parquet(tmp_path / "X.parquet")
    bars.to_parquet(tmp_path / "Y.parquet")
    with pytest.raises(SourceUnavailableError, match=r"X\.parquet has no column for session, which other files"):
        FilesSource(FileSet(tmp_path)).range()
    with pytest.raises(ValueError, match=r"map \['opne'\], which bars does not have"):
        FilesSource(FileSet(tmp_path, {"opne": "Open"})).range()


def test_actions_of_a_file_stand_in_for_those_that_factors_tell(tmp_path, make_bars):
    bars = make_bars().drop(columns="month").assign(price_factor=1.0, split_factor=1.0)
    bars.loc[:9, "split_factor"] = 0.5
    bars.loc[:19, "price_factor"] = 0.99
    (tmp_path / "bars").mkdir()
    bars.to_parquet(tmp_path / "bars" / "AAA.parquet")
    split, dividend = bars["session"][10], bars["session"][20]
    deduced = FilesSource(FileSet(tmp_path / "bars")).corporate_actions(["AAA"], *ALWAYS)
    assert deduced[["session", "kind"]].values.tolist() == [[split, "split"], [dividend, "dividend"]]
    stated = pd.DataFrame({"symbol": "AAA", "day": ["2015-01-06", dividend], "kind": "Dividend", "cash": [0.1, 0.2]})
    stated.to_csv(tmp_path / "actions.csv", index=False)
    actions = {"path": tmp_path / "actions.csv", "columns": {"session": "day", "value": "cash"}}
    source = FilesSource(FileSet(tmp_path / "bars"), corporate_actions=actions)
    read = source.corporate_actions(["AAA"], *ALWAYS)
    CORPORATE_ACTIONS.schema().validate(read, lazy=True)
    assert read[["kind", "value"]].values.tolist() == [["dividend", 0.1], ["split", 2.0], ["dividend", 0.2]]
    assert read["available_at"][0] == datetime(2015, 1, 6, 14, 30, tzinfo=UTC)
    (answer,) = source.fetch(["AAA"], ALWAYS[0], datetime(2015, 1, 7, tzinfo=UTC))
    assert answer.actions["value"].tolist() == [0.1]
    stated.assign(kind="spin-off").to_csv(tmp_path / "actions.csv", index=False)
    with pytest.raises(SourceUnavailableError, match=r"the action 'spin-off' of 0\.1: write split or dividend"):
        FilesSource(FileSet(tmp_path / "bars"), corporate_actions=actions).corporate_actions(["AAA"], *ALWAYS)


def test_chains_without_the_vendors_volatility_have_none(tmp_path):
    row = {"session": "2015-01-05", "expiry": "2015-01-17", "right": "C", "strike": 100.0, "underlying_close": 101.0}
    pd.DataFrame([row]).to_csv(tmp_path / "AAA.csv", index=False)
    source = FilesSource(option_chain=FileSet(tmp_path))
    chain = source.option_chain(["AAA"], *ALWAYS)
    assert chain["implied_volatility"].isna().all()
    assert chain["right"].tolist() == ["call"]
    assert source.range() == (datetime(2015, 1, 5, 21, tzinfo=UTC),) * 2
    assert len(validate_option_chain(chain)[0]) == 1

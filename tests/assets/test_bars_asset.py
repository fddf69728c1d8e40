"""Bars: months with versions of their own, sources that fail, rows that are refused, values that are restated."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets import bar_checks
from assets import market as stage
from atlas_pipeline.market import bundled
from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, QUARANTINED_BARS
from resources.market import Market

CLOCK = "1999-04-30T20:00:00+00:00"
FIRST, LAST = "1999-01", "1999-03"


@pytest.fixture
def pipeline(pipeline_at, tmp_path: Path):
    """An empty folder; the clock stands at the close of April's last session."""
    return pipeline_at(tmp_path / "home", replay_start=CLOCK)


def recorded_versions(pipeline, asset: str, months: list[str]) -> dict[str, str]:
    key = dg.AssetKey(asset)
    versions = {}
    for month in months:
        records = pipeline.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[month]), limit=1
        ).records
        versions[month] = records[0].asset_materialization.tags["dagster/data_version"]
    return versions


def at(frame: pd.DataFrame, symbol: str, session: str) -> pd.Series:
    return (frame["symbol"] == symbol) & (frame["session"] == pd.Timestamp(session))


def test_each_month_of_a_range_run_has_its_own_version(pipeline) -> None:
    result = pipeline.run("ingest", "bars", partitions=(FIRST, LAST), checks=True)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert result.success and [name for name, check in checks.items() if not check.passed] == ["bars_sessions"]
    assert checks["bars_sessions"].metadata["months not whole"].value == "1999-04", "the clock stands at its end"
    months = ["1999-01", "1999-02", "1999-03"]
    versions = recorded_versions(pipeline, "bars", months)
    assert versions == {month: pipeline.warehouse.data_version(BARS, month) for month in months}
    assert len(set(versions.values())) == 3
    expected = bundled.BundledSource().bars(
        ["SP500", "NASDAQ"], datetime(1999, 1, 1, tzinfo=UTC), datetime(1999, 4, 1, tzinfo=UTC)
    )
    stored = pipeline.warehouse.read(BARS)
    pd.testing.assert_frame_equal(
        stored.set_index(list(BARS.key)), expected.set_index(list(BARS.key)).sort_index(), check_like=True
    )

    # One month again, alone, from the same source: nothing is new, so nothing downstream becomes stale.
    snapshot = pipeline.warehouse.snapshot()
    assert pipeline.run("ingest", "bars", partition="1999-02").success
    assert recorded_versions(pipeline, "bars", months) == versions
    assert pipeline.warehouse.snapshot() == snapshot


def test_the_latest_event_of_a_range_shows_what_the_page_is_looked_at_for(pipeline) -> None:
    result = pipeline.run("ingest", "bars", partitions=(FIRST, LAST))
    *_, latest = result.asset_materializations_for_node("bars")
    assert latest.partition == LAST
    assert {"coverage", "last revisions", "quarantine", "tripwires", "outcomes"} <= latest.metadata.keys()


def test_an_interrupted_range_goes_on_where_it_was_told_to(pipeline) -> None:
    assert pipeline.run("ingest", "bars", partition="1999-01").success
    assert pipeline.run("ingest", "bars", partitions=(FIRST, LAST)).success
    assert pipeline.warehouse.duplicates(BARS).empty
    assert pipeline.warehouse.read(BAR_REVISIONS).empty


def test_a_bar_after_the_clock_never_enters(pipeline_at, tmp_path: Path, change_feed) -> None:
    close = datetime(1999, 3, 15, 21, tzinfo=UTC)
    for name, clock, last in (("at", close, 15), ("before", close - timedelta(microseconds=1), 12)):
        pipeline = pipeline_at(tmp_path / name, replay_start=clock.isoformat())
        assert pipeline.run("ingest", "bars", partition="1999-03").success
        assert pipeline.warehouse.read(BARS)["session"].max() == pd.Timestamp(1999, 3, last)

    # Nor where the source answers with more than it was asked for.
    everything = bundled.BundledSource().bars(
        ["SP500", "NASDAQ"], datetime(1999, 3, 1, tzinfo=UTC), datetime(1999, 5, 1, tzinfo=UTC)
    )
    change_feed(lambda frame: everything)
    pipeline = pipeline_at(tmp_path / "eager", replay_start=close.isoformat())
    assert pipeline.run("ingest", "bars", partition="1999-03").success
    stored = pipeline.warehouse.read(BARS)
    assert stored["available_at"].max() == close and len(stored) == 2 * 11


def test_the_month_in_progress_grows_with_the_clock(pipeline) -> None:
    assert pipeline.run("ingest", "bars", partition="1999-04").success
    assert pipeline.run(
        "ingest", "bars", partition="1999-05", config={"bars": {"advance_clock_to": "1999-05-05T20:00:00+00:00"}}
    ).success
    assert pipeline.market.now() == datetime(1999, 5, 5, 20, tzinfo=UTC)
    assert pipeline.warehouse.partitions(BARS)["1999-05"] == 2 * 3
    first = pipeline.warehouse.data_version(BARS, "1999-05")
    config = {"bars": {"advance_clock_to": "1999-05-06T20:00:00+00:00"}}
    for _ in range(2):
        assert pipeline.run("ingest", "bars", partition="1999-05", config=config).success
    assert pipeline.warehouse.partitions(BARS)["1999-05"] == 2 * 4
    assert pipeline.warehouse.data_version(BARS, "1999-05") != first
    assert pipeline.warehouse.read(BAR_REVISIONS).empty, "a bar that is new is no revision"


@pytest.mark.parametrize("instant", ["1999-05-05T20:00:00", "yesterday"])
def test_an_instant_that_is_none_fails_at_once(pipeline, instant: str) -> None:
    result = pipeline.run("ingest", "bars", partition="1999-05", config={"bars": {"advance_clock_to": instant}})
    assert instant in pipeline.failure(result).replace("05-05 20", "05-05T20")
    assert pipeline.counts() == {}


def test_a_live_clock_cannot_be_moved(pipeline_at, tmp_path: Path) -> None:
    pipeline = pipeline_at(tmp_path / "home", replay_start=None)
    config = {"bars": {"advance_clock_to": "1999-05-05T20:00:00+00:00"}}
    assert "leave advance_clock_to unset" in pipeline.failure(
        pipeline.run("ingest", "bars", partition="1999-05", config=config)
    )


def test_a_month_the_clock_has_not_reached_fails(pipeline) -> None:
    assert pipeline.run("ingest", "bars", partition="1999-04").success
    before, snapshot = pipeline.counts(), pipeline.warehouse.snapshot()
    message = pipeline.failure(pipeline.run("ingest", "bars", partition="1999-05"))
    assert "no bar of SP500, NASDAQ from the bundled source in 1999-05" in message
    assert "clock stands at 1999-04-30 20:00 UTC" in message and "let the replay reach them" in message
    assert (pipeline.counts(), pipeline.warehouse.snapshot()) == (before, snapshot)


def test_an_empty_month_fails_and_leaves_the_others_unwritten(pipeline, change_feed) -> None:
    change_feed(lambda frame: frame[frame["month"] != "1999-02"])
    message = pipeline.failure(pipeline.run("ingest", "bars", partitions=(FIRST, LAST)))
    assert "in 1999-02 (" in message and "choose months the source has" in message
    assert pipeline.counts() == {}


def test_an_unknown_symbol_fails(pipeline_at, tmp_path: Path) -> None:
    pipeline = pipeline_at(tmp_path / "home", replay_start=CLOCK, symbols=["SP500", "DAX"])
    message = pipeline.failure(pipeline.run("ingest", "bars", partition="1999-01"))
    assert "source 'bundled' has no symbol 'DAX'; it has: SP500, NASDAQ" in message
    assert pipeline.counts() == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no file ending in .* at '.*bars\.parquet': correct the path"),
        (b"no parquet at all", r"bars\.parquet"),
    ],
    ids=["missing", "unreadable"],
)
def test_a_file_that_cannot_be_read_fails(pipeline_at, tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "bars.parquet"
    if content is not None:
        file.write_bytes(content)
    pipeline = pipeline_at(
        tmp_path / "home", replay_start=CLOCK, source="files", symbols=["SP500"], options={"bars": {"path": str(file)}}
    )
    failure = pipeline.failure(pipeline.run("ingest", "bars", partition="1999-01"))
    assert "SourceUnavailableError" in failure
    with pytest.raises(dg.Failure, match=message):
        raise dg.Failure(failure)
    assert pipeline.counts() == {}


def test_a_missing_package_of_bundled_bars_fails(pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled._bars.cache_clear()
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    assert "'arch', which is missing: install it" in pipeline.failure(
        pipeline.run("ingest", "bars", partition="1999-01")
    )


def test_a_source_that_is_not_configured_fails_at_once(pipeline_at, tmp_path: Path) -> None:
    pipeline = pipeline_at(tmp_path / "home", replay_start=CLOCK, source="files")
    assert "at least one FileSet" in pipeline.failure(pipeline.run("ingest", "bars", partition="1999-01"))


def spoil(frame: pd.DataFrame) -> pd.DataFrame:
    """Seven rows of March 1999 that no market has."""
    frame = frame.copy()
    frame.loc[at(frame, "SP500", "1999-03-03"), ["open", "high", "low", "close"]] *= 100.0
    frame.loc[at(frame, "SP500", "1999-03-05"), "high"] = 1.0
    frame.loc[at(frame, "NASDAQ", "1999-03-08"), "close"] = -5.0
    frame.loc[at(frame, "NASDAQ", "1999-03-09"), "close"] = np.nan
    copied = frame[at(frame, "SP500", "1999-03-10")]
    contradicted = frame[at(frame, "SP500", "1999-03-11")]
    return pd.concat([frame, copied, contradicted.assign(volume=1.0)], ignore_index=True)


def test_bad_rows_wait_in_quarantine_with_their_reason_and_block(pipeline, change_feed) -> None:
    change_feed(spoil)
    result = pipeline.run("ingest", "bars", "features", partition="1999-03", checks=True)
    refused = pipeline.warehouse.read(QUARANTINED_BARS)
    reasons = {(row.symbol, f"{row.session:%m-%d}", row.ordinal): row.reason for row in refused.itertuples(index=False)}
    assert reasons == {
        ("SP500", "03-03", 0): "price is off the last accepted close by more than a factor of 5",
        ("SP500", "03-05", 0): reasons["SP500", "03-05", 0],
        ("NASDAQ", "03-08", 0): reasons["NASDAQ", "03-08", 0],
        ("NASDAQ", "03-09", 0): "a price is missing",
        ("SP500", "03-10", 0): "repeats an identical row",
        ("SP500", "03-11", 0): "contradicts another row of the same key",
        ("SP500", "03-11", 1): "contradicts another row of the same key",
    }
    assert "high is below open, low or close" in reasons["SP500", "03-05", 0]
    assert "a price is not positive" in reasons["NASDAQ", "03-08", 0]
    # Nothing is lost: what came in is kept or set aside.
    assert len(pipeline.warehouse.read(BARS)) + len(refused) == 2 * 23 + 2

    checks = pipeline.checks(result)
    assert not result.success
    assert not checks["bars_quarantined_share"] and not checks["bars_quarantine"] and not checks["bars_sessions"]
    assert checks["bars_schema"]
    assert "features" not in pipeline.counts(), "features of a month that is mostly refused were computed"
    share = bar_checks.bars_quarantined_share(warehouse=pipeline.warehouse)
    assert "1999-03 with 14.6%" in share.description and "mend the source" in share.description

    # The source is mended: the same month ingested again is whole, and green.
    change_feed(lambda frame: frame)
    result = pipeline.run("ingest", "bars", "features", partition="1999-03", checks=True)
    assert result.success and pipeline.checks(result)["bars_quarantine"]
    assert pipeline.warehouse.read(QUARANTINED_BARS).empty


def test_a_bad_month_stays_red_after_a_good_one(pipeline, change_feed) -> None:
    change_feed(spoil)
    pipeline.run("ingest", "bars", partition="1999-03")
    change_feed(lambda frame: frame)
    result = pipeline.run("ingest", "bars", partition="1999-04", checks=True)
    assert not pipeline.checks(result)["bars_quarantined_share"]


def test_a_single_bad_row_among_many_only_warns(pipeline_at, tmp_path: Path, change_feed) -> None:
    change_feed(lambda frame: frame.assign(close=frame["close"].where(~at(frame, "S3", "1999-03-09"))))
    pipeline = pipeline_at(tmp_path / "home", replay_start=CLOCK, symbols=[f"S{number}" for number in range(6)])
    result = pipeline.run("ingest", "bars", "features", partition="1999-03", checks=True)
    assert result.success, "one row of 138 stopped the pipeline"
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["bars_quarantined_share"].passed
    assert not checks["bars_quarantine"].passed
    assert checks["bars_quarantine"].severity == dg.AssetCheckSeverity.WARN
    assert pipeline.counts()["features"] == 6 * 23 - 1


def test_a_symbol_without_any_bar_is_missed(pipeline, change_feed) -> None:
    change_feed(lambda frame: frame[frame["symbol"] == "SP500"])
    assert pipeline.run("ingest", "bars", partition="1999-01").success
    check = bar_checks.bars_sessions(warehouse=pipeline.warehouse, market=pipeline.market)
    assert not check.passed and "| NASDAQ | 19 | 19 | 1999-01-04 |" in check.metadata["missing"].value


def test_restated_values_are_kept_as_revisions(pipeline, change_feed) -> None:
    assert pipeline.run("ingest", "bars", partitions=(FIRST, LAST)).success
    snapshot = pipeline.warehouse.snapshot()
    version = pipeline.warehouse.data_version(BARS, "1999-02")
    original = pipeline.warehouse.read(BARS)
    close = float(original.loc[at(original, "SP500", "1999-02-10"), "close"].iloc[0])

    def restated(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame["close"].where(~at(frame, "SP500", "1999-02-10"), close - 0.5)
        return frame.assign(close=changed)[~at(frame, "NASDAQ", "1999-02-11")]

    change_feed(restated)
    for _ in range(2):  # the second reading finds nothing that is not known
        assert pipeline.run("ingest", "bars", partition="1999-02").success
    revisions = pipeline.warehouse.read(BAR_REVISIONS)
    own = revisions[revisions["symbol"] == "SP500"]
    assert own[["column", "old", "new"]].to_numpy().tolist() == [["close", close, close - 0.5]]
    assert (own["seen_at"] == pd.Timestamp(CLOCK)).all()
    withdrawn = revisions[revisions["symbol"] == "NASDAQ"]
    assert sorted(withdrawn["column"]) == ["close", "high", "low", "open", "volume"] and withdrawn["new"].isna().all()

    check = bar_checks.bars_revisions(warehouse=pipeline.warehouse)
    assert not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    assert "6 values were restated" in check.description and "SP500" in check.metadata["latest"].value
    assert pipeline.warehouse.data_version(BARS, "1999-02") != version
    pd.testing.assert_frame_equal(pipeline.warehouse.read(BARS, snapshot=snapshot), original)


def test_stale_opens_fail_only_where_orders_fill_at_the_open(
    market_home: Path, pipeline_at, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    warehouse = pipeline_at(market_home).warehouse
    check = bar_checks.bars_stale_opens(warehouse=warehouse)
    assert check.passed and "stale opens: SP500 92%, NASDAQ 2%" in check.description
    (tmp_path / "open.yaml").write_text("fill: open\n")
    monkeypatch.setattr(bar_checks, "DEFAULT_EXPERIMENT", str(tmp_path / "open.yaml"))
    assert not bar_checks.bars_stale_opens(warehouse=warehouse).passed


def test_the_checks_of_a_table_without_rows_are_no_pass(pipeline) -> None:
    with pytest.raises(dg.Failure, match="table bars has no rows: materialize its asset first"):
        bar_checks.bars_schema(warehouse=pipeline.warehouse)


def test_duplicates_behind_the_pipelines_back_fail_the_schema(pipeline, execute_sql) -> None:
    assert pipeline.run("ingest", "bars", partition="1999-01").success
    execute_sql(pipeline, "INSERT INTO {lake}.bars SELECT * FROM {lake}.bars WHERE session = DATE '1999-01-05'")
    check = bar_checks.bars_schema(warehouse=pipeline.warehouse)
    assert not check.passed and "2 keys occur twice" in check.description


def test_an_index_has_no_quotes(pipeline) -> None:
    result = pipeline.run("__ASSET_JOB", "quotes", partition="1999-01")
    assert "source 'bundled' offers no quotes" in pipeline.failure(result)


def test_a_vendor_that_is_down_is_asked_again(pipeline_at, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas_pipeline.market.errors import SourceUnavailableError

    class Vendor(bundled.BundledSource):
        live = True

        def bars(self, symbols, start, end):
            raise SourceUnavailableError("the vendor refuses: wait a minute")

    monkeypatch.setattr(Market, "feed", property(lambda market: Vendor()))
    pipeline = pipeline_at(tmp_path / "home", replay_start=CLOCK)
    context = dg.build_asset_context(partition_key="1999-01")
    with pytest.raises(SourceUnavailableError):  # no Failure: the retry policy applies
        list(stage.bars(context, stage.Ingestion(), market=pipeline.market, warehouse=pipeline.warehouse))

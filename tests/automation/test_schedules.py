"""Schedules: they go by the project's clock, request what is due once, and what they request does its work."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from atlas_pipeline.adaptation.ledger import EQUITY, EXPERIENCE, LEDGER_TABLES
from atlas_pipeline.automation import schedules
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.bars import BARS
from atlas_pipeline.market.errors import SourceUnavailableError
from resources.market import Market

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """A schedule opens its instance by reference, so it must be one on disk."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


def evaluate(schedule: dg.ScheduleDefinition, pipeline) -> Any:
    with dg.build_schedule_context(instance=pipeline.instance, resources={"market": pipeline.market}) as context:
        return schedule(context)


def tick(pipeline) -> dg.RunRequest:
    request = evaluate(schedules.paper_trading_tick, pipeline)
    assert isinstance(request, dg.RunRequest), request.skip_message
    return request


def carry_out(pipeline, job: str, request: dg.RunRequest, **options: bool) -> dg.ExecuteInProcessResult:
    config = {name: own["config"] for name, own in request.run_config.get("ops", {}).items()}
    return pipeline.run(job, partition=request.partition_key, config=config, tags=dict(request.tags), **options)


def last(pipeline, table) -> datetime:
    return pipeline.warehouse.read(table, columns=["available_at"])["available_at"].max().to_pydatetime()


def test_the_month_to_ingest_is_the_clocks(pipeline_at, market_copy) -> None:
    assert evaluate(schedules.ingest_after_close, market_copy).partition_key == "2007-12"
    market_copy.market.advance(datetime(2008, 1, 3, 21, tzinfo=UTC))
    request = evaluate(schedules.ingest_after_close, market_copy)
    assert request.partition_key == "2008-01", "December is whole"
    assert carry_out(market_copy, "ingest", request).success
    assert market_copy.warehouse.partitions(FEATURES)["2008-01"] == 2 * 2
    assert evaluate(schedules.ingest_after_close, market_copy).partition_key == "2008-01"

    # A pause of three months is made up for in one run.
    market_copy.market.advance(datetime(2008, 4, 2, 20, tzinfo=UTC))
    request = evaluate(schedules.ingest_after_close, market_copy)
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("2008-01", "2008-04")
    assert carry_out(market_copy, "ingest", request).success
    stored = market_copy.warehouse.partitions(FEATURES)
    assert [stored[month] for month in ("2008-01", "2008-02", "2008-03", "2008-04")] == [2 * 21, 2 * 20, 2 * 20, 2 * 2]

    beyond = pipeline_at(market_copy.home, replay_start="2019-02-01T21:00:00+00:00")
    assert "2019-02, outside the market's months" in evaluate(schedules.ingest_after_close, beyond).skip_message


def test_a_tick_moves_the_clock_and_trades(traded_copy) -> None:
    request = tick(traded_copy)
    target = datetime(2008, 1, 8, 21, tzinfo=UTC)
    assert request.partition_key == "2008-01" and request.run_key is None
    assert request.run_config["ops"]["bars"]["config"] == {"advance_clock_to": target.isoformat()}
    assert tick(traded_copy).run_config == request.run_config, "asking moved the clock"

    result = carry_out(traded_copy, "trade_on_paper", request, checks=True)
    assert result.success, traded_copy.failure(result)
    assert traded_copy.market.now() == target
    assert last(traded_copy, BARS) == last(traded_copy, FEATURES) == target
    assert traded_copy.warehouse.read(EQUITY)["bar"].max() == target
    assert traded_copy.warehouse.read(EXPERIENCE)["env_step"].max() == 500 + 2 * 5

    # The same request again, as a retried run would: nothing moves and nothing is traded twice.
    counts = traded_copy.counts()
    assert carry_out(traded_copy, "trade_on_paper", request).success
    assert (traded_copy.market.now(), traded_copy.counts()) == (target, counts)
    assert all(traded_copy.warehouse.duplicates(table).empty for table in LEDGER_TABLES)
    assert tick(traded_copy).run_config["ops"]["bars"]["config"] == {"advance_clock_to": "2008-01-15T21:00:00+00:00"}


def test_a_tick_waits_for_the_one_before(market_copy) -> None:
    run = dg.DagsterRun(job_name="trade_on_paper", run_id="a" * 8, status=dg.DagsterRunStatus.STARTED)
    market_copy.instance.add_run(run)
    assert "run aaaaaaaa still trades the last tick" in evaluate(schedules.paper_trading_tick, market_copy).skip_message
    market_copy.instance.report_run_failed(run)
    assert tick(market_copy).partition_key == "2008-01"


def test_a_tick_that_failed_after_it_had_moved_the_clock_is_requested_again(
    market_copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next tick would be in another month, and the old one would keep a hole that stops the ledger."""
    market_copy.market.advance(datetime(2008, 1, 28, 21, tzinfo=UTC))
    assert market_copy.run("ingest", partition="2008-01").success
    request = tick(market_copy)
    assert request.tags["atlas/clock"] == "2008-01-31T21:00:00+00:00", "a tick stays within its month"

    def refuse(*arguments: object) -> None:
        raise SourceUnavailableError("the disk is gone: bring it back")

    with monkeypatch.context() as patch:
        patch.setattr(Market, "fetch", refuse)
        assert "the disk is gone" in market_copy.failure(carry_out(market_copy, "trade_on_paper", request))
    assert market_copy.market.now() == datetime(2008, 1, 31, 21, tzinfo=UTC)
    again = tick(market_copy)
    assert (again.partition_key, again.run_config) == ("2008-01", request.run_config)
    carry_out(market_copy, "ingest", dg.RunRequest(partition_key="2008-01"))
    assert last(market_copy, FEATURES) == datetime(2008, 1, 31, 21, tzinfo=UTC)
    assert tick(market_copy).partition_key == "2008-02"


def test_the_replay_ends_with_its_source(pipeline_at, tmp_path) -> None:
    pipeline = pipeline_at(tmp_path / "home", replay_start="2018-12-28T21:00:00+00:00")
    assert tick(pipeline).tags["atlas/clock"] == "2018-12-31T21:00:00+00:00"
    pipeline = pipeline_at(tmp_path / "home", replay_start="2018-12-31T21:00:00+00:00")
    message = evaluate(schedules.paper_trading_tick, pipeline).skip_message
    assert message == "the bundled source has no bar after 2018-12-31 21:00 UTC"


def test_a_tick_outside_the_markets_months_is_skipped(pipeline_at, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dg.MonthlyPartitionsDefinition(start_date="1999-01", end_date="2008-01", fmt="%Y-%m")
    monkeypatch.setattr(schedules, "MONTHS", short)
    message = evaluate(schedules.paper_trading_tick, pipeline_at(tmp_path / "home")).skip_message
    assert message == "the next tick is in 2008-01, outside the market's months"


def test_a_live_market_is_not_told_the_time(pipeline_at, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Market, "now", lambda market: datetime(2018, 3, 9, 22, 30, tzinfo=UTC))
    request = tick(pipeline_at(tmp_path / "home", replay_start=None))
    assert request.partition_key == "2018-03" and not request.run_config.get("ops")


def test_quotes_are_polled_from_a_live_source_while_it_trades(pipeline_at, tmp_path, monkeypatch) -> None:
    recorded = pipeline_at(tmp_path / "home")
    assert "the bundled source is not live" in evaluate(schedules.poll_quotes, recorded).skip_message
    live = pipeline_at(tmp_path / "home", source="yahoo", symbols=["SPY"], replay_start=None)
    for now, partition in (
        (datetime(2018, 3, 9, 20, tzinfo=UTC), "2018-03"),
        (datetime(2018, 3, 9, 22, tzinfo=UTC), None),
        (datetime(2018, 3, 10, 20, tzinfo=UTC), None),
    ):
        monkeypatch.setattr(Market, "now", lambda market, now=now: now)
        answer = evaluate(schedules.poll_quotes, live)
        if partition is None:
            assert "XNYS is closed" in answer.skip_message
        else:
            assert answer.partition_key == partition

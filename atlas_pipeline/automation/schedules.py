"""Schedules: they ask the project's clock, never the wall clock, which month it is."""

from typing import Any

import dagster as dg

from assets.partitions import MARKET, MONTHS
from atlas_pipeline.automation.jobs import UNFINISHED, ingest, maintain_lake, poll_snapshots, trade_on_paper
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.bars import BAR_COVERAGE
from atlas_pipeline.market.intervals import parse_interval
from resources.market import Market

AFTER_THE_CLOSE = "30 17 * * 1-5"
EVERY_MINUTE = "* * * * *"
WHILE_TRADING = "*/15 9-16 * * 1-5"
INTRADAY = parse_interval(MARKET.interval).intraday
NEW_YORK = "America/New_York"


def _since_the_last_whole_month(market: Market, month: str) -> dict[str, Any]:
    """Partition of a request for a month, or its range where months since the first one stored are not whole."""
    first = min(market.warehouse.partitions(BAR_COVERAGE), default=month)
    known = [key for key in MONTHS.get_partition_keys() if first <= key <= month]
    begin = min([*market.unfinished_months(known), month])
    if begin == month:
        return {"partition_key": month}
    return {"tags": {"dagster/asset_partition_range_start": begin, "dagster/asset_partition_range_end": month}}


@dg.schedule(
    job=ingest,
    cron_schedule=WHILE_TRADING if INTRADAY else AFTER_THE_CLOSE,
    execution_timezone=NEW_YORK,
    description="After the close (intraday bars: every quarter of an hour): ingest the current month by the project's "
    "clock, and the months before it that are not whole, and refresh their features.",
)
def ingest_after_close(context: dg.ScheduleEvaluationContext, market: Market) -> dg.RunRequest | dg.SkipReason:
    """Request the month that the project's clock stands in, and those that a pause of the schedule left out."""
    month = market.now().strftime("%Y-%m")
    if not MONTHS.has_partition_key(month):
        return dg.SkipReason(f"the clock stands in {month}, outside the market's months")
    return dg.RunRequest(**_since_the_last_whole_month(market, month))


@dg.schedule(
    job=poll_snapshots,
    cron_schedule=WHILE_TRADING,
    execution_timezone=NEW_YORK,
    description="Every quarter of an hour while New York trades: store the quotes and option chains of a live source, "
    "which keeps no history of them.",
)
def poll_quotes(context: dg.ScheduleEvaluationContext, market: Market) -> dg.RunRequest | dg.SkipReason:
    """Request the current month of quotes and chains while the exchange is open."""
    now = market.now()
    if not market.feed.live:
        return dg.SkipReason(f"the {market.source} source is not live: materialize the months of quotes it has")
    today = market.sessions(now, now)
    if today.empty or not (today["opens_at"].iloc[0] <= now <= today["available_at"].iloc[0]):
        return dg.SkipReason(f"{market.calendar} is closed at {now:%Y-%m-%d %H:%M} UTC")
    return dg.RunRequest(partition_key=now.strftime("%Y-%m"))


@dg.schedule(
    job=trade_on_paper,
    cron_schedule=EVERY_MINUTE if MARKET.replay_start else WHILE_TRADING if INTRADAY else AFTER_THE_CLOSE,
    execution_timezone=NEW_YORK,
    description="Move the replay clock by one tick (a live market moves by itself), ingest, and trade on paper.",
)
def paper_trading_tick(context: dg.ScheduleEvaluationContext, market: Market) -> dg.RunRequest | dg.SkipReason:
    """Request the tick that is due, unless the last one is still at work.

    The request names the instant the clock is to reach rather than a number of bars, so that a retried run does not
    move it twice; no run key, so that a failed tick is requested again, also where it had moved the clock already.
    """
    running = context.instance.get_runs(dg.RunsFilter(job_name=trade_on_paper.name, statuses=UNFINISHED), limit=1)
    if running:
        return dg.SkipReason(f"run {running[0].run_id} still trades the last tick")
    known = market.warehouse.read(FEATURES, columns=["available_at"])["available_at"]
    target = market.next_tick(known.max().to_pydatetime() if len(known) else None)
    if target is None:
        return dg.SkipReason(f"the {market.source} source has no bar after {market.now():%Y-%m-%d %H:%M} UTC")
    month = target.strftime("%Y-%m")
    if not MONTHS.has_partition_key(month):
        return dg.SkipReason(f"the next tick is in {month}, outside the market's months")
    clock = {"atlas/clock": target.isoformat()}
    if market.replay_start is None:
        asked = _since_the_last_whole_month(market, month)
        return dg.RunRequest(**{**asked, "tags": {**asked.get("tags", {}), **clock}})
    moved = {"bars": {"config": {"advance_clock_to": target.isoformat()}}}
    return dg.RunRequest(partition_key=month, run_config=dg.RunConfig(ops=moved), tags=clock)


lake_maintenance = dg.ScheduleDefinition(
    name="lake_maintenance",
    job=maintain_lake,
    cron_schedule="0 4 * * 0",
    execution_timezone=NEW_YORK,
    description="Sundays: compact the lake and expire snapshots that nothing names.",
)

SCHEDULES = [ingest_after_close, poll_quotes, paper_trading_tick, lake_maintenance]

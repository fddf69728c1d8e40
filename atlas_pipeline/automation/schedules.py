"""Schedules: they ask the project's clock, never the wall clock, which month it is."""

import dagster as dg

from assets.partitions import MARKET, MONTHS
from atlas_pipeline.automation.jobs import UNFINISHED, ingest, maintain_lake, trade_on_paper
from atlas_pipeline.features.registry import FEATURES
from resources.market import Market

AFTER_THE_CLOSE = "30 17 * * 1-5"
EVERY_MINUTE = "* * * * *"
NEW_YORK = "America/New_York"


@dg.schedule(
    job=ingest,
    cron_schedule=AFTER_THE_CLOSE,
    execution_timezone=NEW_YORK,
    description="After the close: ingest the current month by the project's clock and refresh its features.",
)
def ingest_after_close(context: dg.ScheduleEvaluationContext, market: Market) -> dg.RunRequest | dg.SkipReason:
    """Request the month that the project's clock stands in."""
    month = market.now().strftime("%Y-%m")
    if not MONTHS.has_partition_key(month):
        return dg.SkipReason(f"the clock stands in {month}, outside the market's months")
    return dg.RunRequest(partition_key=month)


@dg.schedule(
    job=trade_on_paper,
    cron_schedule=EVERY_MINUTE if MARKET.replay_start else AFTER_THE_CLOSE,
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
    moved = {"bars": {"config": {"advance_clock_to": target.isoformat()}}} if market.replay_start else {}
    return dg.RunRequest(
        partition_key=month, run_config=dg.RunConfig(ops=moved), tags={"atlas/clock": target.isoformat()}
    )


lake_maintenance = dg.ScheduleDefinition(
    name="lake_maintenance",
    job=maintain_lake,
    cron_schedule="0 4 * * 0",
    execution_timezone=NEW_YORK,
    description="Sundays: compact the lake and expire snapshots that nothing names.",
)

SCHEDULES = [ingest_after_close, paper_trading_tick, lake_maintenance]

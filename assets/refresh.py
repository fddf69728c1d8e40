"""When what is stored is too old: the deadlines of a live market, and what is made again by itself."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from assets.partitions import MARKET
from atlas_pipeline.market.intervals import parse_interval

NEW_YORK = "America/New_York"

NOT_IN_EVERY_MARKET = dg.AssetSelection.assets("option_features", "microstructure_features")

_FAILED = dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)

REFRESHED = (
    dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
    & dg.AutomationCondition.all_deps_blocking_checks_passed().ignore(NOT_IN_EVERY_MARKET)
    & ~dg.AutomationCondition.any_deps_match(_FAILED).allow(NOT_IN_EVERY_MARKET)
)
"""Eager alone would run after a failed blocking check of another run, and, since the months to come are missing, never
in a year that is not over. Checks of what a market has not have never run: it is enough that they did not fail."""


def market_freshness() -> dg.FreshnessPolicy | None:
    """Daily bars are due an hour and a half after the close, intraday ones by the hour; a replay has no deadline."""
    if MARKET.replay_start is not None:
        return None
    hours = "30 10-16" if parse_interval(MARKET.interval).intraday else "30 18"
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"{hours} * * 1-5", lower_bound_delta=timedelta(hours=1), timezone=NEW_YORK
    )

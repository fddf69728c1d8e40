"""What is judged about the bars after every ingestion: always the whole table, through what is counted of it."""

import dagster as dg
import pandas as pd

from assets.experiment import DEFAULT_EXPERIMENT
from assets.market import bars, resampled_bars, with_change
from assets.metadata import frame
from assets.schema_check import require_rows, schema_result
from atlas_pipeline.config import load_config
from atlas_pipeline.market.bars import (
    BAR_COVERAGE,
    BAR_REVISIONS,
    BAR_TRIPWIRES,
    BARS,
    QUARANTINED_BARS,
)
from atlas_pipeline.market.resampling import RESAMPLED_BARS
from resources.market import Market
from resources.warehouse import Warehouse

QUARANTINED_SHARE_LIMIT = 0.01
STALE_OPEN_LIMIT = 0.05


def counted(warehouse: Warehouse) -> pd.DataFrame:
    """Return what is counted of the bars, by symbol and month.

    Raises
    ------
    dagster.Failure
        Where there are none: a check of nothing would be green.
    """
    coverage = warehouse.read(BAR_COVERAGE)
    if coverage.empty:
        raise dg.Failure("table bars has no rows: materialize its asset first", allow_retries=False)
    return coverage


@dg.asset_check(asset=bars, blocking=True)
def bars_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored bar has its types, its bounds and a key of its own."""
    require_rows(warehouse, BARS)
    return schema_result(BARS, warehouse)


@dg.asset_check(asset=bars, blocking=True)
def bars_universe(warehouse: Warehouse, market: Market) -> dg.AssetCheckResult:
    """Every stored symbol is one of the universe.

    What is built on the bars takes all of them. A symbol that is traded no longer keeps its entry, with the day it was
    delisted; a universe without it would be one of survivors.
    """
    known = market.universe.symbols
    strangers = sorted(set(counted(warehouse)["symbol"]) - set(known))
    return dg.AssetCheckResult(
        passed=not strangers,
        description=None
        if not strangers
        else f"stored, but not in the universe: {', '.join(strangers[:20])}. Give each an entry with the day it was "
        "delisted, or keep another market in another ATLAS_HOME",
        metadata={"symbols": len(known), "strangers": len(strangers)},
    )


@dg.asset_check(asset=bars, blocking=True)
def bars_quarantined_share(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No month has more than 1% of its rows in quarantine."""
    rows = counted(warehouse).groupby("month")[["bars", "quarantined"]].sum()
    shares = rows["quarantined"] / rows.sum(axis=1)
    worst = shares[shares > QUARANTINED_SHARE_LIMIT].sort_values(ascending=False)
    return dg.AssetCheckResult(
        passed=worst.empty,
        description=None
        if worst.empty
        else f"{len(worst)} months exceed {QUARANTINED_SHARE_LIMIT:.0%}, {worst.index[0]} with {worst.iloc[0]:.1%}: "
        "see quarantined_bars for the reasons, mend the source and ingest the months again",
        metadata={"months over the limit": frame(worst.rename("share").reset_index().head(20))},
    )


@dg.asset_check(asset=bars)
def bars_quarantine(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No row is in quarantine."""
    refused = warehouse.read(QUARANTINED_BARS)
    reasons = refused["reason"].value_counts().rename_axis("reason").reset_index(name="rows")
    return dg.AssetCheckResult(
        passed=refused.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if refused.empty else f"{len(refused)} rows wait in quarantined_bars with their reasons",
        metadata={
            "rows": len(refused),
            "reasons": frame(reasons.head(20)),
            "latest": frame(
                refused.sort_values("available_at", kind="stable").tail(10)[
                    ["symbol", "session", "open", "high", "low", "close", "reason"]
                ]
            ),
        },
    )


@dg.asset_check(asset=bars)
def bars_sessions(warehouse: Warehouse, market: Market) -> dg.AssetCheckResult:
    """Every session that a symbol was listed in, half days too, has its bars, from the first month to the clock."""
    coverage = counted(warehouse)
    months = pd.period_range(coverage["month"].min(), f"{market.now():%Y-%m}", freq="M")
    unfinished = market.unfinished_months([str(month) for month in months])
    lacking = coverage.assign(lacking=(coverage["expected"] - coverage["bars"]).clip(lower=0)).query("lacking > 0")
    holes = lacking.groupby("symbol").agg(
        {"missing_sessions": "sum", "lacking": "sum", "first_missing": "min", "month": ["min", "max", "nunique"]}
    )
    holes.columns = ["sessions missing", "bars missing", "first", "from", "to", "months"]
    holes = holes.sort_values(["bars missing", "from"], ascending=[False, True]).reset_index()
    return dg.AssetCheckResult(
        passed=holes.empty and not unfinished,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(
            [f"{len(holes)} symbols lack {int(holes['bars missing'].sum())} bars of {int(coverage['expected'].sum())}"]
            * (not holes.empty)
            + [f"{len(unfinished)} months were not ingested since they were over: {', '.join(unfinished[:12])}"]
            * bool(unfinished)
        ),
        metadata={
            "bars expected": int(coverage["expected"].sum()),
            "missing": frame(holes.head(20)),
            "months not whole": ", ".join(unfinished),
        },
    )


@dg.asset_check(asset=bars)
def bars_tripwires(warehouse: Warehouse) -> dg.AssetCheckResult:
    """No bar trips a wire: a jump that nothing explains, a stale repeat, a run without volume, a hole.

    Such a bar may be right, so it is let in; a model should not meet it unseen. Stale opens have a check of their own.
    """
    found = warehouse.read(BAR_TRIPWIRES).query("kind != 'stale_open'")
    kinds = found["kind"].value_counts().rename_axis("kind").reset_index(name="bars")
    latest = found.sort_values("available_at", kind="stable").tail(15)
    return dg.AssetCheckResult(
        passed=found.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=None
        if found.empty
        else "; ".join(f"{row.kind}: {row.bars}" for row in kinds.itertuples(index=False)),
        metadata={"kinds": frame(kinds), "latest": frame(latest[["symbol", "session", "kind", "value", "message"]])},
    )


@dg.asset_check(asset=bars)
def bars_stale_opens(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Opens are traded prices wherever orders are filled at them.

    An open within one basis point of the previous close is the previous close printed again; orders must not be
    filled at it. With fills at the close the shares are only reported.
    """
    coverage = counted(warehouse)
    coverage["year"] = coverage["month"].str[:4]
    totals = coverage.groupby("symbol")[["stale_opens", "opens_judged"]].sum()
    totals["share"] = totals["stale_opens"] / totals["opens_judged"].where(totals["opens_judged"] > 0)
    worst = totals.sort_values("share", ascending=False)
    years = coverage.groupby("year")[["stale_opens", "opens_judged"]].sum()
    years["share"] = years["stale_opens"] / years["opens_judged"].where(years["opens_judged"] > 0)
    fill = load_config(DEFAULT_EXPERIMENT).fill
    return dg.AssetCheckResult(
        passed=fill != "open" or not bool((totals["share"] > STALE_OPEN_LIMIT).any()),
        description=f"orders are filled at the {fill}; stale opens: "
        + ", ".join(f"{symbol} {share:.0%}" for symbol, share in worst["share"].head(5).items()),
        metadata={"by symbol": frame(worst.head(20).reset_index()), "by year": frame(years.reset_index())},
    )


@dg.asset_check(asset=bars)
def bars_revisions(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The vendor has not restated bars or corporate actions that were stored before."""
    revisions = warehouse.read(BAR_REVISIONS)
    months = ", ".join(sorted(revisions["month"].unique())[-5:])
    return dg.AssetCheckResult(
        passed=revisions.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=None
        if revisions.empty
        else f"{len(revisions)} values were restated, the last in {months}; what a model saw is still at the "
        "snapshot it names",
        metadata={"latest": frame(with_change(revisions.sort_values("seen_at", kind="stable").tail(20)))},
    )


@dg.asset_check(asset=resampled_bars, blocking=True)
def resampled_bars_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored bar has its types, its bounds and a key of its own."""
    return schema_result(RESAMPLED_BARS, warehouse)

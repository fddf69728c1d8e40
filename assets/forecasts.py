"""Density forecasts of a fold's year, out of sample, beside the volatility models', and what they are worth."""

import dagster as dg
import pandas as pd

from assets.experiment import Experiment
from assets.features import panel
from assets.forecaster import forecaster
from assets.loading import CODE_VERSION, load_forecaster, open_panels
from assets.metadata import OWNERS, frame, permanent, picture, shares, table_metadata
from assets.partitions import FOLDS, YEARS_UP_TO_THE_FOLD
from assets.schema_check import require_rows, schema_result, stored
from atlas_pipeline.config import DENSITY_HEADS
from atlas_pipeline.training.forecast_table import BASELINE, FORECASTER, FORECASTS, score_table
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.tracking import Tracking
from resources.warehouse import Warehouse

SIGNIFICANCE = 0.05
"""Of the test against the GARCH family, two-sided."""


@dg.asset(
    group_name="forecaster",
    deps=[forecaster, dg.AssetDep(panel, partition_mapping=YEARS_UP_TO_THE_FOLD)],
    partitions_def=FOLDS,
    pool="lake",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    code_version=CODE_VERSION,
    metadata=table_metadata(FORECASTS),
)
def forecasts(
    context: dg.AssetExecutionContext,
    config: Experiment,
    artifacts: Artifacts,
    compute: Compute,
    tracking: Tracking,
    warehouse: Warehouse,
) -> dg.MaterializeResult:
    """Out-of-sample densities of the fold's year, beside a constant Gaussian, RiskMetrics and the GARCH family.

    The volatility models are estimated on everything before the year; the forecaster only on what precedes its
    policy years.
    """
    import numpy as np

    from atlas_pipeline.market.instants import microseconds
    from atlas_pipeline.training.density import pit
    from atlas_pipeline.training.forecast import forecast
    from atlas_pipeline.training.forecast_table import forecast_rows, stored_densities
    from atlas_pipeline.training.garch_contest import contest_table, interval_table, loss_differences
    from atlas_pipeline.training.plots import cumulative_gain, fan_chart, pit_histogram, reliability
    from atlas_pipeline.training.scaled_level import level_table
    from atlas_pipeline.training.volatility_models import volatility_forecasts
    from atlas_pipeline.windows.folds import Fold
    from atlas_pipeline.windows.index import label_instants, labels

    learned = config.load()
    if learned.head not in DENSITY_HEADS:
        raise dg.Failure(
            f"head={learned.head!r} says no density: materialize predictions, or choose one of "
            f"{', '.join(DENSITY_HEADS)}",
            allow_retries=False,
        )
    fold = Fold(int(context.partition_key), learned)
    known = open_panels(artifacts, learned, fold.end)
    trained = load_forecaster(artifacts, learned, fold)
    ends = fold.window_ends(known, fold.start, fold.end, learned.longest_horizon)
    if not len(ends):
        raise dg.Failure(
            f"fold {fold.year} has no bar whose return is known: ingest its year first", allow_retries=False
        )
    # The forecaster has seen nothing of the policy years: their outcomes are what its intervals are adjusted by,
    # those that are known when the first bar is forecast.
    nearest = learned.horizons[0]
    earlier = fold.window_ends(known, fold.fit_end, fold.start, nearest)
    earlier = earlier[label_instants(known, earlier, nearest) <= known.available_at[ends].min()]
    hardware = compute.inference()
    with permanent(ValueError):
        said = forecast(known, trained, ends, hardware)
        densities = {
            FORECASTER: said.density,
            # The volatility models have a closed-form density for the next bar only.
            **(volatility_forecasts(known, ends, fold.start) if nearest == 1 else {}),
        }
    outcome = labels(known, ends, nearest)
    rows = forecast_rows(context.partition_key, known, ends, outcome, densities, nearest)
    further = [
        forecast_rows(context.partition_key, known, ends, labels(known, ends, horizon), {FORECASTER: density}, horizon)
        for horizon, density in zip(learned.horizons[1:], said.densities[1:], strict=True)
    ]
    every = pd.concat([rows, *further], ignore_index=True)
    commit = warehouse.replace(FORECASTS, {context.partition_key: every})
    scores = score_table(every)
    with tracking.run(
        f"forecasts {context.partition_key}",
        experiment="forecaster",
        key=f"forecasts/{context.partition_key}/{trained.base_hash}",
        tags={"snapshot": str(commit.snapshot), "config": learned.digest(), "base_hash": trained.base_hash},
    ) as run:
        run.log_metrics(
            {
                f"test/{name}/{row.symbol}/{row.model}": float(getattr(row, name))
                for row in scores[scores["horizon"] == nearest].itertuples()
                for name in ("nll", "crps", "coverage_95")
            },
            step=0,
        )
    own = {str(model): part["pit"].to_numpy(float) for model, part in rows.groupby("model")}
    ordered = {name: own[name] for name in (FORECASTER, *sorted(own.keys() - {FORECASTER}))}
    title = f"{' and '.join(known.symbols)}, {context.partition_key}"
    by_symbol = {str(symbol): part for symbol, part in rows[rows["model"] == FORECASTER].groupby("symbol")}
    learned_earlier = pit(labels(known, earlier, nearest), forecast(known, trained, earlier, hardware).density)
    names = np.array(known.symbols)[known.symbol[earlier]]
    intervals = interval_table(
        {symbol: part["pit"].to_numpy(float) for symbol, part in by_symbol.items()},
        {symbol: learned_earlier[names == symbol] for symbol in by_symbol},
        nearest,
    )
    shown = {name: densities[name] for name in (FORECASTER, "constant_gaussian") if name in densities}
    gains = {
        f"{symbol} (against {part['opponent'].iloc[0]})": (
            part["available_at"].dt.tz_localize(None).to_numpy(),
            -part["difference"].to_numpy(float),
        )
        for symbol, part in loss_differences(rows).groupby("symbol")
    }
    return dg.MaterializeResult(
        metadata={
            "scores out of sample": frame(scores),
            "against the best GARCH model, every fold": frame(contest_table(warehouse.read(FORECASTS))),
            "intervals, raw and conformal": frame(intervals),
            "documents' targets, on the min-max level": frame(
                level_table(known, ends, outcome, shown, microseconds(fold.fit_end))
            ),
            "inputs outside the training range": shares(trained.scaler.outside_share(known.values[ends])),
            "PIT": picture(pit_histogram(ordered[FORECASTER], f"Forecaster's PIT, {title}"), "PIT"),
            "coverage": picture(reliability(ordered, f"Coverage, {title}"), "coverage"),
            **(
                {
                    "gain on the best GARCH model": picture(
                        cumulative_gain(gains, f"Likelihood gained, {context.partition_key}"), "gain"
                    )
                }
                if gains
                else {}
            ),
            **{
                f"fan chart, {symbol}": picture(
                    fan_chart(
                        part["available_at"].dt.tz_localize(None).to_numpy(),
                        part["outcome"].to_numpy(float),
                        stored_densities(part),
                        f"{symbol}, last bars of {context.partition_key}",
                    ),
                    f"fan chart of {symbol}",
                )
                for symbol, part in by_symbol.items()
            },
            "dagster/partition_row_count": len(every),
            "snapshot": commit.snapshot,
        },
        data_version=dg.DataVersion(commit.data_versions[FORECASTS.name][context.partition_key]),
    )


@dg.asset_check(asset=forecasts, blocking=True)
def forecasts_schema(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Every stored forecast has its types, its bounds and a key of its own."""
    require_rows(warehouse, FORECASTS)
    return schema_result(FORECASTS, warehouse)


@dg.asset_check(asset=forecasts)
def forecasts_beat_riskmetrics(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The quality floor: in every fold, on every symbol, a lower mean NLL than RiskMetrics."""
    rows = stored(warehouse, FORECASTS)
    rows = rows[rows["horizon"] == 1]
    means = rows.groupby(["fold", "symbol", "model"])["nll"].mean().unstack()
    means = means.reindex(columns=means.columns.union([BASELINE, FORECASTER])).dropna(subset=[BASELINE])
    worse = means[means[FORECASTER] >= means[BASELINE]]
    return dg.AssetCheckResult(
        passed=worse.empty,
        description=None
        if worse.empty
        else f"{len(worse)} of {len(means)} folds and symbols miss the floor: do not trade on this forecaster",
        metadata={"mean NLL (nats)": frame(means.reset_index())},
    )


@dg.asset_check(asset=forecasts)
def forecasts_beat_garch(warehouse: Warehouse) -> dg.AssetCheckResult:
    """Over all folds the daily NLL is below that of the best GARCH model, by Diebold and Mariano's test at 5%."""
    from atlas_pipeline.training.garch_contest import contest_table, pooled_contest

    rows = stored(warehouse, FORECASTS)
    test = pooled_contest(rows)
    if not test.n:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description="no GARCH model stands beside the forecaster: materialize forecasts of horizon 1",
        )
    return dg.AssetCheckResult(
        passed=bool(test.mean < 0 and test.p_value < SIGNIFICANCE),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{test.mean:+.4f} nats a day against the best GARCH model of each symbol, chosen with hindsight "
        f"(Diebold-Mariano {test.statistic:.2f}, p = {test.p_value:.3f}, {test.n} days)",
        metadata={"mean NLL (nats) and Diebold-Mariano": frame(contest_table(rows))},
    )


@dg.asset_check(asset=forecasts)
def forecasts_coverage(warehouse: Warehouse) -> dg.AssetCheckResult:
    """The 95% intervals hold 93 to 97% of the outcomes, the documents' target for calibration."""
    from atlas_pipeline.training.scaled_level import TARGET_COVERAGE

    rows = stored(warehouse, FORECASTS)
    own = rows[rows["model"] == FORECASTER]
    inside = (own["pit"].sub(0.5).abs() <= 0.475).groupby([own["fold"], own["symbol"]]).mean().rename("coverage_95")
    low, high = TARGET_COVERAGE
    return dg.AssetCheckResult(
        passed=bool(inside.between(low, high).all()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"share of outcomes inside the 95% interval": frame(inside.reset_index())},
    )

"""Option features of a simulated market: both tables in one transaction, versions, counts, and the check that fires."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.snapshot_features import option_features_schema
from atlas_pipeline.features.as_of import latest_as_of
from atlas_pipeline.features.options import (
    OPTION_FEATURES,
    OPTIONS_SET,
    UNDERLYING_OPTION_FEATURES,
)
from atlas_pipeline.market.option_chain import OPTION_CHAIN

MONTH = "2000-02"


@pytest.fixture
def simulated(pipeline_at, tmp_path: Path):
    return pipeline_at(
        tmp_path / "home",
        source="simulated",
        symbols=["SIM1", "SIM2"],
        replay_start=datetime(2000, 12, 29, 21, tzinfo=UTC).isoformat(),
        options={"seed": 0, "first": "2000-01-03", "last": "2000-12-29"},
    )


def test_both_tables_are_written_in_one_transaction(simulated) -> None:
    assert simulated.run("poll_snapshots", "option_chain", partition=MONTH).success
    result = simulated.run("poll_snapshots", "option_features", partition=MONTH, checks=True)
    assert result.success and simulated.checks(result) == {"option_features_schema": True}
    contracts, underlyings = (
        simulated.warehouse.read(table) for table in (OPTION_FEATURES, UNDERLYING_OPTION_FEATURES)
    )
    chain = simulated.warehouse.read(OPTION_CHAIN)
    assert len(contracts) == len(chain)
    assert len(underlyings) == len(chain.groupby(["underlying", "available_at"])) > 30
    (event,) = result.asset_materializations_for_node("option_features")
    shown = {name: found.value for name, found in event.metadata.items()}
    assert shown["snapshot"] == simulated.warehouse.snapshot()
    counts = contracts["volatility_source"].value_counts()
    assert shown["volatilities of the vendor"] == counts["vendor"] > 0.7 * len(chain)
    assert shown["contracts without volatility"] == counts["none"]
    assert sum(counts) == shown["dagster/partition_row_count"]
    assert shown["surface"].startswith("![level, slope and skew")
    # The source's smile is the same at all times in multiples of level and root time, and leans to puts.
    assert underlyings["atm_volatility"].between(0.03, 1.0).all()
    assert underlyings["put_call_skew"].between(0.06, 0.08).mean() > 0.8
    assert underlyings["put_call_skew"].std() < 0.005
    assert underlyings["put_volume_share"].between(0.05, 0.95).all()

    before = simulated.warehouse.snapshot()
    again = simulated.run("poll_snapshots", "option_features", partition=MONTH)
    (repeated,) = again.asset_materializations_for_node("option_features")
    assert repeated.tags["dagster/data_version"] == event.tags["dagster/data_version"]
    assert simulated.warehouse.snapshot() == before


def test_a_month_without_a_chain_is_refused(simulated) -> None:
    message = simulated.failure(simulated.run("poll_snapshots", "option_features", partition="2000-03"))
    assert "no rows of option_chain in 2000-03: materialize that month first" in message


@pytest.mark.parametrize(
    ("table", "column"), [(OPTION_FEATURES, "gamma"), (UNDERLYING_OPTION_FEATURES, "put_volume_share")]
)
def test_the_check_sees_a_broken_row_of_either_table(simulated, execute_sql, table, column) -> None:
    assert simulated.run("poll_snapshots", "option_chain", "option_features", partition=MONTH).success
    execute_sql(simulated, f"UPDATE {{lake}}.{table.name} SET {column} = -1.0 WHERE {column} IS NOT NULL")
    found = option_features_schema(warehouse=simulated.warehouse)
    assert not found.passed and f"{table.name}: " in found.description and column in found.description


def test_the_check_of_nothing_is_not_green(simulated) -> None:
    with pytest.raises(dg.Failure, match="table option_features has no rows"):
        option_features_schema(warehouse=simulated.warehouse)


def test_underlyings_join_bars_as_of_their_instants(simulated) -> None:
    assert simulated.run("poll_snapshots", "option_chain", "option_features", partition=MONTH).success
    underlyings = simulated.warehouse.read(UNDERLYING_OPTION_FEATURES)
    bars = simulated.market.feed.bars(
        ["SIM1", "SIM2"], datetime(2000, 1, 3, tzinfo=UTC), datetime(2000, 4, 1, tzinfo=UTC)
    )
    joined = latest_as_of(bars, underlyings, OPTIONS_SET, pd.Timedelta(days=4))
    inside = (bars["available_at"].dt.strftime("%Y-%m") == MONTH).to_numpy()
    np.testing.assert_array_equal(joined[inside], underlyings[list(OPTIONS_SET)])
    assert joined[(bars["available_at"] < underlyings["available_at"].min()).to_numpy()].isna().all(axis=None)

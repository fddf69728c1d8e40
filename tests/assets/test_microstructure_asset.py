"""Features of quotes as an asset: months that do not depend on the run, checks that bite, a page that shows them."""

from datetime import timedelta

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features import microstructure, quote_plots
from atlas_pipeline.features.microstructure import MICROSTRUCTURE_FEATURES, WINDOW, compute_microstructure
from atlas_pipeline.market.quotes import QUOTES

ASSET = "microstructure_features"
CAUSALITY, SCHEMA = f"{ASSET}_causality", f"{ASSET}_schema"
JANUARY, FEBRUARY = "2015-01", "2015-02"


@pytest.fixture
def round_the_clock() -> dict[str, pd.DataFrame]:
    """Two symbols of a market that never closes, with a quote every five or ten minutes, over the end of January."""
    frames = []
    for symbol, minutes in (("AAA", 5), ("BBB", 10)):
        instants = pd.date_range("2015-01-30 12:00", "2015-02-02 12:00", freq=f"{minutes}min", tz="UTC", unit="us")
        random = np.random.default_rng(minutes)
        bid = 100 + 0.01 * np.cumsum(random.integers(-2, 3, len(instants)))
        values = {
            "bid": bid,
            "bid_size": random.integers(1, 100, len(bid)) * 100.0,
            "ask": bid + 0.01 * random.integers(1, 4, len(bid)),
            "ask_size": random.integers(1, 100, len(bid)) * 100.0,
        }
        frames.append(pd.DataFrame({"symbol": symbol, "available_at": instants, **values}))
    quotes = pd.concat(frames, ignore_index=True)
    quotes["month"] = quotes["available_at"].dt.strftime("%Y-%m")
    return {str(month): own.reset_index(drop=True) for month, own in quotes.groupby("month")}


@pytest.fixture
def pipeline(pipeline_at, tmp_path, round_the_clock, monkeypatch):
    """Two months of quotes and nothing else; a picture is drawn of the simulated market alone."""
    monkeypatch.setattr(quote_plots, "plot_microstructure", lambda rows: b"picture")
    made = pipeline_at(tmp_path / "home")
    made.warehouse.replace(QUOTES, round_the_clock)
    return made


def run(pipeline, month: str):
    return pipeline.run("poll_snapshots", ASSET, partition=month, checks=True)


def test_a_month_alone_equals_the_same_month_of_a_full_computation(pipeline, round_the_clock) -> None:
    full = compute_microstructure(pd.concat(round_the_clock.values()))
    for month in (FEBRUARY, JANUARY):
        assert run(pipeline, month).success
        alone = pipeline.warehouse.read(MICROSTRUCTURE_FEATURES, partitions=[month])
        expected = full[full["month"] == month].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, expected, check_exact=True)
        # February goes on where January ends: nothing warms up again at midnight.
        assert alone.notna().all(axis=None) == (month == FEBRUARY)


def test_the_page_shows_rows_symbols_coverage_and_a_picture(pipeline) -> None:
    result = run(pipeline, JANUARY)
    assert pipeline.checks(result) == {CAUSALITY: True, SCHEMA: True}
    (event,) = result.asset_materializations_for_node(ASSET)
    shown = {name: value.value for name, value in event.metadata.items()}
    rows = pipeline.warehouse.read(MICROSTRUCTURE_FEATURES)
    assert shown["dagster/partition_row_count"] == len(rows)
    counts = shown["rows by symbol, the first 20 of 2"]
    assert "| AAA | 432 |" in counts
    assert "| BBB | 216 |" in counts
    assert f"| mid_volatility | 648 | 0.9383 | 0 | {2 * WINDOW} | 0 |" in shown["coverage"]
    assert "quoted_spread_ratio" in shown["latest rows"]
    assert "data:image/png;base64," in shown["spread, imbalance, volatility"]


def test_a_month_without_quotes_fails_and_says_why(pipeline) -> None:
    # March begins within reach of nothing; what is stored of February is not taken for its own.
    result = run(pipeline, "2015-03")
    assert "no rows of quotes in 2015-03: materialize that month first" in pipeline.failure(result)


@pytest.mark.parametrize(
    "leak",
    [
        lambda rows: rows["order_imbalance"].shift(-1),
        lambda rows: rows["order_imbalance"].rolling(5, center=True).mean(),
        lambda rows: rows["order_imbalance"] - rows["order_imbalance"].mean(),
        lambda rows: rows["order_imbalance"].where(rows.index % 100 != 50).bfill(),
    ],
    ids=["next row", "centred window", "whole-column mean", "backward fill"],
)
def test_a_planted_leak_is_caught_and_blocks(pipeline, monkeypatch, leak) -> None:
    honest = microstructure.compute_microstructure

    def leaking(quotes: pd.DataFrame) -> pd.DataFrame:
        rows = honest(quotes)
        return rows.assign(order_imbalance_mean=leak(rows).astype("float32"))

    monkeypatch.setattr(microstructure, "compute_microstructure", leaking)
    result = run(pipeline, FEBRUARY)
    assert pipeline.checks(result)[CAUSALITY] is False
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == CAUSALITY]
    assert check.blocking
    assert "in the columns ['order_imbalance_mean']" in check.description
    assert f"stored rows of {FEBRUARY} (1 months)" in check.description


def test_rows_whose_quotes_changed_are_told(pipeline, round_the_clock) -> None:
    assert run(pipeline, FEBRUARY).success
    pipeline.warehouse.replace(QUOTES, {FEBRUARY: round_the_clock[FEBRUARY].iloc[1:]})
    assert pipeline.checks(run(pipeline, JANUARY))[CAUSALITY] is False
    # The last quote of January stands in February's first windows.
    restated = round_the_clock[JANUARY].copy()
    restated.loc[restated.index[-1], "bid_size"] += 100.0
    pipeline.warehouse.replace(QUOTES, {JANUARY: restated, FEBRUARY: round_the_clock[FEBRUARY]})
    assert pipeline.checks(run(pipeline, JANUARY))[CAUSALITY] is False
    assert run(pipeline, FEBRUARY).success


def test_a_broken_row_is_caught(pipeline, execute_sql) -> None:
    assert run(pipeline, FEBRUARY).success
    execute_sql(
        pipeline, f"UPDATE {{lake}}.{MICROSTRUCTURE_FEATURES.name} SET quoted_spread = -1.0 WHERE symbol = 'AAA'"
    )
    result = run(pipeline, JANUARY)
    assert pipeline.checks(result) == {CAUSALITY: False, SCHEMA: False}


def test_the_month_before_is_upstream(pipeline) -> None:
    from atlas_pipeline.definitions import build_defs

    graph = build_defs(pipeline.resources).resolve_asset_graph()
    own, quotes = dg.AssetKey(ASSET), dg.AssetKey("quotes")
    mapped = graph.get_partition_mapping(own, quotes).get_upstream_mapped_partitions_result_for_partitions(
        graph.get(own).partitions_def.subset_with_partition_keys([FEBRUARY]),
        graph.get(own).partitions_def,
        graph.get(quotes).partitions_def,
    )
    assert set(mapped.partitions_subset.get_partition_keys()) == {JANUARY, FEBRUARY}


def test_quotes_of_the_simulated_market_become_features(pipeline_at, tmp_path) -> None:
    pipeline = pipeline_at(
        tmp_path / "home",
        source="simulated",
        symbols=["AAA", "BBB"],
        interval="5m",
        options={"first": "2015-01-02", "last": "2015-02-27"},
        replay_start="2015-01-20T15:00:00+00:00",
    )
    result = pipeline.run("poll_snapshots", "quotes", ASSET, partition=JANUARY, checks=True)
    assert result.success
    assert pipeline.checks(result) == {CAUSALITY: True, SCHEMA: True}
    rows = pipeline.warehouse.read(MICROSTRUCTURE_FEATURES)
    assert rows["available_at"].max() <= pd.Timestamp("2015-01-20 15:00", tz="UTC")
    # 11 whole sessions of 78 bars and the first six of the twelfth; each begins without a return.
    assert rows.groupby("symbol").size().tolist() == [11 * 78 + 6] * 2
    nights = rows["available_at"].diff() > timedelta(hours=1)
    assert rows.loc[nights, "mid_return"].isna().all()
    assert rows["mid_return"].isna().sum() == 2 * 12

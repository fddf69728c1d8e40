"""Features and panels: months that do not depend on the run, a causality check that bites, reads that are bounded."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets import features as stage
from assets.loading import JOINED_AS_OF, model_rows, open_panels
from atlas_pipeline.config import Config
from atlas_pipeline.features import compute
from atlas_pipeline.features.coverage import FEATURE_COVERAGE
from atlas_pipeline.features.cross_section import market_means
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.features.model_inputs import PANEL_FEATURES, set_columns
from atlas_pipeline.features.registry import FEATURES, REGISTRY
from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.windows.panel import Panel

CLOCK = "1999-06-30T20:00:00+00:00"
CONFIG = Config()


@pytest.fixture(scope="session")
def few_home(prepared) -> Path:
    def fill(pipeline) -> None:
        half_a_year = replace(pipeline, market_settings={"replay_start": CLOCK})
        assert half_a_year.run("ingest", "bars", "features", partitions=("1999-01", "1999-06")).success

    return prepared("few", None, fill)


@pytest.fixture
def few(pipeline_at, few_home: Path, tmp_path: Path):
    """Half a year of bars and features in a folder of its own."""
    return pipeline_at(shutil.copytree(few_home, tmp_path / "few"), replay_start=CLOCK)


def test_a_month_alone_equals_the_same_month_of_a_full_run(market_copy) -> None:
    full = market_copy.warehouse.read(FEATURES)
    for month in ("2003-05", "2007-12"):
        part = full[full["month"] == month]
        market_copy.warehouse.replace(FEATURES, {month: part.iloc[:0]})
        assert month not in market_copy.warehouse.partitions(FEATURES)
        assert market_copy.run("ingest", "features", partition=month).success
        alone = market_copy.warehouse.read(FEATURES, partitions=[month])
        pd.testing.assert_frame_equal(alone, part.reset_index(drop=True), check_exact=True)


def test_the_same_rows_computed_again_are_no_new_version(few) -> None:
    snapshot = few.warehouse.snapshot()
    result = few.run("ingest", "features", partition="1999-05", checks=True)
    (event,) = result.asset_materializations_for_node("features")
    assert event.tags["dagster/data_version"] == few.warehouse.data_version(FEATURES, "1999-05")
    assert few.warehouse.snapshot() == snapshot
    assert few.checks(result) == {"features_schema": True, "features_causality": True}


def test_features_without_bars_fail(few) -> None:
    message = few.failure(few.run("ingest", "features", partitions=("1999-06", "1999-07")))
    assert "no bars in 1999-07: materialize these months of bars first" in message


def causality(pipeline) -> dg.AssetCheckResult:
    return stage.features_causality(market=pipeline.market, warehouse=pipeline.warehouse)


def test_a_feature_that_looks_ahead_fails_the_check(few, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = compute.continue_features

    def leaking(memory: SeriesMemory, bars: pd.DataFrame, *others: Any, **options: Any) -> compute.Features:
        made = honest(memory, bars, *others, **options)
        tomorrow = made.frame.groupby("symbol")["relative_gap"].shift(-1)
        gap = tomorrow.fillna(made.frame["relative_gap"])
        return replace(made, frame=made.frame.assign(relative_gap=gap))

    shutil.rmtree(few.home / "checkpoints" / "features")
    monkeypatch.setattr(compute, "continue_features", leaking)
    result = few.run("ingest", "features", partitions=("1999-01", "1999-06"), checks=True)
    assert not result.success
    assert not few.checks(result)["features_causality"]
    said = causality(few).description
    assert "looks ahead: ['relative_gap'] changed with the future" in said
    assert "differ from one bar at a time: materialize these months of features again" in said


def test_rows_that_the_code_does_not_make_fail_the_check(few) -> None:
    assert causality(few).passed
    month = few.warehouse.read(FEATURES, partitions=["1999-06"])
    month.loc[3, "RSI"] += 1e-3
    few.warehouse.replace(FEATURES, {"1999-06": month})
    check = causality(few)
    assert not check.passed and "stored rows of 1999-06 (1 months) differ" in check.description
    assert few.run("ingest", "features", partition="1999-06").success, "the remedy does not help"
    assert causality(few).passed


def test_a_month_goes_on_from_the_memory_of_the_one_before(few, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [folder.parent.name for folder in few.artifacts.kept("features")] == ["1999-04", "1999-05", "1999-06"]
    honest, seen = compute.continue_features, set()

    def watched(memory: SeriesMemory, bars: pd.DataFrame, *others: Any, **options: Any) -> compute.Features:
        seen.update(bars["month"])
        return honest(memory, bars, *others, **options)

    monkeypatch.setattr(compute, "continue_features", watched)
    before = few.warehouse.data_version(FEATURES, "1999-06")
    assert few.run("ingest", "features", partition="1999-06").success
    assert seen == {"1999-06"} and few.warehouse.data_version(FEATURES, "1999-06") == before
    assert few.run("ingest", "features", partition="1999-03").success
    assert seen == {f"1999-{month:02d}" for month in (1, 2, 3, 6)}, "of an early month nothing is remembered"


def test_a_restated_bar_is_carried_on_into_every_later_month(few) -> None:
    march = few.warehouse.read(BARS, partitions=["1999-03"])
    march.loc[5, "close"] = march.loc[5, "high"]
    few.warehouse.replace(BARS, {"1999-03": march})
    before = few.warehouse.read(FEATURES)
    assert few.run("ingest", "features", partition="1999-06", checks=True).success
    after = few.warehouse.read(FEATURES)
    moved = (after["RSI"] != before["RSI"]) & after["RSI"].notna()
    assert sorted(after.loc[moved, "month"].unique()) == [f"1999-{month:02d}" for month in range(3, 7)]
    kept = few.artifacts.kept("features")
    assert [folder.parent.name for folder in kept] == ["1999-04", "1999-05", "1999-06"], "the old memories are gone"


def test_a_damaged_memory_is_named_and_its_removal_helps(few) -> None:
    folder = next(folder for folder in few.artifacts.kept("features") if folder.parent.name == "1999-05")
    file = folder / "memory.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    message = few.failure(few.run("ingest", "features", partition="1999-06"))
    assert str(file) in message and f"remove the folder {folder}" in message
    before = few.warehouse.data_version(FEATURES, "1999-06")
    shutil.rmtree(folder)
    assert few.run("ingest", "features", partition="1999-06").success
    assert few.warehouse.data_version(FEATURES, "1999-06") == before


def test_the_memory_of_a_month_never_holds_a_later_one(few) -> None:
    """April's is lost: what goes on from May's cannot make it again, and a late bar of May finds none of May's."""
    april = next(folder for folder in few.artifacts.kept("features") if folder.parent.name == "1999-04")
    shutil.rmtree(april)
    assert few.run("ingest", "features", partition="1999-06").success
    assert not april.exists()
    may = few.warehouse.read(BARS, partitions=["1999-05"])
    may.loc[5, "close"] = may.loc[5, "high"]
    few.warehouse.replace(BARS, {"1999-05": may})
    assert few.run("ingest", "features", partition="1999-06", checks=True).success
    assert causality(few).passed


def test_a_month_whose_bars_were_withdrawn_loses_its_features(few) -> None:
    few.warehouse.replace(BARS, {"1999-05": few.warehouse.read(BARS, partitions=["1999-05"]).iloc[:0]})
    result = few.run("ingest", "features", partition="1999-06", checks=True)
    assert result.success and few.checks(result)["features_causality"]
    assert "1999-05" not in few.warehouse.partitions(FEATURES)
    assert few.warehouse.read(FEATURE_COVERAGE, partitions=["1999-05"]).empty
    assert [folder.parent.name for folder in few.artifacts.kept("features")] == ["1999-04", "1999-06"]


def test_the_volatility_index_is_an_input_and_no_series(pipeline_at, tmp_path: Path) -> None:
    pipeline = pipeline_at(tmp_path, replay_start=CLOCK, volatility_index="NASDAQ")
    assert pipeline.run("ingest", "bars", "features", partitions=("1999-01", "1999-05"), checks=True).success
    assert pipeline.run("ingest", "features", partition="1999-06", checks=True).success is False, "no bars of June yet"
    assert pipeline.run("ingest", "bars", "features", partition="1999-06", checks=True).success
    rows = pipeline.warehouse.read(FEATURES)
    index = pipeline.warehouse.read(BARS, where={"symbol": "NASDAQ"})
    assert set(rows["symbol"]) == {"SP500"}
    np.testing.assert_array_equal(rows["vix"], index["close"].to_numpy(np.float32))
    assert rows["vix_over_sma_20"].notna().sum() == len(rows) - 19


def test_impossible_values_are_not_stored(few) -> None:
    """A high that no float32 holds, and a close above its high: nothing is written, and a retry would not help."""
    may, stored = few.warehouse.read(BARS, partitions=["1999-05"]), few.warehouse.read(FEATURES)
    for column, value, message in (
        ("high", 1e39, "are infinite: look for absurd prices"),
        ("close", 1e5, "distance_from_high_20 reaches"),
    ):
        few.warehouse.replace(BARS, {"1999-05": may.assign(**{column: may[column].where(may.index != 5, value)})})
        said = few.failure(few.run("ingest", "features", partition="1999-05"))
        assert "FeatureSchemaError" in said and message in said
    pd.testing.assert_frame_equal(few.warehouse.read(FEATURES), stored)


def test_why_a_value_is_missing_stands_beside_it(few) -> None:
    rows = few.warehouse.read(FEATURES)
    coverage = few.warehouse.read(FEATURE_COVERAGE)
    empty = rows[list(REGISTRY)].isna().sum()
    counted = coverage.groupby("feature")["rows"].sum().reindex(list(REGISTRY), fill_value=0)
    assert counted.tolist() == empty.tolist()
    own = coverage[(coverage["symbol"] == "SP500") & (coverage["feature"] == "RSI")]
    assert own[["month", "reason", "rows"]].to_numpy().tolist() == [["1999-01", "warm-up", 14]]
    assert set(coverage.loc[coverage["feature"] == "vix", "reason"]) == {"missing volatility index"}


def test_splits_and_dividends_reach_features_and_panel(few, make_actions) -> None:
    actions = make_actions(
        ("SP500", "1999-05-10", "split", 7.0),
        ("SP500", "1999-05-10", "dividend", 1.5),
        ("NASDAQ", "1999-06-01", "dividend", 4.0),
        ("NASDAQ", "1999-07-02", "split", 2.0),
    )
    plain = few.warehouse.read(FEATURES)
    few.warehouse.replace(CORPORATE_ACTIONS, dict(list(actions.groupby("month"))))
    split = (plain["symbol"] == "SP500") & (plain["available_at"] >= actions["available_at"].min())
    bars = few.warehouse.read(BARS)
    bars.loc[split, ["open", "high", "low", "close"]] /= 7
    few.warehouse.replace(BARS, dict(list(bars.groupby("month"))))
    assert not causality(few).passed, "actions of an ingestion make features stale"
    assert few.run("ingest", "features", partitions=("1999-01", "1999-06"), checks=True).success
    found = few.warehouse.read(FEATURES)
    ex = found[(found["split"] != 1) | (found["dividend"] > 0)]
    assert ex[["symbol", "split", "dividend"]].to_numpy().tolist() == [["NASDAQ", 1, 4], ["SP500", 7, 1.5]]
    before = found["available_at"] < actions["available_at"].min()
    pd.testing.assert_frame_equal(found[before], plain[before], check_exact=True)
    assert (found["volatility_ewma"] / plain["volatility_ewma"]).dropna().between(0.9, 1.1).all()
    with few.warehouse.session() as lake:
        panel = model_rows(lake, datetime(1999, 5, 1, tzinfo=UTC), datetime(1999, 7, 1, tzinfo=UTC), ["RSI"])
    assert sorted(panel.split[panel.split != 1]) == [7.0]
    assert sorted(panel.dividend[panel.dividend > 0]) == [1.5, 4.0]
    returns = np.diff(np.log(panel.total_return_close))[np.diff(panel.symbol) == 0]
    assert abs(returns).max() < 0.1


def test_a_dividend_that_cannot_be_fails_once_and_is_named(few, make_actions) -> None:
    few.warehouse.append(CORPORATE_ACTIONS, make_actions(("SP500", "1999-05-10", "dividend", 9999.0)))
    message = few.failure(few.run("ingest", "features", partition="1999-05"))
    assert "SP500: dividend of 9999.0 on 1999-05-10 is no smaller than the share's price" in message


def test_a_panel_holds_the_features_and_prices_of_its_year(market_home: Path, pipeline_at) -> None:
    pipeline = pipeline_at(market_home)
    panel = Panel.open([pipeline.artifacts.panel_path(2004)])
    year = pipeline.warehouse.read(
        FEATURES, start=datetime(2004, 1, 1, tzinfo=UTC), end=datetime(2005, 1, 1, tzinfo=UTC)
    )
    assert panel.symbols == ("NASDAQ", "SP500") and panel.features == PANEL_FEATURES
    of_bars = [name for name in PANEL_FEATURES if name in REGISTRY]
    np.testing.assert_array_equal(panel.select(of_bars).values, year[of_bars].to_numpy(np.float32))
    market = panel.select(set_columns("market"))
    np.testing.assert_array_equal(market.values, market_means(year, market.features))
    assert np.isfinite(market.values).all() and not np.array_equal(market.values[:, 0], year["trend_1"])
    joined = panel.select([name for name in PANEL_FEATURES if name not in (*REGISTRY, *market.features)])
    assert np.isnan(joined.values).all(), "this market has neither quotes nor option chains"
    np.testing.assert_array_equal(panel.volatility, year["volatility_ewma"])
    bars = pipeline.warehouse.read(BARS, partitions=[f"2004-{month:02d}" for month in range(1, 13)])
    np.testing.assert_array_equal(panel.prices[:, 3], bars["close"])
    assert panel.available_at.tolist() == [microseconds(instant) for instant in bars["available_at"]]


def test_what_chains_and_quotes_say_is_joined_as_of_the_bar(few) -> None:
    """Each bar has what was known when it was complete and not too old; a market without any has none."""
    start, end = datetime(1999, 5, 1, tzinfo=UTC), datetime(1999, 6, 1, tzinfo=UTC)
    read = [*set_columns("options+microstructure"), "RSI"]
    with few.warehouse.session() as lake:
        before = model_rows(lake, start, end, read)
    assert np.isnan(before.values[:, :-1]).all() and np.isfinite(before.values[:, -1]).all()
    bars = pd.to_datetime(before.available_at[before.symbol == 1], unit="us", utc=True).as_unit("us")
    for table, _, limit in JOINED_AS_OF:
        # As old as may be at the sixth bar, a microsecond older at the eleventh, a microsecond too late for it.
        instants = [bars[5] - limit, bars[10] - limit - timedelta(microseconds=1), bars[10] + timedelta(microseconds=1)]
        rows = pd.DataFrame({"symbol": "SP500", "available_at": instants, "month": "1999-05"})
        others = [column for column in table.columns if column.name not in rows]
        rows = rows.assign(**{column.name: [0.25, 0.5, 0.75] for column in others})
        few.warehouse.append(table, rows[list(table.names)])
    with few.warehouse.session() as lake:
        panel = model_rows(lake, start, end, read)
    np.testing.assert_array_equal(panel.values[:, -1], before.values[:, -1])
    assert np.isnan(panel.values[panel.symbol == 0, :-1]).all()
    own = panel.values[panel.symbol == 1]
    assert (own[5, :-1] == 0.25).all() and np.isnan(own[10, :-1]).all()
    assert (own[11, : len(set_columns("options"))] == 0.75).all(), "a chain of yesterday says something today"
    assert np.isnan(own[11, len(set_columns("options")) : -1]).all(), "a quote of yesterday says nothing"


def test_panels_of_a_range_have_versions_of_their_own(market_copy) -> None:
    before = {year: market_copy.artifacts.panel_path(year).read_bytes() for year in (2005, 2006)}
    result = market_copy.run("build_panels", "panel", partitions=("2005", "2006"))
    assert result.success
    versions = {
        event.partition: event.tags["dagster/data_version"]
        for event in result.asset_materializations_for_node("panel")[-2:]
    }
    assert versions["2005"] != versions["2006"] and set(versions) == {"2005", "2006"}
    assert before == {year: market_copy.artifacts.panel_path(year).read_bytes() for year in (2005, 2006)}


def test_a_panel_without_features_fails(market_copy) -> None:
    message = market_copy.failure(market_copy.run("build_panels", "panel", partition="2008"))
    assert "no features in 2008: materialize its months first" in message
    assert not market_copy.artifacts.panel_path(2008).exists()


def test_panels_give_no_row_at_or_after_the_bound(market_home: Path, pipeline_at) -> None:
    artifacts = pipeline_at(market_home).artifacts
    close = datetime(2005, 6, 1, 20, tzinfo=UTC)
    bounded = open_panels(artifacts, CONFIG, close)
    assert bounded.features == set_columns("relative")
    assert bounded.available_at.max() < microseconds(close)
    later = open_panels(artifacts, CONFIG, datetime(2006, 1, 1, tzinfo=UTC))
    known = later.available_at < microseconds(close)
    np.testing.assert_array_equal(bounded.available_at, later.available_at[known])
    np.testing.assert_array_equal(bounded.values, later.values[known])
    assert later.available_at.max() < microseconds(datetime(2006, 1, 1, tzinfo=UTC))


def test_a_missing_or_damaged_panel_is_named(market_copy) -> None:
    before = datetime(2006, 1, 1, tzinfo=UTC)
    file = market_copy.artifacts.panel_path(2003)
    content = bytearray(file.read_bytes())
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(dg.Failure, match=r"2003\.safetensors.*materialize") as damaged:
        open_panels(market_copy.artifacts, CONFIG, before)
    assert not damaged.value.allow_retries
    file.unlink()
    with pytest.raises(dg.Failure, match=r"2003\.safetensors.*materialize"):
        open_panels(market_copy.artifacts, CONFIG, before)
    assert market_copy.run("build_panels", "panel", partition="2003").success
    assert len(open_panels(market_copy.artifacts, CONFIG, before))

"""A fold, forecaster to backtest: what is reported, what is reused, what is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from assets import forecaster as forecaster_stage
from assets import forecasts as forecasts_stage
from assets import policy as policy_stage
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.trading import ppo
from atlas_pipeline.trading.backtest_table import BACKTEST, BACKTEST_SCORES
from atlas_pipeline.training import fit
from atlas_pipeline.training.forecast_table import FORECASTS
from atlas_pipeline.training.prediction_schema import PREDICTIONS
from atlas_pipeline.windows.panel import PRICES, Panel
from resources.tracking import CHAMPION, MODEL

YEAR = 2007
FOLD = str(YEAR)


def files_of(pipeline) -> dict[str, str]:
    """Digest and time of every published file."""
    return {
        str(
            path.relative_to(pipeline.home)
        ): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted((pipeline.home / "checkpoints").rglob("*"))
        if path.is_file()
    }


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def version_of(result: dg.ExecuteInProcessResult, asset: str) -> str:
    (event,) = result.asset_materializations_for_node(asset)
    return event.tags["dagster/data_version"]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def only(pipeline, pattern: str) -> Path:
    (found,) = (pipeline.home / "checkpoints").glob(pattern)
    return found


def test_the_same_settings_and_rows_are_learned_once(fold_copy, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("learned again")

    monkeypatch.setattr(fit, "fit_forecaster", forbidden)
    monkeypatch.setattr(ppo, "train_policy", forbidden)
    before, counts, snapshot = files_of(fold_copy), fold_copy.counts(), fold_copy.warehouse.snapshot()
    result = fold_copy.fold("forecaster", "forecasts", "embeddings", "policy", "backtest", checks=True)
    assert result.success, fold_copy.failure(result)
    assert (files_of(fold_copy), fold_copy.counts(), fold_copy.warehouse.snapshot()) == (before, counts, snapshot)
    assert len(fold_copy.tracking.versions(MODEL)) == 1

    made = metadata(result, "forecaster")
    assert made["base hash"] == metadata(result, "policy")["base hash"] == metadata(result, "embeddings")["base hash"]
    assert made["labels end before"] == "2006-01-01" and made["epochs"] == 1 and 2500 < made["training windows"] < 3000
    assert np.isfinite(made["validation NLL (nats a bar)"]) and 0 < made["95% coverage on validation"] <= 1
    low, high = map(float, made["99% band of that coverage, if calibrated"].split(" to "))
    assert 0.9 < low < 0.95 < high < 1
    assert made["features"].startswith("relative: relative_return, ") and made["scaler"] == "robust"
    assert "share of bars" in made["inputs outside the training range, on validation"]
    assert "share of bars" in metadata(result, "forecasts")["inputs outside the training range"]
    for asset, shown in (
        ("forecaster", ["learning curve"]),
        ("forecasts", ["PIT", "coverage", "gain on the best GARCH model", "fan chart, SP500", "fan chart, NASDAQ"]),
        ("policy", ["training"]),
        ("backtest", ["equity"]),
    ):
        for name in shown:
            assert "](data:image/png;base64," in metadata(result, asset)[name]
    assert metadata(result, "policy")["environment steps"] == 4096
    assert "| buy_and_hold |" in metadata(result, "backtest")["out of sample, net of costs"]
    scores = metadata(result, "forecasts")["scores out of sample"]
    assert all(model in scores for model in ("riskmetrics", "egarch_skewt", "forecaster"))
    contest = metadata(result, "forecasts")["against the best GARCH model, every fold"]
    assert contest.count("| 2007 |") == 2 and "dm_p_value" in contest
    assert metadata(result, "forecasts")["intervals, raw and conformal"].count("| SP500 |") == 3
    assert "| constant_gaussian |" in metadata(result, "forecasts")["documents' targets, on the min-max level"]
    checks = fold_copy.checks(result)
    assert {"forecaster_loads", "forecasts_schema", "backtest_schema"} <= {name for name, ok in checks.items() if ok}
    assert {
        "forecasts_beat_riskmetrics",
        "forecasts_beat_garch",
        "forecasts_coverage",
        "backtest_beats_buy_and_hold",
    } <= set(checks)


def test_the_fold_is_judged_on_its_own_year(fold_home: Path, pipeline_at) -> None:
    warehouse = pipeline_at(fold_home).warehouse
    forecasts, backtest = warehouse.read(FORECASTS), warehouse.read(BACKTEST)
    for rows in (forecasts, backtest):
        assert set(rows["fold"]) == {str(YEAR)}
        assert set(rows.filter(regex="^(bar|available_at)$").iloc[:, 0].dt.year) == {YEAR}
    # 251 sessions; the last one's return is not known yet.
    assert (forecasts.groupby(["symbol", "model"]).size() == 250).all()
    assert set(backtest["strategy"]) == set(warehouse.read(BACKTEST_SCORES)["strategy"])


def test_the_base_is_registered_with_what_made_it(fold_home: Path, pipeline_at) -> None:
    pipeline = pipeline_at(fold_home)
    version = pipeline.tracking.alias(MODEL, CHAMPION)
    assert version.version == 1
    tags = version.tags
    assert (
        tags["kind"] == "base" and tags["fold"] == str(YEAR) and tags["verdict"] == "promote" and tags["adapter"] == ""
    )
    assert tags["trades_from"].startswith(f"{YEAR}-01-01") and tags["created_at"].startswith(f"{YEAR}-01-01")
    for name in ("forecaster", "policy"):
        assert pipeline.artifacts.absolute(tags[name]).exists()
    pipeline.warehouse.read(FORECASTS, snapshot=int(tags["snapshot"]))


def test_the_forecaster_knows_nothing_of_the_policy_years(fold_copy) -> None:
    """Whatever stands in the panels from 2006 on, the very same forecaster is found."""
    for year in (2006, 2007):
        fold_copy.artifacts.panel_path(year).write_bytes(b"damaged")
    before = files_of(fold_copy)
    result = fold_copy.fold("forecaster")
    assert result.success and files_of(fold_copy) == before
    assert "2006.safetensors" in fold_copy.failure(fold_copy.fold("embeddings"))


def test_columns_that_a_model_does_not_read_are_no_reason_to_learn_it_again(fold_copy) -> None:
    before = files_of(fold_copy)
    file = fold_copy.artifacts.panel_path(2003)
    panel = Panel.open(file)
    values = panel.values.copy()
    values[:, panel.features.index("RSI")] = np.nan
    replace(panel, values=values).write(file)
    changed = {str(file.relative_to(fold_copy.home))}
    assert fold_copy.fold("forecaster", "forecasts", "embeddings", "policy", "backtest").success
    after = files_of(fold_copy)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= changed


@pytest.mark.parametrize(("features", "scaler"), [("a20", "min_max"), ("atlas8", "instance")])
def test_another_set_and_scaler_are_learned_from_the_same_panels(fold_copy, features: str, scaler: str) -> None:
    chosen = {"features": features, "scaler": scaler}
    result = fold_copy.fold("forecaster", "forecasts", "embeddings", overrides=chosen)
    assert result.success, fold_copy.failure(result)
    made = metadata(result, "forecaster")
    assert made["features"] == f"{features}: {', '.join(set_columns(features))}" and made["scaler"] == scaler
    assert np.isfinite(made["validation NLL (nats a bar)"])
    assert len(list((fold_copy.home / "checkpoints").glob("forecaster/*/*/weights.safetensors"))) == 2


def test_restated_history_is_not_served_by_the_old_forecaster(fold_copy) -> None:
    file = fold_copy.artifacts.panel_path(2003)
    panel = Panel.open([file])
    prices = panel.prices.copy()
    prices[7, PRICES.index("close")] *= 1.001
    replace(panel, prices=prices).write(file)
    message = fold_copy.failure(fold_copy.fold("forecasts"))
    assert "no forecaster of fold 2007" in message and "bars may have been restated since" in message


@pytest.mark.parametrize(
    ("asset", "overrides", "message"),
    [
        ("forecasts", {"d_model": 32}, "materialize forecaster with the same experiment and overrides"),
        ("embeddings", {"learning_rate": 1e-3}, "materialize forecaster with the same experiment and overrides"),
        ("policy", {"seed": 1}, "materialize forecaster with the same experiment and overrides"),
        ("backtest", {"ppo_steps": 2048}, "materialize policy with the same experiment and overrides"),
        ("backtest", {"commission": 0.01}, "materialize policy with the same experiment and overrides"),
        ("forecasts", {"scaler": "min_max"}, "materialize forecaster with the same experiment and overrides"),
        ("forecaster", {"layers": 3}, "unknown settings ['layers']"),
        (
            "forecaster",
            {"features": "weekly"},
            "there is no set of features 'weekly'; use one of atlas8, technical, a20",
        ),
        ("forecaster", {"features": "a20", "feature_size": 8}, "the set 'a20' has 20 columns; leave feature_size out"),
        ("forecaster", {"backbone": "patchtst", "n_heads": 3}, "d_model=16: must be divisible by n_heads (3)"),
        ("forecaster", {"seq_length": 512, "policy_years": 6}, "InsufficientHistoryError: fold 2007: 0 training"),
        ("forecaster", {"policy_years": 8}, "nothing of it is known before 1999-01-01: choose a later fold or fewer"),
    ],
)
def test_what_does_not_fit_fails_with_the_remedy(
    fold_copy, asset: str, overrides: dict[str, object], message: str
) -> None:
    before = files_of(fold_copy)
    failure = fold_copy.failure(fold_copy.fold(asset, overrides=overrides))
    assert message in failure
    if "InsufficientHistory" in message:
        assert "Choose a later fold, ingest earlier bars, or reduce seq_length" in failure
    assert files_of(fold_copy) == before


def test_an_unknown_experiment_fails(fold_copy) -> None:
    result = fold_copy.run(
        "train_fold", "forecaster", partition=str(YEAR), config={"forecaster": {"experiment": "weekly"}}
    )
    message = fold_copy.failure(result)
    assert "weekly.yaml" in message and "daily_indices" in message


@pytest.mark.parametrize(
    ("pattern", "assets"),
    [
        ("forecaster/*/*/weights.safetensors", ("forecaster", "forecasts", "embeddings")),
        ("embeddings/*/*/paths.safetensors", ("policy", "backtest")),
        ("policy/*/*/policy.safetensors", ("policy", "backtest")),
    ],
)
def test_a_damaged_checkpoint_fails_and_its_remedy_helps(fold_copy, pattern: str, assets: tuple[str, ...]) -> None:
    file = only(fold_copy, pattern)
    made_by = file.parent.parent.parent.name
    sound = version_of(fold_copy.fold(made_by), made_by)
    damage(file)
    for asset in assets:
        message = fold_copy.failure(fold_copy.fold(asset))
        assert f"{file} is changed since it was published" in message
        assert f"remove the folder {file.parent} and materialize its asset and partition again" in message
    for path in file.parent.iterdir():
        path.unlink()
    file.parent.rmdir()
    assert version_of(fold_copy.fold(made_by), made_by) == sound, "what was made again is something else"
    assert fold_copy.fold(assets[-1]).success


def test_a_damaged_forecaster_fails_its_check(fold_copy) -> None:
    assert forecaster_stage.forecaster_loads(artifacts=fold_copy.artifacts).passed
    damage(only(fold_copy, "forecaster/*/*/weights.safetensors"))
    check = forecaster_stage.forecaster_loads(artifacts=fold_copy.artifacts)
    assert not check.passed and "weights.safetensors is changed" in check.description


def test_checks_of_quality_can_fail(fold_copy) -> None:
    warehouse = fold_copy.warehouse
    rows = warehouse.read(FORECASTS)
    own = rows["model"] == forecasts_stage.FORECASTER
    rows["nll"] = rows["nll"].where(~own, rows["nll"] + 5.0)
    rows["pit"] = rows["pit"].where(~own, 0.999)
    warehouse.replace(FORECASTS, {str(YEAR): rows})
    floor = forecasts_stage.forecasts_beat_riskmetrics(warehouse=warehouse)
    assert not floor.passed and "2 of 2 folds and symbols miss the floor" in floor.description
    assert not forecasts_stage.forecasts_coverage(warehouse=warehouse).passed

    lost = forecasts_stage.forecasts_beat_garch(warehouse=warehouse)
    assert not lost.passed and lost.severity == dg.AssetCheckSeverity.WARN and "nats a day" in lost.description
    warehouse.replace(FORECASTS, {str(YEAR): rows.assign(nll=rows["nll"].where(~own, rows["nll"] - 9.0))})
    assert forecasts_stage.forecasts_beat_garch(warehouse=warehouse).passed

    warehouse.replace(FORECASTS, {str(YEAR): rows[own]})
    alone = forecasts_stage.forecasts_beat_garch(warehouse=warehouse)
    assert not alone.passed and "no GARCH model stands beside the forecaster" in alone.description

    scores = warehouse.read(BACKTEST_SCORES)
    for policy_earns, passed in ((9.0, True), (-0.9, False)):
        changed = scores["total_return"].where(scores["strategy"] != "policy", policy_earns)
        warehouse.replace(BACKTEST_SCORES, {str(YEAR): scores.assign(total_return=changed)})
        check = policy_stage.backtest_beats_buy_and_hold(warehouse=warehouse)
        assert check.passed is passed and check.severity == dg.AssetCheckSeverity.WARN


def test_a_second_base_is_registered_but_not_live(fold_copy) -> None:
    result = fold_copy.fold("policy", overrides={"ppo_steps": 1024})
    assert result.success
    versions = fold_copy.tracking.versions(MODEL)
    assert [version.tags["kind"] for version in versions] == ["base", "base"]
    assert fold_copy.tracking.alias(MODEL, CHAMPION).version == 1
    assert "verdict" not in versions[1].tags


@pytest.mark.parametrize("head", ["direction", "quantiles"])
def test_a_head_without_density_is_learned_and_judged(fold_copy, head: str) -> None:
    chosen = {"head": head, "horizon": [1, 5]}
    result = fold_copy.learn("train_task", "forecaster", "predictions", overrides=chosen, partition=FOLD, checks=True)
    assert result.success, fold_copy.failure(result)
    assert fold_copy.checks(result)["predictions_schema"]
    rows = fold_copy.warehouse.read(PREDICTIONS)
    assert set(rows["horizon"]) == {1, 5} and set(rows["head"]) == {head} and set(rows["fold"]) == {FOLD}
    made = metadata(result, "predictions")
    assert "baseline" in made["scores out of sample"] and made["reliability"].startswith("![")
    loss = {"direction": "cross-entropy (nats a bar)", "quantiles": "pinball loss (multiples of the volatility)"}[head]
    assert metadata(result, "forecaster")[f"validation {loss}"] > 0
    for asset in ("forecasts", "embeddings"):
        refused = fold_copy.fold(asset, overrides=chosen)
        assert f"head='{head}' says no density" in fold_copy.failure(refused)


def test_a_density_is_not_for_the_table_of_predictions(fold_copy) -> None:
    refused = fold_copy.learn("train_task", "predictions", partition=FOLD)
    assert "says densities: materialize forecasts" in fold_copy.failure(refused)


def test_several_horizons_are_forecast_side_by_side(fold_copy) -> None:
    result = fold_copy.fold("forecaster", "forecasts", overrides={"horizon": [1, 5]})
    assert result.success, fold_copy.failure(result)
    rows = fold_copy.warehouse.read(FORECASTS)
    of_five = rows[rows["horizon"] == 5]
    assert set(of_five["model"]) == {"forecaster"} and (rows["horizon"] == 1).sum() > len(of_five) > 0

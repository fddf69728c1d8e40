"""Heads without a density: from a fit to rows, scores and a bundle; and every head's bundle."""

from __future__ import annotations

import json
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from atlas_pipeline.config import DENSITY_HEADS, HeadKind
from atlas_pipeline.training import fit
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.comparison import diebold_mariano
from atlas_pipeline.training.forecast import forecast
from atlas_pipeline.training.prediction_schema import PREDICTIONS
from atlas_pipeline.training.prediction_table import prediction_rows, prediction_scores, reliability_table
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import labels, window_ends

YEAR = 2003
fit_forecaster = partial(fit.fit_forecaster, features=("x", "z"))


@pytest.fixture
def learn(make_panel, small, hardware, tmp_path):
    def run(signal=0.8, **changes):
        panel, config = make_panel(signal), small(**changes)
        return panel, fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "state")

    return run


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_every_head_s_bundle_says_what_was_fitted(learn, hardware, tmp_path, kind):
    panel, trained = learn(head=kind, horizon=(1, 5), max_epochs=1)
    loaded = TrainedForecaster.load(trained.save(tmp_path / "bundle"))
    assert loaded.config == trained.config and loaded.config.horizons == (1, 5)
    assert loaded.metrics == trained.metrics and loaded.base_hash == trained.base_hash
    ends = window_ends(panel, 32, 5)[-20:]
    one, other = (forecast(panel, each, ends, hardware) for each in (trained, loaded))
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    assert len(one.densities) == (2 if kind in DENSITY_HEADS else 0)
    for a, b in zip(one.densities, other.densities, strict=True):
        np.testing.assert_array_equal(a.scale, b.scale)
        assert a.scale.shape == a.skew.shape == (20,)
    if kind in DENSITY_HEADS:
        assert one.density is one.densities[0]
        # The scale of five bars is that of one, times about the square root of five.
        assert one.densities[1].scale.mean() / one.densities[0].scale.mean() == pytest.approx(5**0.5, rel=0.3)
    else:
        np.testing.assert_array_equal(one.values, other.values)
        with pytest.raises(
            ValueError,
            match=f"head='{kind}' says .*, no density of the return",
        ):
            _ = one.density


def test_a_bundle_from_before_there_were_heads_and_horizons_loads(learn, hardware, tmp_path):
    panel, trained = learn(max_epochs=1)
    folder = trained.save(tmp_path / "bundle")
    about = json.loads((folder / "config.json").read_text())
    assert about["config"]["horizon"] == 1
    for name in ("label_smoothing", "huber_delta", "iteration_weights", "supervision_ramp"):
        del about["config"][name]
    (folder / "config.json").write_text(json.dumps(about))
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["climatology"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    ends = window_ends(panel, 32)[-5:]
    one, other = (forecast(panel, each, ends, hardware).density for each in (trained, TrainedForecaster.load(folder)))
    np.testing.assert_array_equal(one.scale, other.scale)


@pytest.mark.parametrize(
    ("kind", "score"),
    [("direction", "log_loss"), ("threshold_1pct", "log_loss"), ("quantiles", "pinball_loss"), ("regression", "mae")],
)
def test_a_planted_signal_is_learned_beyond_the_climatology(learn, hardware, kind, score):
    panel, trained = learn(head=kind, max_epochs=5)
    fold = Fold(YEAR, trained.config)
    # Rows are counted in the panel that the fit saw.
    panel = panel.before(fold.fit_end)
    split = fold.split(panel)
    ends = split.validation
    said = forecast(panel, trained, ends, hardware)
    rows = prediction_rows(str(YEAR), panel, ends, trained, said)
    assert list(rows.columns) == list(PREDICTIONS.names)
    PREDICTIONS.schema().validate(rows)
    assert (rows["head"] == kind).all() and (rows["horizon"] == 1).all()
    found = prediction_scores(rows).set_index(["symbol", "score"])
    for symbol in ("A", "B"):
        assert found.loc[(symbol, score), "value"] < 0.92 * found.loc[(symbol, score), "baseline"]
    name = trained.model.head.loss_name
    assert rows["loss"].mean() == pytest.approx(trained.metrics[f"val/{name}"], rel=1e-4)
    learned = labels(panel, split.train, 1)
    if kind == "quantiles":
        # The unit of this market is one percent.
        np.testing.assert_allclose(
            trained.metrics["climatology"], [np.quantile(learned, [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        assert found.loc[("A", "coverage_80"), "value"] == pytest.approx(0.8, abs=0.12)
    elif kind == "direction":
        rate = (learned > 0).mean()
        assert trained.metrics["climatology"][0][0] == pytest.approx(rate, abs=0.01)
        # Without skill 0.5, with a standard error of sqrt(1 / (3 * 75)) = 0.067 on 75 windows: three of them above.
        assert found.loc[("A", "auc"), "value"] > 0.7 and found.loc[("A", "auc"), "baseline"] == 0.5


def rows_of(quantity, value, outcome, baseline=0.5):
    n = len(value)
    return pd.DataFrame(
        {
            "fold": "2003",
            "symbol": "A",
            "available_at": pd.date_range("2003-01-01", periods=n, tz="UTC"),
            "horizon": 1,
            "head": "direction",
            "quantity": quantity,
            "value": value,
            "baseline": baseline,
            "outcome": outcome,
            "loss": 0.1,
            "baseline_loss": 0.2,
        }
    )


def test_scores_of_an_event_are_the_peers():
    random = np.random.default_rng(0)
    outcome = (random.random(200) < 0.4).astype(float)
    # Rounded, so that there are ties.
    said = np.round(0.3 * outcome + 0.6 * random.random(200), 1)
    found = prediction_scores(rows_of("probability", said, outcome)).set_index("score")
    u = stats.mannwhitneyu(said[outcome == 1], said[outcome == 0]).statistic
    assert found.loc["auc", "value"] == pytest.approx(u / (outcome.sum() * (1 - outcome).sum()))
    assert found.loc["brier_score", "value"] == pytest.approx(((said - outcome) ** 2).mean())
    assert found.loc["brier_score", "baseline"] == 0.25
    assert found.loc["accuracy", "value"] == ((said > 0.5) == outcome).mean()
    assert tuple(found.loc["log_loss", ["value", "baseline", "bars"]]) == pytest.approx((0.1, 0.2, 200))
    never = prediction_scores(rows_of("probability", said, np.zeros(200))).set_index("score")
    assert np.isnan(never.loc["auc", "value"])


def test_skill_and_its_test_are_of_losses():
    outcome = np.tile([0.0, 1.0, 1.0, 0.0, 1.0], 40)
    said = np.linspace(0.2, 0.8, 200)
    rows = rows_of("probability", said, outcome).assign(loss=0.1 + 0.05 * np.sin(np.arange(200.0)))
    found = prediction_scores(rows).set_index("score")
    assert found.loc["log_loss", "skill"] == pytest.approx(1 - rows["loss"].mean() / 0.2)
    assert found.loc["brier_score", "skill"] == pytest.approx(1 - ((said - outcome) ** 2).mean() / 0.25)
    assert found.loc[["accuracy", "auc"], "skill"].isna().all()
    expected = diebold_mariano((rows["loss"] - 0.2).to_numpy())
    assert expected.p_value < 1e-6 and found.loc["log_loss", "p_value"] == expected.p_value
    assert found.drop("log_loss")["p_value"].isna().all()


def test_reliability_of_probabilities_has_wilson_s_intervals_at_every_horizon():
    random = np.random.default_rng(1)
    said = random.permutation(np.linspace(0.01, 0.99, 300))
    came = (said > 0.5).astype(float)
    near, far = rows_of("probability", said, came), rows_of("probability", said, 1 - came).assign(horizon=5)
    found = reliability_table(pd.concat([near, far]))
    assert list(found["horizon"]) == [1] * 10 + [5] * 10 and (found["outcomes"] == 30).all()
    np.testing.assert_array_equal(found["observed"], [0] * 5 + [1] * 10 + [0] * 5)
    np.testing.assert_allclose(found["said"][:2], [np.sort(said)[:30].mean(), np.sort(said)[30:60].mean()])
    # Of no success in n Wilson's upper end is z² / (n + z²).
    square = stats.norm.ppf(0.975) ** 2
    assert found["low"][0] == 0 and found["high"][0] == pytest.approx(square / (30 + square))
    assert found["low"][9] == pytest.approx(30 / (30 + square)) and found["high"][9] == 1


def test_reliability_of_quantiles_and_locations():
    outcome = np.random.default_rng(2).normal(size=400)
    rows = pd.concat(
        rows_of(f"quantile_{level}", np.full(400, stats.norm.ppf(level)), outcome)
        for level in (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
    )
    found = reliability_table(rows)
    assert (found["quantity"] == "quantile").all() and len(found) == 7
    np.testing.assert_allclose(
        found["observed"], [(outcome <= stats.norm.ppf(level)).mean() for level in found["said"]]
    )
    assert ((found["low"] < found["said"]) & (found["said"] < found["high"])).all()
    located = reliability_table(rows_of("location", outcome, 2 * outcome))
    np.testing.assert_allclose(located["observed"], 2 * located["said"])
    lowest = 2 * np.sort(outcome)[:40]
    half = stats.t.ppf(0.975, 39) * lowest.std(ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(located["high"][0] - located["observed"][0], half)


@pytest.mark.parametrize(
    ("quantity", "outcome"), [("probability", [0.0, 1.0, 1.0, 1.0, 1.0]), ("location", [0.0, 1.0, 1.0, 0.5, 1.5])]
)
def test_fewer_predictions_than_tenths_are_shown(quantity, outcome):
    found = reliability_table(rows_of(quantity, np.arange(5.0) / 5, np.array(outcome)))
    assert list(found["outcomes"]) == [3, 2] and list(found["observed"]) == [2 / 3, 1]
    assert (found["low"] < found["observed"]).all()


def test_rows_of_known_values(learn, hardware):
    panel, trained = learn(head="threshold_2pct", horizon=(1, 3), max_epochs=1, policy_years=1)
    ends = window_ends(panel, 32, 3)[-4:]
    said = forecast(panel, trained, ends, hardware)
    rows = prediction_rows("2003", panel, ends, trained, said)
    assert len(rows) == 8 and not rows.duplicated(list(PREDICTIONS.key)).any()
    for j, horizon in enumerate((1, 3)):
        own = rows[rows["horizon"] == horizon]
        simple = 100 * np.expm1(labels(panel, ends, horizon) / 100)
        np.testing.assert_array_equal(own["outcome"], simple >= 2)
        p = said.values[:, j, 0]
        np.testing.assert_allclose(own["loss"], -np.log(np.where(simple >= 2, p, 1 - p)))
        rate = trained.metrics["climatology"][j][0]
        np.testing.assert_allclose(own["baseline_loss"], -np.log(np.where(simple >= 2, rate, 1 - rate)))

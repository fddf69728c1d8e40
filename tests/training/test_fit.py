from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from atlas_pipeline.config import Hardware
from atlas_pipeline.training import fit
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.checkpoint import read_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.training.forecast import forecast
from atlas_pipeline.training.loop import NonFiniteLossError
from atlas_pipeline.windows.folds import Fold, InsufficientHistoryError
from atlas_pipeline.windows.index import window_ends
from atlas_pipeline.windows.panel import PanelError
from atlas_pipeline.windows.scaler import SCALERS, ScalerLeakError

YEAR = 2003
fit_forecaster = partial(fit.fit_forecaster, features=("x", "z"))
STANDARD_NORMAL = 0.5 * math.log(2 * math.pi * math.e)


class Killed(Exception):
    """Stands for SIGKILL: nothing in the loop catches it."""


def weights(trained: TrainedForecaster) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


def test_a_planted_signal_is_learned_and_noise_is_not(make_panel, small, hardware, tmp_path):
    config = small(head="gaussian", max_epochs=6)
    losses = {}
    for signal in (0.0, 0.8):
        trained = fit_forecaster(make_panel(signal), Fold(YEAR, config), config, hardware, tmp_path / str(signal))
        losses[signal] = trained.metrics["val/nll_loss"]
    # What is attainable: log(0.6) = -0.51 nats below the entropy of a standard normal; three quarters is
    # learned.
    assert losses[0.8] < STANDARD_NORMAL + 0.75 * math.log(0.6)
    # About 150 validation windows: the mean NLL has a standard error of 0.06; noise must give no gain beyond
    # it.
    assert losses[0.0] > STANDARD_NORMAL - 0.15


@pytest.mark.parametrize("killed_at", [3, 11, 17])
def test_a_killed_fit_goes_on_bit_for_bit(make_panel, small, hardware, tmp_path, killed_at):
    panel, config = make_panel(0.5), small(dropout=0.2, max_epochs=2)
    fold = Fold(YEAR, config)
    whole = fit_forecaster(panel, fold, config, hardware, tmp_path / "whole")

    def kill(progress):
        if progress.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        fit_forecaster(panel, fold, config, hardware, tmp_path / "cut", kill, checkpoint_seconds=0)
    steps = []
    resumed = fit_forecaster(
        panel, fold, config, hardware, tmp_path / "cut", lambda p: steps.append(p.step), checkpoint_seconds=0
    )
    # The step that was killed was not saved yet, and is done again; none before it is.
    assert steps[0] == killed_at
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.base_hash == resumed.base_hash
    for one, other in zip(whole.metrics["epochs"], resumed.metrics["epochs"], strict=True):
        assert {**one, "windows_per_second": 0} == {**other, "windows_per_second": 0}


def test_a_finished_fit_is_not_done_again(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=1)
    first = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    steps = []
    again = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path, steps.append)
    assert steps == []
    assert first.base_hash == again.base_hash


def test_other_settings_or_data_start_anew(make_panel, small, hardware, tmp_path):
    for panel, config in (
        (make_panel(), small(max_epochs=1)),
        (make_panel(), small(max_epochs=1, learning_rate=1e-3)),
        (make_panel(seed=1), small(max_epochs=1)),
    ):
        fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_fit_leaves_the_callers_random_state_alone(make_panel, small, hardware, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    config = small(max_epochs=1)
    fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_what_comes_after_the_fold_s_fit_end_changes_nothing(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(0.5), small(max_epochs=1)
    fold = Fold(2002, config)
    late = np.flatnonzero(panel.available_at >= panel.before(fold.fit_end).available_at.max() + 1)
    values, prices = panel.values.copy(), panel.prices.copy()
    values[late] = 99.0
    prices[late] *= 7.0
    changed = replace(panel, values=values, prices=prices)
    config = replace(config, batch_size=16)
    one, other = (
        fit_forecaster(p, Fold(2002, config), config, hardware, tmp_path / str(i))
        for i, p in enumerate((panel, changed))
    )
    assert one.base_hash == other.base_hash


def test_metrics_come_once_an_epoch_under_the_documented_names(make_panel, small, hardware, tmp_path):
    config, seen = small(max_epochs=3), []
    trained = fit_forecaster(
        make_panel(), Fold(YEAR, config), config, hardware, tmp_path, None, lambda e, m: seen.append((e, m))
    )
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    names = {"train/nll_loss", "val/nll_loss", "val/coverage_95", "train/variance", "learning_rate"}
    assert names <= set(seen[0][1])
    assert trained.metrics["epochs"] == [values for _, values in seen]
    assert seen[-1][1]["val/coverage_95"] == pytest.approx(0.95, abs=0.06)
    assert seen[-1][1]["train/variance"] == pytest.approx(1.0, rel=0.3)
    best = trained.metrics["best_epoch"] - 1
    losses = [values["val/nll_loss"] for _, values in seen]
    assert trained.metrics["val/nll_loss"] == min(losses) == losses[best]


def test_without_gain_it_stops_early_and_keeps_the_best_weights(make_panel, small, hardware, tmp_path):
    config = small(max_epochs=30, early_stopping_patience=2, learning_rate=1e-2)
    trained = fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)
    losses = [epoch["val/nll_loss"] for epoch in trained.metrics["epochs"]]
    assert 3 <= len(losses) < 30
    assert trained.metrics["best_epoch"] == int(np.argmin(losses)) + 1


def test_too_little_history_is_refused(make_panel, small, hardware, tmp_path):
    config = small()
    with pytest.raises(InsufficientHistoryError, match="fold 2001"):
        fit_forecaster(make_panel(), Fold(2001, config), config, hardware, tmp_path)


def test_another_number_of_features_is_refused(make_panel, small, hardware, tmp_path):
    config = small(feature_size=8)
    with pytest.raises(ValueError, match=r"feature_size=8, and 2 columns are to be read, x, z: set feature_size=2"):
        fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_loss_that_is_not_finite_stops_the_fit_and_saves_nothing_bad(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=2, max_skipped_steps=0)
    # Positive, so that it ends a window, and zero in float32.
    volatility = panel.volatility.copy()
    volatility[120] = 1e-320
    poisoned = replace(panel, volatility=volatility)
    with pytest.raises(NonFiniteLossError, match=r"step \d+: loss .*Reduce learning_rate"):
        fit_forecaster(poisoned, Fold(YEAR, config), config, hardware, tmp_path, checkpoint_seconds=0)
    skipped = list(tmp_path.glob("*-skipped-*"))
    assert len(skipped) == 1
    for path in set(tmp_path.iterdir()) - set(skipped):
        tensors, _ = read_tensors(path, "")
        assert all(t.isfinite().all() for t in tensors.values())


def test_a_damaged_checkpoint_is_named_with_the_remedy(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=1)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    content = bytearray(trained.checkpoint.read_bytes())
    content[-20] ^= 1
    trained.checkpoint.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=rf"{trained.checkpoint.name} holds other .* delete it"):
        fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    trained.checkpoint.write_bytes(content[:1000])
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)


def test_a_bundle_loads_as_it_was_saved_and_supersedes_the_checkpoint(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=1)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "state")
    trained.save(tmp_path / "bundle")
    # Who keeps the bundle decides when it is safe: until then a killed process goes on from the checkpoint.
    assert trained.checkpoint.exists()
    trained.save(tmp_path / "bundle")
    loaded = TrainedForecaster.load(tmp_path / "bundle")
    assert loaded.base_hash == trained.base_hash
    assert (loaded.config, loaded.fold, loaded.symbols) == (config, YEAR, ("A", "B"))
    assert loaded.metrics == trained.metrics
    ends = window_ends(panel, 32)[-50:]
    one, other = (forecast(panel, t, ends, hardware) for t in (trained, loaded))
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "state"]


@pytest.mark.parametrize("damage", ["weights", "swapped", "missing"])
def test_a_damaged_bundle_is_named_with_the_remedy(make_panel, small, hardware, tmp_path, damage):
    panel = make_panel()
    bundles = []
    for rate in (1e-3, 2e-3):
        config = small(max_epochs=1, learning_rate=rate)
        trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "state")
        bundles.append(trained.save(tmp_path / str(rate)))
    path = bundles[0] / "weights.safetensors"
    if damage == "weights":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "swapped":
        path.write_bytes((bundles[1] / "weights.safetensors").read_bytes())
    else:
        (bundles[0] / "config.json").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"0\.001.*materialize the forecaster"):
        TrainedForecaster.load(bundles[0])


def test_forecasts_depend_on_no_later_row_and_refuse_what_is_no_window(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(0.5), small(max_epochs=1)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    ends = window_ends(panel, 32)[:300]
    whole = forecast(panel, trained, ends, hardware)
    assert whole.embeddings.shape == (300, 16)
    assert whole.embeddings.dtype == np.float32
    later = panel.values.copy()
    later[ends[-1] + 1 :] = 99
    changed = forecast(replace(panel, values=later), trained, ends, hardware)
    np.testing.assert_array_equal(whole.embeddings, changed.embeddings)
    np.testing.assert_array_equal(whole.density.scale, changed.density.scale)
    alone = forecast(panel, trained, ends[37:38], hardware)
    # Other batch shapes, other order of additions: float32 rounding.
    np.testing.assert_allclose(alone.embeddings, whole.embeddings[37:38], atol=1e-5)
    with pytest.raises(ValueError, match="1 rows, the first 5, do not end a valid window of 32 bars"):
        forecast(panel, trained, np.array([5, 40]), hardware)
    swapped = forecast(panel.select(["z", "x"]), trained, ends, hardware)
    np.testing.assert_array_equal(swapped.embeddings, whole.embeddings)
    with pytest.raises(PanelError, match=r"lacks \['x'\]"):
        forecast(replace(panel, features=("z", "y")), trained, ends, hardware)


def test_the_set_of_the_configuration_is_read_unless_columns_are_given(
    make_panel, small, hardware, tmp_path, monkeypatch
):
    monkeypatch.setattr(fit, "set_columns", {"one": ("z",)}.__getitem__)
    panel, config = make_panel(), small(features="one", feature_size=1, max_epochs=1)
    trained = fit.fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    assert trained.scaler.features == ("z",)
    # What stands in a column that is not read is of no account, missing values least of all.
    values = panel.values.copy()
    values[200:, 0] = np.nan
    other = fit.fit_forecaster(replace(panel, values=values), Fold(YEAR, config), config, hardware, tmp_path / "other")
    assert other.base_hash == trained.base_hash and other.checkpoint.name == trained.checkpoint.name
    with pytest.raises(PanelError, match=r"lacks \['z'\]"):
        fit.fit_forecaster(panel.select(["x"]), Fold(YEAR, config), config, hardware, tmp_path)


def test_an_unknown_set_of_features_names_the_known_ones(make_panel, small, hardware, tmp_path):
    config = small(features="butterflies")
    with pytest.raises(ValueError, match=r"there is no set of features 'butterflies'; .*atlas8.*relative"):
        fit.fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)


@pytest.mark.parametrize("kind", sorted(SCALERS))
def test_every_scaler_learns_serves_and_is_saved(make_panel, small, hardware, tmp_path, kind):
    panel, config = make_panel(0.8), small(head="gaussian", scaler=kind, max_epochs=4)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "state")
    # A third of what the signal is worth, log(0.6): min-max inputs are small, and four epochs few.
    assert trained.metrics["val/nll_loss"] < STANDARD_NORMAL + math.log(0.6) / 3
    shares = trained.metrics["validation_outside_training_range"]
    assert shares.keys() == {"x", "z"} and all(0 <= share < 0.02 for share in shares.values())
    trained.save(tmp_path / "bundle")
    loaded = TrainedForecaster.load(tmp_path / "bundle")
    assert type(loaded.scaler) is type(trained.scaler) and loaded.scaler.kind == kind
    ends = window_ends(panel, 32)
    one, other = (forecast(panel, each, ends, hardware) for each in (trained, loaded))
    np.testing.assert_array_equal(one.density.scale, other.density.scale)
    later = panel.values.copy()
    later[ends[100] + 1 :] = 99
    cut = forecast(replace(panel, values=later), loaded, ends[:101], hardware)
    # The batch of the hundredth window is smaller: float32 adds in another order.
    np.testing.assert_allclose(cut.density.scale, one.density.scale[:101], rtol=1e-5)


def test_a_missing_value_is_in_no_window_that_is_learned_or_forecast(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=1)
    values = panel.values.copy()
    values[200, 1] = np.nan
    broken = replace(panel, values=values)
    fold = Fold(YEAR, config)
    split = fold.split(broken)
    assert not np.isin(np.concatenate([split.train, split.validation]), np.arange(200, 232)).any()
    trained = fit_forecaster(broken, fold, config, hardware, tmp_path)
    assert trained.metrics["training_windows"] == len(split.train)
    assert torch.isfinite(weights(trained)).all()
    ends = window_ends(broken, 32)
    assert np.isfinite(forecast(broken, trained, ends, hardware).embeddings).all()
    with pytest.raises(ValueError, match="1 rows, the first 210, do not end a valid window"):
        forecast(broken, trained, np.array([210]), hardware)


def test_a_scaler_of_another_fold_is_refused(make_panel, small, hardware, tmp_path):
    config = small(max_epochs=1)
    trained = fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path / "state")
    with pytest.raises(ScalerLeakError, match="forecaster of fold 2004 is given the scaler of fold 2003: fit"):
        replace(trained, fold=2004)
    other = replace(trained, fold=2004, scaler=replace(trained.scaler, fold=2004))
    for each in (trained, other):
        each.save(tmp_path / str(each.fold))
    (tmp_path / "2004" / "scaler.safetensors").replace(tmp_path / "2003" / "scaler.safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"scaler\.safetensors: .*scaler of fold 2004.*materialize"):
        TrainedForecaster.load(tmp_path / "2003")


def test_a_scaler_of_an_unknown_kind_is_refused(make_panel, small, hardware, tmp_path, monkeypatch):
    config = small(max_epochs=1)
    trained = fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path / "state")
    monkeypatch.setattr(type(trained.scaler), "kind", "quantile")
    trained.save(tmp_path / "bundle")
    with pytest.raises(CorruptCheckpointError, match=r"no scaler of kind 'quantile', only robust, .*materialize the"):
        TrainedForecaster.load(tmp_path / "bundle")


def test_location_and_scale_are_multiples_of_the_trailing_volatility(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=1)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path)
    ends = window_ends(panel, 32)[:20]
    one = forecast(panel, trained, ends, hardware).density
    other = forecast(replace(panel, volatility=3 * panel.volatility), trained, ends, hardware).density
    np.testing.assert_allclose(other.scale, 3 * one.scale)
    np.testing.assert_allclose(other.location, 3 * one.location)
    np.testing.assert_array_equal(other.df, one.df)


def test_bfloat16_learns_what_float32_learns(make_panel, small, hardware, tmp_path):
    config = small(head="gaussian", max_epochs=4)
    losses = [
        fit_forecaster(
            make_panel(0.8), Fold(YEAR, config), config, Hardware(device="cpu", threads=1, precision=p), tmp_path / p
        ).metrics["val/nll_loss"]
        for p in ("float32", "bfloat16")
    ]
    # Three decimal digits of bfloat16 move a loss of about one by some hundredths.
    assert losses[0] == pytest.approx(losses[1], abs=0.05)

"""What the engine does beside learning: going on, giving way, skipping, feeding, reporting."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training import fit, loop
from atlas_pipeline.training.checkpoint import read_tensors
from atlas_pipeline.training.errors import NonFiniteLossError
from atlas_pipeline.training.memory import DeviceMemoryError
from atlas_pipeline.training.optimizer import make_optimizer
from atlas_pipeline.training.progress import Progress, ProgressBar
from atlas_pipeline.windows.folds import Fold

YEAR = 2003
fit_forecaster = partial(fit.fit_forecaster, features=("x", "z"))


class Killed(Exception):
    """Stands for SIGKILL: nothing in the loop catches it."""


def weights(trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


VARIANTS: dict[str, dict[str, Any]] = {
    "one_cycle": {"schedule": "one_cycle", "scale_learning_rate": True},
    "cycles": {"cycles": 2, "eval_interval": 5},
    "mixtures": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "sampling": "stratified"},
    "ensemble": {"members": 2, "recency_half_life": 2.0},
    "units": {"backbone": "residual_mlp", "members": 2, "input_units": 4, "input_dropout": 0.3},
    "statistics": {"norm": "batch", "schedule": "constant", "eval_interval": 7},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("killed_at", [4, 13])
def test_every_setting_goes_on_bit_for_bit(make_panel, small, hardware, tmp_path, changes, killed_at):
    panel, config = make_panel(0.5, rows=620), small(dropout=0.2, max_epochs=2, **changes)
    fold = Fold(YEAR - 1, config)
    hardware = replace(hardware, batch_size=12, save_interval=3)
    whole = fit_forecaster(panel, fold, config, hardware, tmp_path / "whole")
    assert whole.metrics["steps"] > killed_at

    def kill(progress):
        if progress.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        fit_forecaster(panel, fold, config, hardware, tmp_path / "cut", kill)
    steps = []
    resumed = fit_forecaster(panel, fold, config, hardware, tmp_path / "cut", lambda p: steps.append(p.step))
    assert 1 < steps[0] <= killed_at
    assert torch.equal(weights(whole), weights(resumed))
    for one, other in zip(whole.metrics["epochs"], resumed.metrics["epochs"], strict=True):
        assert {**one, "windows_per_second": 0} == {**other, "windows_per_second": 0}


def run_out(monkeypatch, largest: int, at_call: int = 0):
    """Let batches of more than so many windows be out of memory from a call on, after the forward pass."""
    calls, real = [0], loop.losses

    def losses(config, model, forward, batch, *others):
        calls[0] += 1
        result = real(config, model, forward, batch, *others)
        if calls[0] > at_call and len(batch.target) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(loop, "losses", losses)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_out_of_memory_halves_the_batch_and_changes_nothing_else(
    make_panel, small, hardware, tmp_path, monkeypatch, norm
):
    # Batch norm sees the physical batch: there the peer begins with the small one.
    panel, config = make_panel(0.5), small(dropout=0.0, norm=norm, mixup_alpha=0.4)
    peer = replace(hardware, batch_size=8) if norm == "batch" else hardware
    expected = fit_forecaster(panel, Fold(YEAR, config), config, peer, tmp_path / "enough")
    run_out(monkeypatch, 8, at_call=0 if norm == "batch" else 5)
    seen, steps = [], []
    trained = fit_forecaster(
        panel, Fold(YEAR, config), config, hardware, tmp_path / "short", seen.append, lambda _n, m: steps.append(m)
    )
    torch.testing.assert_close(weights(trained), weights(expected), rtol=1e-3, atol=1e-4)
    assert (trained.metrics["physical_batch"], trained.metrics["out_of_memory_halvings"]) == (8, 2)
    assert trained.metrics["steps"] == expected.metrics["steps"] == len(seen)
    assert (seen[-1].physical_batch, seen[-1].out_of_memory_halvings) == (8, 2)
    assert steps[-1]["out_of_memory_halvings"] == 2


def test_a_halved_batch_stays_halved_where_a_fit_goes_on(make_panel, small, hardware, tmp_path, monkeypatch):
    panel, config = make_panel(0.5), small(dropout=0.2)
    run_out(monkeypatch, 8)

    def kill(progress):
        if progress.step == 9:
            raise Killed

    whole = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "whole")
    with pytest.raises(Killed):
        fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "cut", kill, checkpoint_seconds=0)
    resumed = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "cut", checkpoint_seconds=0)
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.metrics["out_of_memory_halvings"] == 2


def test_where_one_window_does_not_fit_the_remedy_is_named(make_panel, small, hardware, tmp_path, monkeypatch):
    run_out(monkeypatch, 0)
    config = small()
    with pytest.raises(DeviceMemoryError, match=r"one window .* out of memory on cpu: use Hardware\.gradient_check"):
        fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)


def test_a_measured_batch_leaves_no_trace_and_stays_where_a_fit_goes_on(
    make_panel, small, hardware, tmp_path, monkeypatch
):
    panel, config = make_panel(0.5), small(dropout=0.2, norm="batch", max_epochs=1)

    def measured(config, compute, reserve, trial):
        trial(7)
        return 8

    fixed = fit_forecaster(panel, Fold(YEAR, config), config, replace(hardware, batch_size=8), tmp_path / "fixed")
    monkeypatch.setattr(loop, "measured_batch", measured)
    automatic = replace(hardware, batch_size="auto")
    trained = fit_forecaster(panel, Fold(YEAR, config), config, automatic, tmp_path / "auto")
    assert torch.equal(weights(trained), weights(fixed))
    monkeypatch.setattr(loop, "measured_batch", lambda *_: pytest.fail("measured again"))
    again = fit_forecaster(panel, Fold(YEAR, config), config, automatic, tmp_path / "auto")
    assert again.metrics["physical_batch"] == 8


def poison(monkeypatch, steps: set[int], where: str = "loss"):
    """Make the loss, or only its gradient, NaN in the calls of these numbers."""
    calls, real = [-1], loop.losses

    def losses(config, model, forward, batch, *others):
        calls[0] += 1
        result = real(config, model, forward, batch, *others)
        if calls[0] not in steps:
            return result
        if where == "loss":
            return result._replace(objective=result.objective * torch.nan, reported=result.reported * torch.nan)
        return result._replace(objective=result.objective * torch.inf)

    monkeypatch.setattr(loop, "losses", losses)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_touches_nothing_and_leaves_its_batch(
    make_panel, small, hardware, tmp_path, monkeypatch, where
):
    panel, config = make_panel(0.5), small(norm="batch", max_epochs=1, mixup_alpha=0.2, recency_half_life=2.0)
    poison(monkeypatch, {3}, where)
    states = {}

    def remember(progress: Progress) -> None:
        path = next(p for p in tmp_path.iterdir() if "skipped" not in p.name)
        states[progress.step], _ = read_tensors(path, "")

    hardware = replace(hardware, save_interval=1)
    trained = fit_forecaster(
        panel, Fold(YEAR, config), config, hardware, tmp_path, lambda p: p.step > 1 and remember(p)
    )
    # A state is written after the callback of its step: the fourth call sees the third's, the fifth the skipped one's.
    before, after = states[4], states[5]
    for name, tensor in before.items():
        if not name.startswith("random."):
            assert torch.equal(tensor, after[name]), name
    assert not torch.equal(after["model.head.projection.weight"], states[6]["model.head.projection.weight"])
    assert trained.metrics["skipped_steps"] == trained.metrics["epochs"][-1]["skipped_steps"] == 1
    assert trained.metrics["windows_learned"] == trained.metrics["training_windows"] - 32
    (path,) = tmp_path.glob("*-skipped-3.safetensors")
    tensors, record = read_tensors(path, "")
    assert tensors["inputs"].shape == (32, 32, 2) and tensors["mixed.share"].shape == (32,)
    assert tensors["weight"].shape == tensors["mixed.weight"].shape == (32,)
    assert record["step"] == 3 and not np.isfinite(record["gradient_norm"])


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_one_absurd_label_costs_a_step_an_epoch_and_no_more(make_panel, small, hardware, tmp_path):
    panel, config = make_panel(), small(max_epochs=2)
    volatility = panel.volatility.copy()
    volatility[120] = 1e-320
    poisoned = replace(panel, volatility=volatility)
    trained = fit_forecaster(poisoned, Fold(YEAR, config), config, hardware, tmp_path)
    assert trained.metrics["skipped_steps"] == 2
    assert weights(trained).isfinite().all() and np.isfinite(trained.metrics["val/nll_loss"])
    for path in tmp_path.glob("*-skipped-*"):
        tensors, _ = read_tensors(path, "")
        assert tensors["ends"][~tensors["target"][:, 0].isfinite()].tolist() == [120]


def test_after_so_many_skipped_steps_the_fit_stops_and_names_the_file(
    make_panel, small, hardware, tmp_path, monkeypatch
):
    config = small(max_skipped_steps=2)
    poison(monkeypatch, {1, 4, 6})
    with pytest.raises(NonFiniteLossError, match=r"step 6: loss nan.*_steps=2.*skipped-6.*Reduce learning_r"):
        fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path)
    assert len(list(tmp_path.glob("*-skipped-*"))) == 3


def test_while_a_loss_scale_is_sought_infinite_gradients_are_not_counted(
    make_loop, small, hardware, tmp_path, monkeypatch
):
    made = make_loop(small(max_epochs=1, max_skipped_steps=0), hardware, 8)
    made.compute = replace(made.compute, dtype=torch.float16)
    monkeypatch.setattr(type(made.compute), "autocast", lambda self: torch.autocast("cpu", enabled=False))
    made.gradient_scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    first = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    # Four calls make the first step, the fifth is the second.
    poison(monkeypatch, {0, 4}, "gradient")
    quiet = {"progress": lambda _: None, "metrics": lambda _n, _m: None}
    made.run(tmp_path / "sought", 1e9, **quiet)
    assert made.position.skipped_steps == 0 and made.gradient_scaler.get_scale() == 1.0
    # Both steps were skipped by the scaler.
    assert all(torch.equal(p, first[n]) for n, p in made.model.named_parameters())
    floored = make_loop(small(max_epochs=1, max_skipped_steps=0), hardware, 8)
    floored.compute = replace(floored.compute, dtype=torch.float16)
    floored.gradient_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    poison(monkeypatch, {0}, "gradient")
    with pytest.raises(NonFiniteLossError, match="gradient norm"):
        floored.run(tmp_path / "floor", 1e9, **quiet)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_rows_on_the_host_give_the_same_bits(make_panel, small, hardware, tmp_path, workers):
    panel, config = make_panel(0.5), small(dropout=0.2, cutmix_alpha=1.0, max_epochs=1)
    hardware = replace(hardware, batch_size=5)
    device, host = (
        fit_forecaster(panel, Fold(YEAR, config), config, each, tmp_path / each.data)
        for each in (replace(hardware, data="device"), replace(hardware, data="host", workers=workers))
    )
    assert (device.metrics["data"], host.metrics["data"]) == ("device", "host")
    assert device.base_hash == host.base_hash


def test_compiling_keeps_names_bits_and_resumption(make_panel, small, hardware, tmp_path, monkeypatch):
    modes, real = [], torch.compile

    def through_eager(model, mode):
        modes.append(mode)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", through_eager)
    panel, config = make_panel(0.5), small(max_epochs=1)
    plain = fit_forecaster(panel, Fold(YEAR, config), config, hardware, tmp_path / "plain")
    assert modes == []
    compiled = replace(hardware, compile="reduce-overhead")

    def kill(progress):
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit_forecaster(panel, Fold(YEAR, config), config, compiled, tmp_path, kill, checkpoint_seconds=0)
    trained = fit_forecaster(panel, Fold(YEAR, config), config, compiled, tmp_path, checkpoint_seconds=0)
    assert modes == ["reduce-overhead"] * 2 and trained.metrics["compile"] == "reduce-overhead"
    assert trained.model.state_dict().keys() == Forecaster(config).state_dict().keys()
    torch.testing.assert_close(weights(trained), weights(plain), rtol=1e-4, atol=1e-5)


def test_evaluations_and_reports_come_at_their_intervals(make_panel, small, hardware, tmp_path):
    config, evaluated, reported = small(eval_interval=4, max_epochs=2), [], []
    trained = fit_forecaster(
        make_panel(), Fold(YEAR, config), config, replace(hardware, log_interval=3), tmp_path,
        metrics=lambda number, values: evaluated.append((number, values)),
        step_metrics=lambda step, values: reported.append((step, values)),
    )  # fmt: skip
    steps = trained.metrics["steps"]
    due = sorted({*range(4, steps + 1, 4), steps})
    assert [values["step"] for _, values in evaluated] == due
    assert [number for number, _ in evaluated] == list(range(len(due)))
    assert [step for step, _ in reported] == list(range(3, steps + 1, 3))
    losses = [values["val/nll_loss"] for _, values in evaluated]
    assert trained.metrics["best_epoch"] == int(np.argmin(losses)) + 1
    names = {"step/nll_loss", "step/gradient_norm", "step/windows_per_second", "cpu/utilization", "cpu/memory_bytes"}
    assert names <= reported[0][1].keys() and reported[0][1]["cpu/memory_bytes"] > 1e7
    assert trained.metrics["tokens_learned"] == 4 * trained.metrics["windows_learned"]


def test_without_intervals_reports_come_once_an_epoch(make_panel, small, hardware, tmp_path):
    config, reported = small(max_epochs=2), []
    trained = fit_forecaster(
        make_panel(), Fold(YEAR, config), config, hardware, tmp_path, step_metrics=lambda s, _: reported.append(s)
    )
    assert reported == [trained.metrics["steps"] // 2, trained.metrics["steps"]]


def test_a_trace_of_a_few_steps_is_chrome_s(make_panel, small, hardware, tmp_path):
    config, path = small(max_epochs=1), tmp_path / "traces" / "fit.json"
    fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path, trace=path)
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert "aten::mm" in names or "aten::addmm" in names
    # The steps are numbered from 0: the third to the fifth.
    assert {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"} <= names and "ProfilerStep#5" not in names


@pytest.mark.parametrize(
    ("changes", "undecayed"),
    [
        ({}, {"positions", "bias", "weight"}),
        ({"channels": "independent"}, {"positions", "channel_weights", "bias", "weight"}),
        ({"norm": "batch"}, {"positions", "bias", "weight"}),
        ({"backbone": "mamba"}, {"log_rate", "skip", "bias", "weight"}),
        ({"backbone": "residual_mlp", "input_units": 3}, {"bias", "weight"}),
    ],
)
def test_matrices_decay_and_what_has_a_scale_of_its_own_does_not(small, changes, undecayed):
    model = Forecaster(small(weight_decay=0.5, **changes))
    decayed, others = make_optimizer(model, small(weight_decay=0.5, **changes)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in others["params"]} == undecayed
    assert all(p.ndim > 1 and names[id(p)].endswith("weight") for p in decayed["params"])
    assert all(p.ndim == 1 for p in others["params"] if names[id(p)].endswith("weight"))
    both = {names[id(p)] for p in (*decayed["params"], *others["params"])}
    assert both == {name for name, _ in model.named_parameters() if "running_" not in name}


def test_the_bar_shows_steps_and_says_what_was_given_way_to():
    from rich.console import Console

    console = Console(record=True, width=120, force_terminal=True)
    seen = Progress(0, 1, 20, 1.25, 90.0, physical_batch=64)
    with ProgressBar(console) as bar:
        for progress in (
            seen,
            replace(seen, step=2, physical_batch=32, out_of_memory_halvings=1),
            replace(seen, step=20, skipped_steps=1, out_of_memory_halvings=1, seconds_left=0),
        ):
            bar(progress)
    text = console.export_text()
    assert "step 2: out of memory, 32 windows at once" in text and "step 20: skipped" in text
    assert "20/20" in text and "NLL 1.25" in text and "0:00 left" in text

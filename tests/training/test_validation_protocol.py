"""The protocol tells executions that learn the same from one that does not."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime

import pytest

from atlas_pipeline.training import fit, validation_protocol
from atlas_pipeline.training.validation_protocol import TARGET, Outcome, compare, epochs_for, executions, run
from atlas_pipeline.windows.folds import Fold


def test_a_part_of_the_batch_learns_the_same_and_another_rate_does_not(make_panel, small, monkeypatch):
    monkeypatch.setattr(fit, "set_columns", lambda _: ("x", "z"))
    monkeypatch.setattr(validation_protocol, "FIRST_YEAR", 2002)
    monkeypatch.setattr(validation_protocol, "END", datetime(2003, 1, 1, tzinfo=UTC))
    panel, config = make_panel(0.8), small(policy_years=0, dropout=0.0, max_epochs=1, horizon=(1, 2))
    ways = executions(config)
    assert list(ways) == ["float32", "bfloat16", "a quarter of the batch at once", "three times the effective batch"]
    baseline = run(panel, config, ways["float32"], 0)
    parts = run(panel, config, ways["a quarter of the batch at once"], 0)
    assert parts.difference(baseline) < TARGET and baseline.windows_per_second > 0
    tripled = ways["three times the effective batch"]
    assert dict(tripled.changes)["batch_size"] == 96 and tripled.hardware.batch_size == 96
    wrong = dataclasses.replace(ways["float32"], changes={"learning_rate": 1e-6})
    assert run(panel, config, wrong, 0).difference(baseline) > TARGET


def test_the_larger_difference_counts():
    assert Outcome(1.0, 1.01, 0.5, 0.9).difference(Outcome(1.0, 1.0, 0.49, 0.95)) == pytest.approx(0.01 / 0.49)


def test_the_command_prints_a_verdict_an_execution_with_the_baseline_first(make_panel, small, monkeypatch, capsys):
    monkeypatch.setattr(fit, "set_columns", lambda _: ("x", "z"))
    monkeypatch.setattr(validation_protocol, "FIRST_YEAR", 2002)
    monkeypatch.setattr(validation_protocol, "END", datetime(2003, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(validation_protocol, "panel_of_bars", lambda *_: make_panel(0.8))
    monkeypatch.setattr(validation_protocol, "load_config", lambda _, **changes: small(**changes))
    monkeypatch.setattr("sys.argv", ["validation_protocol", "--seeds", "1", "--steps", "1"])
    validation_protocol.main()
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert lines[0]["execution"] == "float32" and lines[0]["difference"] == 0.0
    assert lines[0]["speed_up"] == 1.0 and lines[0]["target"] == "met"
    for line in lines:
        assert line["target"] == ("met" if line["difference"] < TARGET else "missed") and 0 < line["coverage_95"] <= 1
    assert "95% covers" in printed.err and "three times the effective batch" in printed.err


def test_executions_take_turns_after_an_epoch_that_counts_for_none(small, monkeypatch):
    calls = []

    def fake(_panel, config, execution, seed):
        calls.append((execution, config.max_epochs, seed))
        return Outcome(1.0 + seed, 1.0, 1.0, 0.95)

    monkeypatch.setattr(validation_protocol, "run", fake)
    outcomes = dict(compare(None, small(max_epochs=3), {"one": "a", "two": "b"}, [0, 1]))
    assert calls == [("a", 1, 0), ("a", 3, 0), ("b", 3, 0), ("a", 3, 1), ("b", 3, 1)]
    assert outcomes["two"].windows_per_second == 1.5


def test_steps_are_taken_in_whole_epochs(make_panel, small, monkeypatch):
    monkeypatch.setattr(validation_protocol, "FIRST_YEAR", 2002)
    panel, config = make_panel(), small(policy_years=0)
    fold = Fold(2002, config)
    an_epoch = math.ceil(len(fold.split(panel.before(fold.fit_end)).train) / config.effective_batch_size)
    assert [epochs_for(steps, panel, config) for steps in (1, an_epoch, an_epoch + 1)] == [1, 1, 2]

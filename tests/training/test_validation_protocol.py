"""The protocol tells executions that learn the same from one that does not."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from atlas_pipeline.training import fit, validation_protocol
from atlas_pipeline.training.validation_protocol import TARGET, Outcome, executions, run


def test_a_part_of_the_batch_learns_the_same_and_another_rate_does_not(make_panel, small, monkeypatch):
    monkeypatch.setattr(fit, "set_columns", lambda _: ("x", "z"))
    monkeypatch.setattr(validation_protocol, "FIRST_YEAR", 2002)
    monkeypatch.setattr(validation_protocol, "END", datetime(2003, 1, 1, tzinfo=UTC))
    panel, config = make_panel(0.8), small(policy_years=0, dropout=0.0, max_epochs=1, horizon=(1, 2))
    ways = executions(config)
    assert list(ways) == ["float32", "bfloat16", "a quarter of the batch at once", "three times the effective batch"]
    baseline = run(panel, config, ways["float32"], [0])
    parts = run(panel, config, ways["a quarter of the batch at once"], [0])
    assert parts.difference(baseline) < TARGET and baseline.windows_per_second > 0
    tripled = ways["three times the effective batch"]
    assert dict(tripled.changes)["batch_size"] == 96 and tripled.hardware.batch_size == 96
    wrong = dataclasses.replace(ways["float32"], changes={"learning_rate": 1e-6})
    assert run(panel, config, wrong, [0]).difference(baseline) > TARGET


def test_the_larger_difference_counts():
    assert Outcome(1.0, 1.01, 0.5).difference(Outcome(1.0, 1.0, 0.49)) == pytest.approx(0.01 / 0.49)

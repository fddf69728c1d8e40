"""Sensors: the adapter that is due, one at a time, and what failed, once."""

from typing import Any

import dagster as dg
import pandas as pd
import pytest

from assets.partitions import ADAPTER_STEPS
from assets.tables import RUN_FAILURES
from atlas_pipeline.adaptation.ledger import EXPERIENCE
from atlas_pipeline.automation import sensors
from resources.tracking import CHALLENGER, MODEL


def evaluate(pipeline, cursor: str | None = None) -> tuple[Any, str | None]:
    """What the sensor says, and its cursor afterwards."""
    with dg.build_sensor_context(
        instance=pipeline.instance, cursor=cursor, resources={"warehouse": pipeline.warehouse}
    ) as context:
        said = sensors.adapters_due(context)
        return said, said.cursor if isinstance(said, dg.SensorResult) else context.cursor


def requested(pipeline, cursor: str | None = None) -> dg.RunRequest:
    said, _ = evaluate(pipeline, cursor)
    assert isinstance(said, dg.SensorResult), said.skip_message
    (request,) = said.run_requests
    return request


def failed_run(pipeline, key: str, number: int, status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE) -> None:
    tags = {"dagster/partition": key}
    pipeline.instance.add_run(dg.DagsterRun(job_name="adapt", run_id=f"{key}-{number}", status=status, tags=tags))


@pytest.fixture
def every_hundred_steps(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "often.yaml").write_text("online_update_freq: 100\n")
    monkeypatch.setattr(sensors, "DEFAULT_EXPERIMENT", str(tmp_path / "often.yaml"))


def test_before_the_first_step_nothing_is_due(fold_copy) -> None:
    said, cursor = evaluate(fold_copy)
    assert said.skip_message == "0 steps traded; the next adapter is due at step 500" and cursor == "0"


def test_the_adapter_that_is_due_is_requested_and_can_be_made(traded_copy) -> None:
    said, cursor = evaluate(traded_copy)
    (request,) = said.run_requests
    (added,) = said.dynamic_partitions_requests
    assert added.partitions_def_name == ADAPTER_STEPS.name and added.partition_keys == ["000500"]
    assert request.partition_key == "000500" and request.run_key.startswith("000500:") and cursor == "0"
    assert requested(traded_copy).run_key == request.run_key, "the same state would be run twice"

    # As the daemon does: the partition first, then the run, with nothing configured.
    traded_copy.instance.add_dynamic_partitions(str(added.partitions_def_name), added.partition_keys)
    result = traded_copy.run("adapt", partition=request.partition_key)
    assert result.success, traded_copy.failure(result)
    assert traded_copy.tracking.alias(MODEL, CHALLENGER).tags["env_step"] == "500"
    said, cursor = evaluate(traded_copy, cursor)
    assert said.skip_message == "500 steps traded; the next adapter is due at step 1000" and cursor == "500"


@pytest.mark.usefixtures("every_hundred_steps")
def test_adapters_are_requested_one_after_another(traded_copy) -> None:
    """Each continues the one before. The cursor stands at the last up to which all are made."""
    made = dg.AssetMaterialization("lora_adapter", partition="000100")
    assert requested(traded_copy).partition_key == "000100"
    traded_copy.instance.report_runless_asset_event(made)
    traded_copy.instance.report_runless_asset_event(dg.AssetMaterialization("lora_adapter", partition="000300"))
    said, cursor = evaluate(traded_copy)
    assert said.run_requests[0].partition_key == "000200" and cursor == "100"
    traded_copy.instance.report_runless_asset_event(dg.AssetMaterialization("lora_adapter", partition="000200"))
    said, cursor = evaluate(traded_copy, cursor)
    assert said.run_requests[0].partition_key == "000400" and cursor == "300"


@pytest.mark.usefixtures("every_hundred_steps")
def test_the_cursor_is_a_high_water_mark(traded_copy) -> None:
    """The instance's memory may be purged; what was done is not done again."""
    said, cursor = evaluate(traded_copy, "400")
    assert said.run_requests[0].partition_key == "000500" and cursor == "400"
    said, cursor = evaluate(traded_copy, "500")
    assert "due at step 600" in said.skip_message and cursor == "500"


def test_a_failed_attempt_is_repeated_under_another_key_and_not_for_ever(traded_copy) -> None:
    keys = [requested(traded_copy).run_key]
    for attempt in range(2):
        failed_run(traded_copy, "000500", attempt)
        failed_run(traded_copy, "001000", attempt)  # another adapter's
        keys.append(requested(traded_copy).run_key)
    assert len(set(keys)) == 3
    failed_run(traded_copy, "000500", 2)
    said, _ = evaluate(traded_copy)
    assert said.skip_message.startswith("adapter 000500 failed 3 times; mend the cause")


def test_later_experience_does_not_request_the_same_adapter_twice(traded_copy) -> None:
    before = requested(traded_copy).run_key
    last = traded_copy.warehouse.read(EXPERIENCE).sort_values("env_step").tail(1)
    day = pd.Timedelta(days=1)
    traded_copy.warehouse.append(
        EXPERIENCE, last.assign(env_step=501, bar=last["bar"] + day, next_bar=last["next_bar"] + day)
    )
    assert requested(traded_copy).run_key == before


def test_an_adapter_that_is_being_made_is_not_requested(traded_copy) -> None:
    failed_run(traded_copy, "000500", 0, dg.DagsterRunStatus.CANCELED)
    assert requested(traded_copy).run_key.endswith(":1"), "a cancelled run is an attempt"
    failed_run(traded_copy, "000500", 1, dg.DagsterRunStatus.STARTED)
    said, _ = evaluate(traded_copy)
    assert said.skip_message == "adapter 000500 is being made"


def test_a_failed_read_is_an_error_and_not_an_empty_ledger(traded_copy) -> None:
    (traded_copy.home / "lake" / "catalog.sqlite").write_bytes(b"damaged" * 1000)
    with pytest.raises(Exception, match=r"(?i)database|sqlite|catalog"):
        evaluate(traded_copy)


def test_a_failed_run_is_recorded_once_with_its_cause(pipeline_at, tmp_path) -> None:
    pipeline = pipeline_at(tmp_path / "home", symbols=["SP500", "DAX"])
    result = pipeline.run("ingest", "bars", partition="1999-02")
    (failure,) = [event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE"]
    context = dg.build_run_status_sensor_context(
        "record_run_failures", failure, pipeline.instance, result.dagster_run
    ).for_run_failure()
    for _ in range(2):
        sensors.record_run_failures(context, warehouse=pipeline.warehouse)
    (row,) = pipeline.warehouse.read(RUN_FAILURES).to_dict("records")
    assert row["run_id"] == result.run_id and row["job"] == "ingest"
    assert row["partition"] == "1999-02" and row["step"] == "bars"
    assert row["error"] == "UnknownSymbolError: source 'bundled' has no symbol 'DAX'; it has: SP500, NASDAQ"

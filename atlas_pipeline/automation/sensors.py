"""Sensors: the adapter that is due, runs that failed, and declarative automation of what does not train."""

from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from assets.experiment import DEFAULT_EXPERIMENT
from assets.partitions import ADAPTER_STEPS, adapter_step_key
from assets.tables import RUN_FAILURES
from atlas_pipeline.adaptation.ledger import EXPERIENCE
from atlas_pipeline.automation.jobs import UNFINISHED, adapt
from atlas_pipeline.config import load_config
from resources.rows import content_version
from resources.warehouse import Warehouse

GIVEN_UP = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

MAXIMUM_ATTEMPTS = 3
"""A step whose run failed this often waits for a person: its next request would fail the same way."""


@dg.sensor(
    job=adapt,
    minimum_interval_seconds=30,
    description="Requests one adapter for every `online_update_freq` environment steps of the paper ledger.",
)
def adapters_due(context: dg.SensorEvaluationContext, warehouse: Warehouse) -> dg.SensorResult | dg.SkipReason:
    """Request the earliest adapter that is due and not made; one at a time, since each builds on the one before.

    The cursor is the highest step up to which every adapter is made. The run key holds the number of failed
    attempts and the experience's data version: a failed run is requested again, the same one never twice.
    """
    frequency = load_config(DEFAULT_EXPERIMENT).online_update_freq
    experience = warehouse.read(EXPERIENCE)
    steps = int(experience["env_step"].max()) if len(experience) else 0
    made = context.instance.get_materialized_partitions(dg.AssetKey("lora_adapter"))
    done = int(context.cursor or 0)
    while adapter_step_key(done + frequency) in made:
        done += frequency
    due = done + frequency
    if due > steps:
        context.update_cursor(str(done))
        return dg.SkipReason(f"{steps} steps traded; the next adapter is due at step {due}")
    key = adapter_step_key(due)
    failures = context.instance.get_runs_count(
        dg.RunsFilter(job_name=adapt.name, statuses=GIVEN_UP, tags={"dagster/partition": key})
    )
    if failures >= MAXIMUM_ATTEMPTS:
        return dg.SkipReason(
            f"adapter {key} failed {failures} times; mend the cause and materialize the partition by hand"
        )
    at_work = context.instance.get_runs_count(
        dg.RunsFilter(job_name=adapt.name, statuses=UNFINISHED, tags={"dagster/partition": key})
    )
    if at_work:
        return dg.SkipReason(f"adapter {key} is being made")
    version = content_version(EXPERIENCE, experience[experience["env_step"] <= due])
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{key}:{version}:{failures}", partition_key=key)],
        dynamic_partitions_requests=[ADAPTER_STEPS.build_add_request([key])],
        cursor=str(done),
    )


@dg.run_failure_sensor(
    description="Records every failed run with its step and error in the table run_failures.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def record_run_failures(context: dg.RunFailureSensorContext, warehouse: Warehouse) -> None:
    """Append the failed run to the warehouse, where dashboards and alerts read it."""
    steps = context.get_step_failure_events()
    warehouse.append(
        RUN_FAILURES,
        pd.DataFrame(
            {
                "run_id": [context.dagster_run.run_id],
                "job": [context.dagster_run.job_name],
                "partition": [context.dagster_run.tags.get("dagster/partition", "")],
                "step": [", ".join(event.step_key or "" for event in steps)],
                "error": ["; ".join(map(_cause, steps)) or context.failure_event.message or ""],
                "recorded_at": [datetime.now(UTC)],
            }
        ),
    )


def _cause(failed: dg.DagsterEvent) -> str:
    """What a step says went wrong: its failure's own words, or the innermost error's."""
    data = failed.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else ""


automation_conditions = dg.AutomationConditionSensorDefinition(
    "automation_conditions",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Refreshes what is cheap and stale: never what trains.",
)

SENSORS = [adapters_due, record_run_failures, automation_conditions]

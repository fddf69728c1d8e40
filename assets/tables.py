"""Tables whose rows are made by the pipeline itself, not by a room of the library."""

from __future__ import annotations

from atlas_pipeline.market.table import Column, Table

RUN_FAILURES = Table(
    name="run_failures",
    description="Every failed run, as the failure sensor saw it.",
    columns=(
        Column("run_id", "string", "Dagster's run"),
        Column("job", "string", "job of the run"),
        Column("partition", "string", "partition of the run; empty where it had none"),
        Column("step", "string", "steps that failed"),
        Column("error", "string", "the failure's message"),
        Column("recorded_at", "timestamp", "when the sensor saw it", unit="UTC"),
    ),
    key=("run_id",),
    time="recorded_at",
)

"""``make demo``: the whole way once, from bundled bars to a promoted or refused adapter, in one process.

Runs the code location's own jobs on the instance that ``make ui`` opens. What is materialized already is left as it
is, so a second call only goes on. What the stages compute lives in the assets; the closing report in ``demo_report``.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from assets.experiment import DEFAULT_EXPERIMENT
from assets.partitions import ADAPTER_STEPS, FOLDS, MONTHS, YEARS, adapter_step_key
from atlas_pipeline.config import load_config
from atlas_pipeline.definitions import DEFAULT_HOME, build_defs
from atlas_pipeline.demo_report import print_report, traded_steps
from resources.market import Market
from resources.warehouse import Warehouse

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_FOLD = "2016"
PROCESS_TAG = "atlas/process"


class StageFailed(RuntimeError):
    """A run of the demo failed; the message names the step and its error."""


def prepare(home: Path) -> None:
    """Create the state folder and put the instance's settings where Dagster reads them."""
    instance = home / "dagster"
    instance.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROJECT / "dagster.yaml", instance / "dagster.yaml")


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Fail the runs whose process was killed, and free the pool slots they would keep for ever.

    The daemon does so for the runs it launched; here nobody else would, the next run would wait for its slot without
    end, and the schedule that trades would believe that the last tick is still traded.
    """
    unfinished = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        process = run.tags.get(PROCESS_TAG)
        if process is not None and not _is_alive(process):
            instance.report_run_failed(run, f"process {process} was killed while it ran this")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _this_process() -> str:
    # Numbers of processes are used again; the time of its start tells two of them apart.
    process = psutil.Process()
    return f"{process.pid} {process.create_time()}"


def _is_alive(process: str) -> bool:
    number, created = process.split()
    try:
        return psutil.Process(int(number)).create_time() == float(created)
    except psutil.NoSuchProcess:
        return False


class Runner:
    """Runs jobs in this process, showing the step's own log lines while they work."""

    def __init__(self, instance: dg.DagsterInstance, definitions: dg.Definitions, progress: Progress) -> None:
        self.instance = instance
        self.definitions = definitions
        self.progress = progress

    def run(
        self,
        title: str,
        job: str,
        assets: tuple[str, ...],
        *,
        partition: str | None = None,
        partitions: tuple[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        """Materialize assets of a job for one partition, or for a range of them.

        Raises
        ------
        StageFailed
            Where a step failed.
        """
        # A killed run is gone on with by the next call, not by the daemon.
        tags = {PROCESS_TAG: _this_process(), "dagster/max_retries": "0"}
        if partitions is not None:
            tags |= {
                "dagster/asset_partition_range_start": partitions[0],
                "dagster/asset_partition_range_end": partitions[1],
            }
        with self._shown(title) as run_id:
            result = self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                partition_key=partition,
                tags=tags,
                run_id=run_id,
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "ops": {name: {"config": values} for name, values in (config or {}).items()},
                },
                raise_on_error=False,
            )
        if not result.success:
            errors = [
                f"{event.step_key}: {_root_cause(event)}"
                for event in result.all_events
                if event.event_type_value == "STEP_FAILURE"
            ]
            raise StageFailed(f"{title} failed\n" + "\n".join(errors))

    @contextmanager
    def _shown(self, title: str) -> Iterator[str]:
        run_id = str(uuid.uuid4())
        started = time.monotonic()
        task = self.progress.add_task(title, total=1, detail="")
        finished = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(run_id, task, finished), daemon=True)
        watcher.start()
        try:
            yield run_id
        finally:
            finished.set()
            watcher.join()
        self.progress.update(task, completed=1)
        if not self.progress.console.is_terminal:
            self.progress.console.print(f"{title}: {time.monotonic() - started:.1f} s")

    def _watch(self, run_id: str, task: Any, finished: threading.Event) -> None:
        cursor = None
        while not finished.wait(0.5):
            connection = self.instance.get_records_for_run(run_id, cursor=cursor)
            cursor = connection.cursor
            lines = [r.event_log_entry for r in connection.records if not r.event_log_entry.is_dagster_event]
            if lines:
                self.progress.update(task, detail=lines[-1].user_message)


def _root_cause(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "no error was recorded"


def _missing(instance: dg.DagsterInstance, asset: str, keys: list[str]) -> tuple[str, str] | None:
    """First and last key without a materialization, or None where there is none."""
    made = instance.get_materialized_partitions(dg.AssetKey(asset))
    missing = [key for key in keys if key not in made]
    return (missing[0], missing[-1]) if missing else None


def walk(runner: Runner, market: Market, warehouse: Warehouse, folds: list[str]) -> None:
    """Materialize every asset of the market up to the project's clock, then trade it on paper."""
    now = market.now()
    for title, job, asset, keys in (
        ("Bars: ingest and validate", "ingest", "bars", MONTHS.get_partition_keys()),
        ("Features: compute and audit", "ingest", "features", MONTHS.get_partition_keys()),
        ("Panels: what models read", "build_panels", "panel", YEARS.get_partition_keys()),
    ):
        due = [key for key in keys if key <= now.strftime("%Y-%m")]
        missing = _missing(runner.instance, asset, due)
        if missing:
            runner.run(title, job, (asset,), partitions=missing)
    for fold in folds:
        for title, asset in (
            ("pretrain the forecaster", "forecaster"),
            ("forecast out of sample", "forecasts"),
            ("embed every bar", "embeddings"),
            ("train the policy", "policy"),
            ("backtest out of sample", "backtest"),
        ):
            if _missing(runner.instance, asset, [fold]):
                runner.run(f"Fold {fold}: {title}", "train_fold", (asset,), partition=fold)
    _adapt(runner, warehouse, now.strftime("%Y-%m"))


def _adapt(runner: Runner, warehouse: Warehouse, month: str) -> None:
    """Trade on paper up to the clock, making each adapter at its step and letting the gate judge between them."""
    frequency = load_config(DEFAULT_EXPERIMENT).online_update_freq
    while True:
        before = traded_steps(warehouse)
        target = (2 * before // frequency + 1) * frequency // 2
        runner.run(
            f"Paper trading: from step {before}",
            "trade_on_paper",
            ("paper_ledger", "champion"),
            partition=month,
            config={"paper_ledger": {"until_step": target}},
        )
        after = traded_steps(warehouse)
        due = adapter_step_key(after // frequency * frequency)
        if after >= frequency and _missing(runner.instance, "lora_adapter", [due]):
            runner.instance.add_dynamic_partitions(str(ADAPTER_STEPS.name), [due])
            runner.run(
                f"Adapter {due}: LoRA on the ledger's experience", "adapt", ("lora_adapter", "champion"), partition=due
            )
        if after < target:
            return


def main() -> int:
    """Run the demo, or with ``--prepare`` only the instance's folder."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--fold", action="append", choices=FOLDS.get_partition_keys(), help="fold to train; default 2016"
    )
    parser.add_argument("--prepare", action="store_true", help="only create the instance's folder")
    arguments = parser.parse_args()
    home = Path(os.environ.setdefault("ATLAS_HOME", str(DEFAULT_HOME)))
    os.environ.setdefault("DAGSTER_HOME", str(home / "dagster"))
    prepare(home)
    if arguments.prepare:
        return 0
    console = Console(width=None if sys.stdout.isatty() else 100)
    started = time.monotonic()
    warehouse = Warehouse(home=str(home))
    market = Market(warehouse=warehouse)
    with (
        dg.DagsterInstance.get() as instance,
        Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        ) as progress,
    ):
        end_dead_runs(instance)
        try:
            walk(Runner(instance, build_defs(), progress), market, warehouse, arguments.fold or [DEFAULT_FOLD])
        except StageFailed as error:
            progress.stop()
            console.print(f"[red]{error}[/red]", highlight=False)
            return 1
    print_report(console, warehouse)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"[dim]{time.monotonic() - started:.0f} s on {os.cpu_count()} cores, peak memory {peak:.1f} GiB. "
        "Dagster: make ui, then http://127.0.0.1:3000. MLflow: make mlflow, then http://127.0.0.1:5000.[/dim]"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

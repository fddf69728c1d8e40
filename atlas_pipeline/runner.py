"""Running the code location's own jobs from the command line, on the instance that ``make ui`` opens.

Which jobs, in which order, is ``demo``'s and ``ingest``'s.
"""

from __future__ import annotations

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

from atlas_pipeline.definitions import DEFAULT_HOME, build_defs

PROJECT = Path(__file__).resolve().parent.parent
PROCESS_TAG = "atlas/process"


class StageFailed(RuntimeError):
    """A run failed; the message names the step and its error."""


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


def missing_partitions(instance: dg.DagsterInstance, asset: str, keys: list[str]) -> tuple[str, str] | None:
    """First and last key without a materialization, or None where there is none."""
    made = instance.get_materialized_partitions(dg.AssetKey(asset))
    missing = [key for key in keys if key not in made]
    return (missing[0], missing[-1]) if missing else None


def prepared_home() -> Path:
    """Prepare and return the state folder that ``ATLAS_HOME`` names, or the project's own."""
    home = Path(os.environ.setdefault("ATLAS_HOME", str(DEFAULT_HOME)))
    os.environ.setdefault("DAGSTER_HOME", str(home / "dagster"))
    prepare(home)
    return home


@contextmanager
def command(console: Console) -> Iterator[Runner]:
    """Give a runner on the state folder's instance; a stage that fails ends the process with its error.

    Raises
    ------
    SystemExit
        With code 1, where a stage failed.
    """
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
            yield Runner(instance, build_defs(), progress)
        except StageFailed as error:
            progress.stop()
            console.print(f"[red]{error}[/red]", highlight=False)
            sys.exit(1)


def cost(started: float) -> str:
    """Say what a command took since ``started`` (``time.monotonic``): time, cores, peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{time.monotonic() - started:.0f} s on {os.cpu_count()} cores, peak memory {peak:.1f} GiB"

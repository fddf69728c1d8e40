"""A real daemon on a prepared state folder: a sensor that is switched on brings its adapter about by itself."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.workspace.load_target import WorkspaceFileTarget

from atlas_pipeline.runner import prepare
from resources.tracking import CHALLENGER, MODEL, Tracking

PROJECT = Path(__file__).resolve().parents[2]
LIMIT = 180.0
"""Seconds; on an idle machine of two cores the daemon needs 20 to load, ask the sensor, launch and run."""


@contextmanager
def daemon(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon in a process group of its own, and end what is left of it."""
    environment = {
        **os.environ,
        "ATLAS_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", "workspace.yaml"]
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            # Its code server and its runs are of the same group.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def switch_on(instance: dg.DagsterInstance, sensor: str) -> None:
    """Switch a sensor of the workspace on, as its toggle in the UI does."""
    (location,) = WorkspaceFileTarget([str(PROJECT / "workspace.yaml")]).create_origins()
    origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin(sensor)
    instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData(min_interval=30))
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask twice a second; a daemon that ended, or the limit, is a failure with the end of its log."""
    timer = threading.Timer(LIMIT, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    try:
        while not condition():
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the daemon ended early:\n{log.read_text()[-4000:]}")
    finally:
        timer.cancel()


def test_the_daemon_makes_the_adapter_that_is_due(traded_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(traded_home, home)
    prepare(home)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        switch_on(instance, "adapters_due")

        def finished() -> bool:
            return any(run.is_finished for run in instance.get_runs())

        with daemon(home) as process:
            wait_for(finished, process, home / "daemon.log")
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS, (home / "daemon.log").read_text()[-4000:]
        assert run.job_name == "adapt" and run.tags["dagster/partition"] == "000500"
        assert run.tags["dagster/sensor_name"] == "adapters_due"
        assert instance.get_dynamic_partitions("adapter_steps") == ["000500"]
        assert instance.get_materialized_partitions(dg.AssetKey("lora_adapter")) == {"000500"}
    version = Tracking(home=str(home)).alias(MODEL, CHALLENGER)
    assert version is not None and version.tags["env_step"] == "500"

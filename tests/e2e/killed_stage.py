"""Runs jobs of the code location in processes of their own, and kills them where it is told to.

Started with ATLAS_MARKET set, it reads one order a line (JSON) and answers each with one line. The imports (dagster,
torch, mlflow: six seconds) and the compiled kernels are paid for once: each order is then carried out by a fork, which
runs the job on the state folder's own instance as ``make demo`` does, or ends itself by SIGKILL at the kill point. The
process that forks opens no database and starts no thread.

An order names the state folder, what ends the job (a kill point, the seconds until an alarm does it, or nothing), and
the job with the arguments of ``Runner.run``; one without a job is answered with the whole state that a stop may not
change.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
CHILD_SECONDS = 90
"""After which a child that waits for ever (for a slot that a killed run kept, say) is ended by SIGALRM."""

# What says how long something took, or where it was: the rest of a record must be the same.
MEASURED = {
    "windows_per_second",
    "step/windows_per_second",
    "cpu/utilization",
    "cpu/memory_bytes",
    "seconds",
    "peak_memory_bytes",
}


class Watched:
    """A DuckDB connection whose statements are calls of ``execute``, so that a kill point can name one."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        return self.connection.execute(statement, *values)


def watch_connections() -> None:
    """Let every lake be opened through a ``Watched`` connection."""
    from resources.ducklake import Catalog

    attach = Catalog.attach

    @contextmanager
    def watched(self: Catalog) -> Iterator[tuple[Any, str]]:
        with attach(self) as (connection, alias):
            yield Watched(connection), alias

    Catalog.attach = watched  # type: ignore[assignment, method-assign]


def described(argument: Any) -> str:
    """What a kill point's pattern is looked for in: the event's type and asset, or the argument's text."""
    event = getattr(argument, "dagster_event", None)
    if event is None:
        return " ".join(map(described, argument)) if isinstance(argument, list) else str(argument)
    asset = "" if event.asset_key is None else event.asset_key.to_user_string()
    return f"{event.event_type_value} {asset} {event.partition or ''}"


def arm(target: str, when: str, call: int = 1, argument: str = "") -> None:
    """End this process by SIGKILL before or after the n-th call with an argument that matches ``argument``.

    ``target`` is ``module:Class.function`` or ``module:function``.
    """
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function = getattr(owner, name)
    calls = 0

    @functools.wraps(function)
    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        meant = any(re.search(argument, described(each)) for each in (*arguments, *named.values()))
        calls += meant
        fatal = meant and calls == call
        if fatal and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


@functools.cache
def definitions() -> Any:
    """The code location, in full precision: bfloat16 is emulated on some processors."""
    from atlas_pipeline.definitions import build_defs
    from resources.compute import Compute

    return build_defs({"compute": Compute(precision="float32", threads=1)})


def run(home: Path, kill: dict[str, Any] | None, job: str, assets: list[str], **options: Any) -> None:
    """Run assets of a job as the command line does, on the instance in the state folder."""
    import dagster as dg
    from rich.console import Console
    from rich.progress import Progress

    from atlas_pipeline import runner

    runner.prepare(home)
    watch_connections()
    if kill is not None and "seconds" in kill:
        # Left to its default, the alarm ends the process at once, wherever it is.
        signal.setitimer(signal.ITIMER_REAL, kill["seconds"])
    elif kill is not None:
        arm(**kill)
    with dg.DagsterInstance.get() as instance, Progress(console=Console(quiet=True)) as progress:
        runner.end_dead_runs(instance)
        if options.get("partition") and job == "adapt":
            instance.add_dynamic_partitions("adapter_steps", [options["partition"]])
        runner.Runner(instance, definitions(), progress).run(job, job, tuple(assets), **options)


def describe(home: Path) -> dict[str, Any]:
    """Everything that the end state is compared by."""
    return {
        "tables": _tables(home),
        "files": _files(home),
        "registry": _registry(home),
        "tracked runs": _tracked_runs(home),
        "assets": _assets(),
    }


def _tables(home: Path) -> dict[str, Any]:
    from assets.tables import RUN_FAILURES
    from atlas_pipeline.adaptation.ledger import GATE_DECISIONS, LEDGER_TABLES
    from atlas_pipeline.features.registry import FEATURES
    from atlas_pipeline.market.bars import BAR_REVISIONS, BARS, CORPORATE_ACTIONS, QUARANTINED_BARS
    from resources.market import REPLAY_CLOCK
    from resources.warehouse import Warehouse

    tables = (BARS, QUARANTINED_BARS, CORPORATE_ACTIONS, BAR_REVISIONS, REPLAY_CLOCK, FEATURES, *LEDGER_TABLES)
    with Warehouse(home=str(home)).session() as lake:
        content = {
            table.name: {"version": lake.data_version(table), "keys that occur twice": len(lake.duplicates(table))}
            for table in (*tables, GATE_DECISIONS, RUN_FAILURES)
        }
        return {"content": content, "rows": lake.row_counts(), "snapshot": lake.snapshot()}


def _files(home: Path) -> dict[str, str]:
    """Content of panels by byte, of checkpoints by tensor; their other files by name, since they note times."""
    from safetensors.torch import load_file

    from atlas_pipeline.training.checkpoint import tensors_digest
    from resources.artifacts import digest_of_files

    found = {f"panels/{name}": digest for name, digest in digest_of_files(home / "panels").items()}
    for path in sorted((home / "checkpoints").rglob("*")):
        if path.is_file():
            weights = path.suffix == ".safetensors"
            content = tensors_digest(load_file(path)) if weights else "present"
            found[path.relative_to(home).as_posix()] = content
    return found


def _registry(home: Path) -> list[dict[str, Any]]:
    from resources.tracking import MODEL, Tracking

    return [
        {
            "version": version.version,
            "key": version.key,
            "source": version.source.relative_to(home.resolve()).as_posix()
            if version.source.is_relative_to(home.resolve())
            else version.source.as_posix().partition("/checkpoints/")[2],
            "aliases": sorted(version.aliases),
            "tags": version.tags,
        }
        for version in (Tracking(home=str(home)).versions(MODEL) if (home / "mlflow.db").exists() else [])
    ]


def _tracked_runs(home: Path) -> list[dict[str, Any]]:
    from mlflow import MlflowClient

    if not (home / "mlflow.db").exists():
        return []
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return sorted(
        (
            {
                "name": found.info.run_name,
                "status": found.info.status,
                "tags": {name: value for name, value in found.data.tags.items() if not name.startswith("mlflow.")},
                "metrics": {
                    name: [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]
                    for name in sorted(found.data.metrics.keys() - MEASURED)
                },
            }
            for found in runs
        ),
        key=lambda record: str(record["name"]),
    )


def _assets() -> dict[str, Any]:
    """Data version of every materialized partition, and every check's last result, as the UI shows them."""
    import dagster as dg
    from dagster._core.definitions.data_version import DATA_VERSION_TAG

    graph = definitions().resolve_asset_graph()
    with dg.DagsterInstance.get() as instance:
        versions: dict[str, dict[str, str]] = {}
        for key in sorted(graph.materializable_asset_keys, key=str):
            latest: dict[str, str] = {}
            events = instance.fetch_materializations(dg.AssetRecordsFilter(key), limit=5000, ascending=True).records
            for event in events:
                made = event.asset_materialization
                assert made is not None
                latest[made.partition or ""] = (made.tags or {}).get(DATA_VERSION_TAG, "")
            if latest:
                versions[key.to_user_string()] = dict(sorted(latest.items()))
        checks = {}
        for check in sorted(graph.asset_check_keys, key=str):
            records = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
            if records:
                checks[check.to_user_string()] = records[0].status.value
        unfinished = [
            run.job_name
            for run in instance.get_runs()
            if run.status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
        ]
    return {"data versions": versions, "checks": checks, "unfinished runs": unfinished}


WARM = """
    alembic.migration arch.bootstrap cryptography.fernet dagster._core.storage.sqlite_storage dotenv.main
    fsspec.implementations.local hypothesis.strategies mlflow mlflow.store.model_registry.sqlalchemy_store
    mlflow.store.tracking.sqlalchemy_store pandera.pandas pandera.backends.pandas.register peft pyarrow.dataset
    matplotlib.pyplot rich._emoji_codes torch.profiler upath watchdog.observers
    atlas_pipeline.adaptation.contest atlas_pipeline.adaptation.online_update atlas_pipeline.adaptation.paper
    atlas_pipeline.adaptation.replay_file atlas_pipeline.runner atlas_pipeline.features.causality
    atlas_pipeline.features.compute atlas_pipeline.features.coverage atlas_pipeline.market.validation
    atlas_pipeline.trading.comparison atlas_pipeline.trading.path_file atlas_pipeline.training.fit resources.lake
"""


def warm() -> None:
    """Import what the stages import, compile their kernels, and leave out what is not under test; no database."""
    for module in WARM.split():
        importlib.import_module(module)
    import dagster as dg
    import numpy as np
    import sqlalchemy.orm
    import torch

    from atlas_pipeline.adaptation import contest
    from atlas_pipeline.config import Config
    from atlas_pipeline.market.bundled import BundledSource
    from atlas_pipeline.market.calendars import sessions
    from atlas_pipeline.trading.backtest import trade_policy
    from atlas_pipeline.trading.market_path import MarketPath
    from atlas_pipeline.trading.ppo import new_policy
    from atlas_pipeline.trading.rollout import VectorEnvironment

    sqlalchemy.orm.configure_mappers()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.01 * random.standard_normal(60)))
    ones, embedding = np.ones(len(close)), random.standard_normal((len(close), 16)).astype(np.float32)
    bars = np.arange(len(close)) * 86_400_000_000
    path = MarketPath("SIM", bars, close, close, ones, embedding, 0 * ones, ones, ones, 0 * ones)
    config = Config(policy_hidden=16)
    model = new_policy(16, config)
    uniforms = random.random((8, 2))
    VectorEnvironment.of([path], config, random.random((2, 2))).rollout(model, uniforms, uniforms)
    trade_policy(model, path, config)
    # Drawing takes a third of a small run's time, and no part in what is compared.
    for room in ("market", "features", "training", "trading", "adaptation"):
        plots = importlib.import_module(f"atlas_pipeline.{room}.plots")
        for name, function in vars(plots).items():
            if getattr(function, "__module__", "") == plots.__name__ and not name.startswith("_"):
                setattr(plots, name, lambda *_: b"picture")
    # Every candidate is promoted, whatever its numbers say: that is the verdict with the most to carry out.
    judge = contest.judge
    contest.judge = lambda *results: dataclasses.replace(judge(*results), verdict="promote")
    for start in (datetime(2005, 1, 1, tzinfo=UTC), datetime(2013, 10, 1, tzinfo=UTC)):
        sessions(start, datetime(2013, 12, 31, tzinfo=UTC))
    BundledSource().bars(["SP500", "NASDAQ"], datetime(2013, 12, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC))
    # A job that does nothing, on no database, imports what every job imports.
    os.environ["ATLAS_HOME"] = "set by each order"
    with dg.DagsterInstance.ephemeral() as instance:
        nothing = dg.GraphDefinition(name="nothing", node_defs=[dg.op(name="nothing")(lambda: None)])
        nothing.execute_in_process(instance=instance, run_config=QUIET)
    for job in ("ingest", "build_panels", "train_fold", "trade_on_paper", "adapt"):
        definitions().resolve_job_def(job)


def main() -> None:
    """Carry out orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warm()
    answers.write("ready\n")
    for line in sys.stdin:
        order = json.loads(line)
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiving)
            carry_out(sending, **order)
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status), "said": said}) + "\n")


def carry_out(sending: int, home: str, kill: dict[str, Any] | None, job: dict[str, Any] | None) -> NoReturn:
    """Do one order in this process, and end it."""
    signal.alarm(CHILD_SECONDS)
    os.environ["ATLAS_HOME"] = home
    os.environ["DAGSTER_HOME"] = str(Path(home) / "dagster")
    code = 0
    with os.fdopen(sending, "w") as pipe:
        try:
            if job is not None:
                run(Path(home), kill, **job)
            else:
                pipe.write(json.dumps(describe(Path(home))))
        except BaseException:  # noqa: BLE001
            pipe.write(traceback.format_exc())
            code = 1
    os._exit(code)


if __name__ == "__main__":
    main()

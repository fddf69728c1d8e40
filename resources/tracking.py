"""The ``tracking`` resource: runs, metrics and the model registry in MLflow; weights are ``artifacts``'."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from filelock import FileLock
from pydantic import Field

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as RegistryEntry

KEY_TAG = "atlas.key"
MODEL = "atlas"
"""Name of the registered model: base, heads and adapter that trade together are one version of it."""

CHAMPION = "champion"
CHALLENGER = "challenger"
LOCK_TIMEOUT = 120.0


class ModelNotFoundError(LookupError):
    """The registry has no such model version."""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model; ``source`` is the folder of its files."""

    name: str
    version: int
    source: Path
    key: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@dataclass
class TrackedRun:
    """A run that metrics, parameters and files are logged to.

    A point whose step was logged before is dropped: a stage that was killed and goes on from its checkpoint
    comes through its last steps a second time.
    """

    run_id: str
    client: MlflowClient
    _last_steps: dict[str, int] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of one step; call it once an epoch or update, never once a batch."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: value for name, value in metrics.items() if step > self._last_step(name)}
        points = [Metric(name, float(value), now, step) for name, value in new.items()]
        self.client.log_batch(self.run_id, metrics=points)
        self._last_steps.update(dict.fromkeys(new, step))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; MLflow refuses another value for a parameter that the run has already."""
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def _last_step(self, name: str) -> int:
        if name not in self._last_steps:
            history = self.client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((point.step for point in history), default=-1)
        return self._last_steps[name]


class Tracking(dg.ConfigurableResource):
    """Runs, metrics and the model registry: MLflow on a local SQLite database, telemetry off.

    The registry's aliases `champion` and `challenger` are the one truth about what is live and what on trial.
    """

    home: str = Field(
        description="Folder that keeps all state ($ATLAS_HOME); MLflow has `mlflow.db` and `mlflow/` in it."
    )

    @property
    def uri(self) -> str:
        """URI of the tracking server and of the registry."""
        return f"sqlite:///{self._home / 'mlflow.db'}"

    @property
    def ui_command(self) -> str:
        """Shell command that opens the MLflow UI on this database."""
        return shlex.join(["mlflow", "ui", "--backend-store-uri", self.uri])

    @contextmanager
    def run(
        self, name: str, *, experiment: str, key: str, tags: Mapping[str, str] | None = None
    ) -> Iterator[TrackedRun]:
        """Open the run of this key in an experiment, the same one after a retry or a kill.

        Parameters
        ----------
        name
            Shown name.
        experiment
            Name of the experiment; made where there is none.
        key
            What the run is the run of: asset, partition and digest of configuration, data and code.
        tags
            Further tags.

        Yields
        ------
        TrackedRun
            Finished when the block ends, failed where it raises.
        """
        client = self._client()
        with self._lock():
            run_id = self._find_or_create_run(client, name, experiment, {**(tags or {}), KEY_TAG: key})
        client.update_run(run_id, status="RUNNING")
        try:
            yield TrackedRun(run_id, client)
        except BaseException:
            client.set_terminated(run_id, status="FAILED")
            raise
        client.set_terminated(run_id, status="FINISHED")

    def register(self, model_name: str, source_dir: Path, *, key: str, tags: Mapping[str, str] | None = None) -> int:
        """Register a folder as a version of the model and return its number; a known key keeps its version.

        Raises
        ------
        FileNotFoundError
            Where the folder does not exist.
        """
        source = Path(source_dir).resolve()
        if not source.is_dir():
            raise FileNotFoundError(
                f"cannot register {model_name!r} (key {key!r}): {source} is no folder; write the checkpoint first"
            )
        client = self._client()
        with self._lock():
            known = [found for found in self._entries(client, model_name) if found.tags.get(KEY_TAG) == key]
            if known:
                return min(int(found.version) for found in known)
            if not client.search_registered_models(f"name = {_quoted(model_name)}"):
                client.create_registered_model(model_name)
            version = client.create_model_version(
                model_name, str(source), tags={**(tags or {}), KEY_TAG: key}, await_creation_for=0
            )
            return int(version.version)

    def alias(self, model_name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points to, or None where there is no such alias or model."""
        client = self._client()
        models = client.search_registered_models(f"name = {_quoted(model_name)}")
        version = models[0].aliases.get(alias) if models else None
        return None if version is None else _version(client.get_model_version(model_name, str(version)))

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Let an alias point to a version, and to no other.

        Raises
        ------
        ModelNotFoundError
            Where there is no such version.
        """
        self.version(model_name, version)
        self._client().set_registered_model_alias(model_name, alias, str(version))

    def delete_alias(self, model_name: str, alias: str) -> None:
        """Remove an alias; that it is not there is no error."""
        if self.alias(model_name, alias) is not None:
            self._client().delete_registered_model_alias(model_name, alias)

    def version(self, model_name: str, version: int) -> ModelVersion:
        """Return a version by its number.

        Raises
        ------
        ModelNotFoundError
            Where there is no such version; the message names those there are.
        """
        client = self._client()
        numbers = sorted(int(found.version) for found in self._entries(client, model_name))
        if version not in numbers:
            raise ModelNotFoundError(f"{self.uri} has no version {version} of {model_name!r}; it has {numbers}")
        return _version(client.get_model_version(model_name, str(version)))

    def versions(self, model_name: str) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        client = self._client()
        numbers = sorted(int(found.version) for found in self._entries(client, model_name))
        return [_version(client.get_model_version(model_name, str(number))) for number in numbers]

    def tag_version(self, model_name: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._client().set_model_version_tag(model_name, str(version), key, value)

    def named_snapshots(self) -> set[int]:
        """Return the lake's snapshots that any registered version was made from: expiry must keep them."""
        return {int(version.tags["snapshot"]) for version in self.versions(MODEL) if "snapshot" in version.tags}

    @property
    def _home(self) -> Path:
        return Path(self.home).expanduser().resolve()

    def _lock(self) -> FileLock:
        self._home.mkdir(parents=True, exist_ok=True)
        return FileLock(self._home / "mlflow.lock", timeout=LOCK_TIMEOUT)

    def _client(self) -> MlflowClient:
        # Read by MLflow when it is imported.
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            os.environ[name] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient

        if not (self._home / "mlflow.db").exists():
            with self._lock():
                self._create_database()
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _create_database(self) -> None:
        """Make the database under another name: a kill during its migrations leaves no half-made one."""
        import sqlite3

        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        database = self._home / "mlflow.db"
        if database.exists():
            return
        unfinished = self._home / "mlflow.unfinished"
        for leftover in self._home.glob(unfinished.name + "*"):
            leftover.unlink()
        SqlAlchemyStore(f"sqlite:///{unfinished}", (self._home / "mlflow").as_uri()).engine.dispose()
        connection = sqlite3.connect(unfinished)
        # Kept in the file: readers, such as the UI, do not block a training run that logs.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        unfinished.rename(database)

    def _find_or_create_run(self, client: MlflowClient, name: str, experiment: str, tags: dict[str, str]) -> str:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            folder = self._home / "mlflow" / experiment
            experiment_id = client.create_experiment(experiment, artifact_location=folder.as_uri())
        else:
            experiment_id = found.experiment_id
        condition = f"tags.`{KEY_TAG}` = {_quoted(tags[KEY_TAG])}"
        runs = client.search_runs([experiment_id], condition, order_by=["attributes.start_time ASC"], max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)

    def _entries(self, client: MlflowClient, model_name: str) -> list[RegistryEntry]:
        return list(client.search_model_versions(f"name = {_quoted(model_name)}"))


def _quoted(text: str) -> str:
    if "'" in text:
        raise ValueError(f"{text!r} is a key or name with an apostrophe, which MLflow cannot search for: leave it out")
    return f"'{text}'"


def _version(entry: RegistryEntry) -> ModelVersion:
    tags = dict(entry.tags)
    return ModelVersion(
        name=entry.name,
        version=int(entry.version),
        source=Path(str(entry.source)),
        key=tags.get(KEY_TAG, ""),
        tags=tags,
        aliases=tuple(entry.aliases),
    )

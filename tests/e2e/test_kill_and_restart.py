"""A process may be killed at any instant: what goes on after it ends where an undisturbed run ends.

Each case is a real process that ends itself by SIGKILL at a named instant of a stage, and the same command again. The
end states are equal in every table's rows, every panel's bytes, every weight, every version, alias and tag of the
registry, every point of the tracked metrics, the data version of every partition, every check.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

EVENTS = "dagster._core.storage.event_log.sqlite.sqlite_event_log:SqliteEventLogStorage"
SQL = "__main__:Watched.execute"
REGISTRY = "mlflow:MlflowClient"
FITTING = "atlas_pipeline.training.loop:Loop"
ROLLOUT = "atlas_pipeline.trading.rollout:VectorEnvironment.rollout"


def kill(target: str, when: str, argument: str = "", call: int = 1) -> dict[str, Any]:
    return {"target": target, "when": when, "argument": argument, "call": call}


def events(asset: str) -> dict[str, dict[str, Any]]:
    """Between what the stage wrote and what Dagster knows of it."""
    made = f"ASSET_MATERIALIZATION {asset} "
    return {
        "all is written, no event": kill(f"{EVENTS}.store_event", "before", made),
        "the event is in the run's log only": kill(f"{EVENTS}._store_asset_event_tags", "before", made),
        "the event is stored, the run is open": kill(f"{EVENTS}.store_event", "after", made),
    }


def commits(table: str) -> dict[str, dict[str, Any]]:
    """Inside the stage's transaction and at its ends."""
    return {
        "the transaction has begun": kill(SQL, "after", "^BEGIN"),
        "rows are inserted": kill(SQL, "after", rf'^INSERT INTO \S+"{table}" '),
        "all is inserted": kill(SQL, "before", "COMMIT"),
        "committed": kill(SQL, "after", "COMMIT"),
    }


INSTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bars": {
        "the clock has moved": kill("resources.market:Market.advance", "after"),
        **commits("bars"),
        **events("bars"),
        "half of the months have their own event": kill(
            f"{EVENTS}.store_event", "after", "ASSET_MATERIALIZATION bars ", call=3
        ),
    },
    "features": {
        **commits("features"),
        **events("features"),
    },
    "panel": {
        "the second file has no name": kill("pathlib:Path.replace", "before", "/panels/", call=2),
        "the second file is there": kill("pathlib:Path.replace", "after", "/panels/", call=2),
        **events("panel"),
    },
    "forecaster": {
        "the first epoch is reported, not kept": kill("atlas_pipeline.training.loop:save_state", "before"),
        "a checkpoint has no name": kill("pathlib:Path.replace", "before", ".working/"),
        "a checkpoint is there": kill("pathlib:Path.replace", "after", ".working/"),
        "within the second epoch": kill(f"{FITTING}._gradients", "after", call=5),
        "written, not published": kill("resources.artifacts:_flush", "before"),
        "published": kill("resources.artifacts:Artifacts.discard_working_directory", "before"),
        "the tracked run is open": kill(f"{REGISTRY}.set_terminated", "before"),
        **events("forecaster"),
    },
    "policy": {
        "before the first checkpoint": kill(ROLLOUT, "after", call=3),
        "a checkpoint has no name": kill("pathlib:Path.replace", "before", ".working/"),
        "a checkpoint is there": kill("pathlib:Path.replace", "after", ".working/"),
        "after the first checkpoint": kill(ROLLOUT, "after", call=2),
        "published": kill("pathlib:Path.rename", "after", "/checkpoints/policy/"),
        "a registered model without a version": kill(f"{REGISTRY}.create_model_version", "before"),
        "registered, not live": kill(f"{REGISTRY}.create_model_version", "after"),
        "about to be live": kill(f"{REGISTRY}.set_registered_model_alias", "before"),
        "live": kill(f"{REGISTRY}.set_registered_model_alias", "after"),
        **events("policy"),
    },
    "paper_ledger": {
        **commits("equity"),
        "fifth bar from there: committed": kill(SQL, "after", "COMMIT", call=5),
        "all bars are committed": kill("atlas_pipeline.adaptation.plots:plot_ledger", "before"),
        **events("paper_ledger"),
    },
    "lora_adapter": {
        "the replay buffer is written, the adapter is not": kill(
            "atlas_pipeline.adaptation.lora:save_adapter", "before"
        ),
        "written, not published": kill("pathlib:Path.rename", "before", "/checkpoints/lora_adapter/"),
        "published": kill("pathlib:Path.rename", "after", "/checkpoints/lora_adapter/"),
        "logged, not registered": kill(f"{REGISTRY}.create_model_version", "before"),
        "registered, no challenger": kill(f"{REGISTRY}.create_model_version", "after"),
        "challenger": kill(f"{REGISTRY}.set_registered_model_alias", "after"),
        **events("lora_adapter"),
    },
    "champion": {
        **commits("gate_decisions"),
        "decided, the alias has not moved": kill(f"{REGISTRY}.set_registered_model_alias", "before"),
        "the alias has moved, the version has no verdict": kill(f"{REGISTRY}.set_registered_model_alias", "after"),
        "carried out": kill(f"{REGISTRY}.set_model_version_tag", "after"),
        **events("champion"),
    },
}


@pytest.mark.parametrize("stage", INSTANTS)
def test_killed_again_and_again(stage: str, stages, processes, tmp_path: Path) -> None:
    """Killed at the stage's first instant, started again and killed at the second, and so on, then left to finish."""
    prepared = stages[stage]
    home = shutil.copytree(prepared.before, tmp_path / "home")
    for instant, point in INSTANTS[stage].items():
        code, said = processes.run(home, prepared.job, point)
        assert code == -signal.SIGKILL, f"{instant!r} was not reached: {said or 'the job ended'}"
    processes.finish(home, prepared.job)
    assert processes.state(home) == processes.state(prepared.after)


def test_every_stage_is_killed_at_five_instants() -> None:
    assert all(len(instants) >= 5 for instants in INSTANTS.values())

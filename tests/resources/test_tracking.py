"""Tracking: runs and registered versions keep to their keys, aliases move, a killed stage reuses its run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.tracking import CHALLENGER, CHAMPION, KEY_TAG, ModelNotFoundError, Tracking

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    # Made once: MLflow's migrations of an empty database take seconds. A process killed during them left its half.
    home = tmp_path_factory.mktemp("home")
    (home / "mlflow.unfinished").write_bytes(b"half a database")
    return Tracking(home=str(home))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def history(tracking: Tracking, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking._client().get_metric_history(run_id, name)]


def test_run_keeps_what_is_logged(tracking: Tracking) -> None:
    with tracking.run("fold 2016", experiment="forecaster", key="a", tags={"fold": "2016"}) as run:
        run.log_params({"d_model": 256})
        run.log_metrics({"train/nll_loss": 1.5, "val/coverage_95": 0.9}, step=0)
        run.log_metrics({"train/nll_loss": 1.25}, step=1)
    kept = tracking._client().get_run(run.run_id)
    assert not (Path(tracking.home) / "mlflow.unfinished").exists()
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"d_model": "256"}
    assert kept.data.tags["fold"] == "2016"
    assert kept.data.tags[KEY_TAG] == "a"
    assert history(tracking, run.run_id, "train/nll_loss") == [(0, 1.5), (1, 1.25)]


def test_failed_run_says_so(tracking: Tracking) -> None:
    with pytest.raises(ZeroDivisionError), tracking.run("x", experiment="forecaster", key="failing") as run:
        _ = 1 / 0
    assert tracking._client().get_run(run.run_id).info.status == "FAILED"


def test_keys_separate_runs(tracking: Tracking) -> None:
    ids = []
    for experiment, key in (("one", "k1"), ("one", "k2"), ("two", "k1"), ("one", "k1")):
        with tracking.run("x", experiment=experiment, key=key) as run:
            ids.append(run.run_id)
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]
    with pytest.raises(ValueError, match="apostrophe"), tracking.run("x", experiment="one", key="it's"):
        pass


def test_killed_stage_goes_on_in_its_run(tracking: Tracking) -> None:
    script = f"""
import os, signal
from resources.tracking import Tracking
with Tracking(home={tracking.home!r}).run("x", experiment="killed", key="k") as run:
    for step in range(3):
        run.log_metrics({{"loss": 3.0 - step}}, step=step)
    print(run.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    run_id = killed.stdout.strip()
    assert tracking._client().get_run(run_id).info.status == "RUNNING"
    with tracking.run("x", experiment="killed", key="k") as run:
        # Resumed from a checkpoint before the last steps: those are gone through again, and counted once.
        for step in range(1, 5):
            run.log_metrics({"loss": 3.0 - step}, step=step)
    assert run.run_id == run_id
    assert history(tracking, run_id, "loss") == [(step, 3.0 - step) for step in range(5)]
    assert tracking._client().get_run(run_id).info.status == "FINISHED"


def test_registering_twice_is_registering_once(tracking: Tracking, source: Path) -> None:
    first = tracking.register("idempotent", source, key="a", tags={"base": "abc"})
    assert tracking.register("idempotent", source, key="b") == first + 1
    assert tracking.register("idempotent", source, key="a") == first
    version = tracking.version("idempotent", first)
    assert (version.version, version.source, version.key) == (first, source, "a")
    assert version.tags["base"] == "abc"
    assert [version.key for version in tracking.versions("idempotent")] == ["a", "b"]


def test_aliases_move(tracking: Tracking, source: Path) -> None:
    assert tracking.alias("moving", CHAMPION) is None
    first, second = (tracking.register("moving", source, key=key) for key in "ab")
    assert tracking.alias("moving", CHAMPION) is None
    tracking.set_alias("moving", "champion", first)
    tracking.set_alias("moving", "challenger", second)
    champion, challenger = tracking.alias("moving", CHAMPION), tracking.alias("moving", CHALLENGER)
    assert champion is not None and challenger is not None
    assert (champion.version, challenger.version) == (first, second)
    tracking.set_alias("moving", "champion", second)
    tracking.delete_alias("moving", "challenger")
    tracking.delete_alias("moving", "challenger")
    champion = tracking.alias("moving", CHAMPION)
    assert champion is not None and champion.version == second
    assert champion.aliases == ("champion",)
    assert tracking.alias("moving", CHALLENGER) is None
    assert tracking.version("moving", first).aliases == ()


def test_unknown_versions_are_named(tracking: Tracking, source: Path) -> None:
    tracking.register("known", source, key="a")
    with pytest.raises(ModelNotFoundError, match=r"no version 7 of 'known'; it has \[1\]"):
        tracking.set_alias("known", "champion", 7)
    with pytest.raises(ModelNotFoundError, match=r"it has \[\]"):
        tracking.version("never", 1)
    with pytest.raises(FileNotFoundError, match="write the checkpoint first"):
        tracking.register("known", source / "missing", key="b")


def test_no_telemetry_and_a_command_for_the_ui(tracking: Tracking) -> None:
    tracking._client()
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert tracking.ui_command == f"mlflow ui --backend-store-uri sqlite:///{Path(tracking.home)}/mlflow.db"


def test_import_is_light() -> None:
    script = (
        "import sys, resources.tracking, resources.warehouse, resources.artifacts\n"
        "print([name for name in ('mlflow', 'torch', 'numba', 'pandera') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

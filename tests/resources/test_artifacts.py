"""Artifacts: a checkpoint is there whole or not at all, and a changed file is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_pipeline.training.errors import CorruptCheckpointError
from resources.artifacts import MANIFEST, Artifacts, digest_of_files

ROOT = Path(__file__).resolve().parents[2]
KEY = ("forecaster", "2016", "0123456789abcdef")
PROVENANCE = {"snapshot": 7, "code_version": "1", "config": "aa"}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(home=str(tmp_path))


def publish(artifacts: Artifacts, content: bytes = b"weights") -> Path:
    with artifacts.publish(*KEY, PROVENANCE) as folder:
        (folder / "model.safetensors").write_bytes(content)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "config.json").write_text("{}")
    found = artifacts.find(*KEY)
    assert found is not None
    return found


def test_published_checkpoint_is_found(artifacts: Artifacts, tmp_path: Path) -> None:
    assert artifacts.find(*KEY) is None
    folder = publish(artifacts)
    assert folder == artifacts.directory(*KEY) == tmp_path.joinpath("checkpoints", *KEY)
    assert artifacts.verify(folder) == folder
    assert artifacts.provenance(folder) == PROVENANCE
    assert list(digest_of_files(folder)) == ["adapter/config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [KEY[2]]
    assert artifacts.panel_path(2016) == tmp_path / "panels" / "2016.safetensors"


def test_first_publication_is_kept(artifacts: Artifacts) -> None:
    publish(artifacts)
    folder = publish(artifacts, b"other weights")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in folder.parent.iterdir()] == [KEY[2]]


def test_a_discarded_checkpoint_is_never_found_in_part(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(artifacts)
    assert artifacts.kept(KEY[0]) == [folder]
    with monkeypatch.context() as killed:
        killed.setattr("resources.artifacts.shutil.rmtree", lambda *_, **__: None)
        artifacts.discard(folder)
    assert artifacts.find(*KEY) is None and artifacts.kept(KEY[0]) == []
    artifacts.discard(folder)
    assert artifacts.find(*KEY) is None


def test_exception_publishes_nothing(artifacts: Artifacts) -> None:
    with pytest.raises(ZeroDivisionError), artifacts.publish(*KEY, PROVENANCE) as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        _ = 1 / 0
    assert artifacts.find(*KEY) is None
    assert not any(folder.parent.iterdir())


def test_unwritable_provenance_publishes_nothing(artifacts: Artifacts) -> None:
    with pytest.raises(TypeError), artifacts.publish(*KEY, {"object": object()}):
        pass
    assert artifacts.find(*KEY) is None


@pytest.mark.parametrize(
    ("instant", "published"),
    [("write_text", False), ("chmod", False), ("before rename", False), ("after rename", True)],
)
def test_kill_between_write_and_rename(artifacts: Artifacts, instant: str, published: bool) -> None:
    script = f"""
import os, signal
from pathlib import Path
from resources.artifacts import Artifacts
when, _, name = {instant!r}.rpartition(" ")
method = getattr(Path, name)
def killed(*arguments, **keywords):
    if when == "after":
        method(*arguments, **keywords)
    os.kill(os.getpid(), signal.SIGKILL)
with Artifacts(home={artifacts.home!r}).publish(*{KEY!r}, {PROVENANCE!r}) as folder:
    (folder / "model.safetensors").write_bytes(b"weights")
    setattr(Path, name, killed)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert (artifacts.find(*KEY) is not None) == published
    folder = publish(artifacts)
    artifacts.verify(folder)
    assert (folder / "adapter").exists() != published
    assert [path.name for path in folder.parent.iterdir()] == [KEY[2]]


@pytest.mark.parametrize("state", ["changed", "missing", "new"])
def test_corrupt_file_is_named(artifacts: Artifacts, state: str) -> None:
    folder = publish(artifacts)
    path = folder / ("more.bin" if state == "new" else "model.safetensors")
    if state == "missing":
        path.unlink()
    else:
        path.write_bytes(b"wEights")
    with pytest.raises(CorruptCheckpointError, match=rf"{path.name} is {state} .*: remove the folder .* again"):
        artifacts.verify(folder)


def test_corrupt_manifest_is_named(artifacts: Artifacts) -> None:
    folder = publish(artifacts)
    for content, message in (("{", "is not JSON"), ("[]", "has no provenance")):
        (folder / MANIFEST).write_text(content)
        with pytest.raises(CorruptCheckpointError, match=message):
            artifacts.verify(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(CorruptCheckpointError, match=f"{MANIFEST} is missing"):
        artifacts.provenance(folder)


def test_manifest_lists_every_file(artifacts: Artifacts) -> None:
    folder = publish(artifacts)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"] == digest_of_files(folder)
    assert manifest["files"]["adapter/config.json"].startswith("44136fa355b3678a")  # SHA-256 of "{}"


@pytest.mark.parametrize("part", ["", "..", "a/b", ".hidden"])
def test_keys_stay_in_the_folder(artifacts: Artifacts, part: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        artifacts.directory("forecaster", part, "0")


def test_resumable_state_is_no_checkpoint(artifacts: Artifacts) -> None:
    folder = artifacts.working_directory(*KEY)
    (folder / "state.bin").write_bytes(b"epoch 3")
    assert artifacts.find(*KEY) is None
    publish(artifacts)
    assert (artifacts.working_directory(*KEY) / "state.bin").read_bytes() == b"epoch 3"

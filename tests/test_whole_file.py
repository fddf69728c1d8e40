"""A file appears whole or not at all, and what killed writers left is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_pipeline.whole_file import whole_file


def written(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def test_an_exception_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.json"
    written(path, "first")
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_text("half of the sec")
        raise KeyError
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file.json", "first")]


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".file.json.{dead.pid}", f".file.json.{os.getppid()}", ".file.json.backup", f".other.{dead.pid}"):
        (tmp_path / name).touch()
    written(tmp_path / "file.json", "content")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"file.json", f".file.json.{os.getppid()}", ".file.json.backup", f".other.{dead.pid}"}

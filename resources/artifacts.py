"""The ``artifacts`` resource: where checkpoints and panels lie, and how a folder is published in one step.

What is in a folder is the business of the room that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.whole_file import flush, process_lives

MANIFEST = "manifest.json"


class Artifacts(dg.ConfigurableResource):
    """Checkpoints and panels as files, each published in one step and checked by its SHA-256.

    A checkpoint's folder is keyed by asset, partition and digest of configuration and data, never by a run, so
    that a retry finds what an earlier attempt finished.
    """

    home: str = Field(
        description="Folder that keeps all state ($ATLAS_HOME); files are in its `checkpoints/` and `panels/`."
    )

    def directory(self, asset: str, partition: str, digest: str) -> Path:
        """Return the folder of a checkpoint, whether it exists or not.

        Raises
        ------
        ValueError
            Where a part of the key cannot be the name of a folder.
        """
        return self._home.joinpath("checkpoints", *map(_folder_name, (asset, partition, digest)))

    def working_directory(self, asset: str, partition: str, digest: str) -> Path:
        """Make and return the folder for resumable state of a stage that is under way.

        It survives kills, is nobody's checkpoint, and is to be discarded once the checkpoint is published.
        """
        folder = self._working(asset, partition, digest)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_working_directory(self, asset: str, partition: str, digest: str) -> None:
        """Remove the resumable state of a checkpoint that is published; that there is none is no error."""
        shutil.rmtree(self._working(asset, partition, digest), ignore_errors=True)

    def find(self, asset: str, partition: str, digest: str) -> Path | None:
        """Return the folder of a published checkpoint, or None where there is none yet."""
        folder = self.directory(asset, partition, digest)
        return folder if folder.is_dir() else None

    def kept(self, asset: str) -> list[Path]:
        """Return the folders of all published checkpoints of an asset, sorted by partition and digest."""
        folders = (path.parent for path in (self._home / "checkpoints" / asset).glob(f"*/*/{MANIFEST}"))
        return sorted(folder for folder in folders if ".unfinished." not in folder.name)

    def discard(self, folder: Path) -> None:
        """Remove a published checkpoint: at no time is a part of it found. That it is gone already is no error."""
        parts = folder.with_name(f"{folder.name}.unfinished.{os.getpid()}.discarded")
        with suppress(FileNotFoundError):
            folder.rename(parts)
        shutil.rmtree(parts, ignore_errors=True)

    def named_snapshots(self) -> set[int]:
        """Return the lake's snapshots that any kept checkpoint was made from: expiry must keep them."""
        manifests = (self._home / "checkpoints").glob(f"*/*/*/{MANIFEST}")
        provenances = [self.provenance(manifest.parent) for manifest in manifests]
        return {int(provenance["snapshot"]) for provenance in provenances if "snapshot" in provenance}

    def relative(self, path: Path) -> str:
        """Return a path as the registry stores it: relative to ``home``, so that the state's folder can be moved."""
        return path.resolve().relative_to(self._home).as_posix()

    def absolute(self, relative: str) -> Path:
        """Return the path that ``relative`` described."""
        return self._home / relative

    def panel_path(self, year: int) -> Path:
        """Return the file of one year's panel, whether it exists or not."""
        return self._home / "panels" / f"{year}.safetensors"

    @contextmanager
    def publish(self, asset: str, partition: str, digest: str, provenance: Mapping[str, Any]) -> Iterator[Path]:
        """Give a folder to write to; publish it whole when the block ends, and not at all after an exception.

        The files are flushed to the disk, then the folder gets its name in one step. Where the checkpoint is
        there already, it is kept and what was written is thrown away.

        Parameters
        ----------
        asset, partition, digest
            Key of the checkpoint.
        provenance
            What made it, serializable as JSON: snapshot, code version, configuration hash, keys of what it is
            built on. It stands in the manifest, beside the SHA-256 of every file.

        Yields
        ------
        Path
            An empty folder beside the final one.
        """
        final = self.directory(asset, partition, digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in final.parent.glob(f"*{final.name}.unfinished.*"):
            _remove_if_abandoned(abandoned)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{final.name}.unfinished.{os.getpid()}.", dir=final.parent))
        try:
            yield unfinished
            manifest = {"provenance": dict(provenance), "files": digest_of_files(unfinished)}
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
            _flush(unfinished)
            unfinished.chmod(0o755)
            try:
                unfinished.rename(final)
            except OSError:
                # A folder with files in it is not replaced: another attempt has published this checkpoint.
                if not final.is_dir():
                    raise
            flush(final.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def provenance(self, folder: Path) -> dict[str, Any]:
        """Return what made a published checkpoint.

        Raises
        ------
        CorruptCheckpointError
            Where the manifest is missing or unreadable.
        """
        return dict(_manifest(folder)["provenance"])

    def verify(self, folder: Path) -> Path:
        """Return ``folder`` if its files are exactly those that were published.

        Raises
        ------
        CorruptCheckpointError
            Naming the first file that is missing, changed or too many, and the remedy.
        """
        published = _manifest(folder)["files"]
        present = digest_of_files(folder)
        for name in sorted(published | present):
            if published.get(name) != present.get(name):
                state = "missing" if name not in present else "new" if name not in published else "changed"
                raise _corrupt(folder, name, f"is {state} since it was published")
        return folder

    def _working(self, asset: str, partition: str, digest: str) -> Path:
        final = self.directory(asset, partition, digest)
        return final.with_name(f"{final.name}.working")

    @property
    def _home(self) -> Path:
        return Path(self.home).expanduser().resolve()


def digest_of_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder but its manifest, by relative path, sorted."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise _corrupt(folder, MANIFEST, "is missing") from error
    except ValueError as error:
        raise _corrupt(folder, MANIFEST, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not {"provenance", "files"} <= manifest.keys():
        raise _corrupt(folder, MANIFEST, "has no provenance or no list of files")
    return manifest


def _corrupt(folder: Path, name: str, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{folder / name} {what}: remove the folder {folder} and materialize its asset and partition again"
    )


def _folder_name(part: str) -> str:
    if not part or part.startswith(".") or any(character in part for character in "/\\\0"):
        raise ValueError(f"{part!r} cannot be the name of a folder: use letters, digits, '-', '_' and '='")
    return part


def _remove_if_abandoned(folder: Path) -> None:
    """Remove what a killed process left; a folder whose process lives is being written to."""
    # The number follows the word; a room that wrote its folder beside this one added to the name.
    if not process_lives(int(folder.name.partition(".unfinished.")[2].partition(".")[0])):
        shutil.rmtree(folder, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)

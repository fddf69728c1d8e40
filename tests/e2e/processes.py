"""Orders to the process that forks the jobs to kill (``killed_stage``), and its answers."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Job:
    """What is run, with the arguments of the command line's ``Runner.run``."""

    job: str
    assets: list[str]
    partition: str | None = None
    partitions: tuple[str, str] | None = None
    config: dict[str, Any] | None = None


class Processes:
    """Starts a process for each order, and says how it ended."""

    def __init__(self, folder: Path, settings: str) -> None:
        market = folder / "market.yaml"
        market.write_text(settings)
        environment = {**os.environ, "ATLAS_MARKET": str(market), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_stage.py"))],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, home: Path, job: Job, kill: dict[str, Any] | None = None) -> tuple[int, str]:
        """Run a job to its end, or to the kill point; return the exit code (negative: the signal) and its error."""
        answer = self._order(home=str(home), job=asdict(job), kill=kill)
        return answer["code"], answer["said"]

    def finish(self, home: Path, job: Job) -> None:
        """Run a job that has to succeed."""
        code, error = self.run(home, job)
        assert code == 0, error

    def state(self, home: Path) -> dict[str, Any]:
        """Return everything that a stop may not change."""
        answer = self._order(home=str(home), job=None, kill=None)
        assert answer["code"] == 0, answer["said"]
        return json.loads(answer["said"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(ANSWER_SECONDS)

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            assert ready.select(ANSWER_SECONDS), "the process that forks gave no answer"
        line = self.process.stdout.readline()
        assert line, "the process that forks has ended: its error is above"
        return line

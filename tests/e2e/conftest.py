"""One process that forks the jobs to kill, and for each stage the state folder before it and the state after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Job, Processes

MARKET = """\
source: bundled
symbols: [SP500, NASDAQ]
first_month: 2005-01
last_month: 2013-12
replay_start: 2013-11-15T21:00:00Z
"""
FOLD = "2013"
MONTHS = ("2013-11", "2013-12")
"""The first is begun when the clock starts, the second is not."""

TINY: dict[str, Any] = {
    "backbone": "patchtst",
    "members": 1,
    "seq_length": 64,
    "patch_length": 16,
    "stride": 16,
    "d_model": 16,
    "n_heads": 2,
    "n_layers": 1,
    "ff_dim": 32,
    "batch_size": 128,
    "max_epochs": 2,
    "policy_years": 1,
    "ppo_steps": 4096,
    "ppo_environments": 8,
    "ppo_rollout": 64,
    "ppo_minibatch": 512,
    "policy_hidden": 16,
    "online_update_freq": 60,
    "online_batch_size": 32,
    "gate_minimum_steps": 40,
}


def learned(job: str, *assets: str, partition: str | None = None, **config: Any) -> Job:
    """Run assets with the tiny experiment, and whatever else their configuration says."""
    return Job(job, list(assets), partition, config={asset: {"overrides": TINY, **config} for asset in assets})


STAGES: dict[str, Job] = {
    "bars": Job(
        "ingest",
        ["bars"],
        partitions=MONTHS,
        config={"bars": {"advance_clock_to": "2013-12-31T21:00:00+00:00"}},
    ),
    "features": Job("ingest", ["features"], partitions=MONTHS),
    "panel": Job("build_panels", ["panel"], partitions=("2012", "2013")),
    "forecaster": learned("train_fold", "forecaster", partition=FOLD),
    "embeddings": learned("train_fold", "embeddings", partition=FOLD),
    "policy": learned("train_fold", "policy", partition=FOLD),
    "first steps": learned("trade_on_paper", "paper_ledger", partition=MONTHS[1], until_step=30),
    "paper_ledger": learned("trade_on_paper", "paper_ledger", partition=MONTHS[1], until_step=60),
    "lora_adapter": learned("adapt", "lora_adapter", partition="000060"),
    "further steps": learned("trade_on_paper", "paper_ledger", partition=MONTHS[1], until_step=110),
    "champion": learned("trade_on_paper", "champion", partition=MONTHS[1]),
}
"""In their order: each begins where the one before it ended."""

HISTORY = [
    Job("ingest", ["bars"], partitions=("2005-01", MONTHS[0])),
    Job("ingest", ["features"], partitions=("2005-01", MONTHS[0])),
    Job("build_panels", ["panel"], partitions=("2005", "2013")),
]


@dataclass(frozen=True)
class Prepared:
    """The state before a stage, and after its undisturbed run; the folders are to be copied, not changed."""

    job: Job
    before: Path
    after: Path


class Stages:
    """Runs the stages one after another, undisturbed, as far as a test asks for them."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.prepared: dict[str, Prepared] = {}

    def __getitem__(self, stage: str) -> Prepared:
        for name, job in STAGES.items():
            if stage in self.prepared:
                break
            if name not in self.prepared:
                self.prepared[name] = self._run(name, job)
        return self.prepared[stage]

    def _run(self, name: str, job: Job) -> Prepared:
        if not self.prepared:
            before = self.folder / "history"
            for step in HISTORY:
                self.processes.finish(before, step)
        else:
            before = list(self.prepared.values())[-1].after
        after = shutil.copytree(before, self.folder / name)
        self.processes.finish(after, job)
        return Prepared(job, before, after)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("processes"), MARKET)
    yield started
    started.close()


@pytest.fixture(scope="session")
def stages(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(processes, tmp_path_factory.mktemp("stages"))

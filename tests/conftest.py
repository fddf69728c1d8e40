"""Prepared state folders that several rooms share: real bars, a tiny model, each stage made once a session.

A test that changes anything works on a copy. Heavy imports stand inside, for the rooms that need none of this.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd

    from atlas_pipeline.trading.market_path import MarketPath
    from resources.artifacts import Artifacts
    from resources.market import Market
    from resources.tracking import Tracking
    from resources.warehouse import Warehouse

FOLD = "2007"
"""The first fold there is: with one policy year its forecaster is fitted on 1999 to 2005."""

MONTHS = ("1999-01", "2007-12")
YEARS = ("1999", "2007")
CLOCK = "2007-12-31T21:00:00+00:00"

TINY: dict[str, Any] = {
    "features": "relative",
    "validation_fraction": 0.15,
    "seq_length": 64,
    "patch_length": 16,
    "stride": 16,
    "d_model": 16,
    "n_heads": 2,
    "n_layers": 1,
    "ff_dim": 32,
    "max_epochs": 1,
    "policy_years": 1,
    "ppo_steps": 4096,
    "ppo_environments": 8,
    "ppo_rollout": 64,
    "ppo_minibatch": 512,
    "policy_hidden": 16,
    "online_update_freq": 100,
    "online_batch_size": 32,
    "gate_minimum_steps": 40,
}
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass
class Pipeline:
    """The code location on one state folder and one ephemeral instance."""

    home: Path
    instance: dg.DagsterInstance
    market_settings: dict[str, Any]

    @property
    def warehouse(self) -> Warehouse:
        from resources.warehouse import Warehouse

        return Warehouse(home=str(self.home))

    @property
    def market(self) -> Market:
        from resources.market import Market

        return Market(warehouse=self.warehouse, **self.market_settings)

    @property
    def tracking(self) -> Tracking:
        from resources.tracking import Tracking

        return Tracking(home=str(self.home))

    @property
    def artifacts(self) -> Artifacts:
        from resources.artifacts import Artifacts

        return Artifacts(home=str(self.home))

    @property
    def resources(self) -> dict[str, Any]:
        from resources.compute import Compute

        return {
            "warehouse": self.warehouse,
            "market": self.market,
            "compute": Compute(precision="float32", threads=1),
            "tracking": self.tracking,
            "artifacts": self.artifacts,
        }

    def run(
        self,
        job: str,
        *assets: str,
        partition: str | None = None,
        partitions: tuple[str, str] | None = None,
        config: dict[str, dict[str, Any]] | None = None,
        tags: dict[str, str] | None = None,
        checks: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Run assets of a job, or the whole job, and their checks on request; what failed is in the result."""
        import dagster as dg

        from atlas_pipeline.definitions import build_defs

        ranged = {} if partitions is None else dict(zip(RANGE_TAGS, partitions, strict=True))
        chosen = build_defs(self.resources).resolve_job_def(job)
        keys = {dg.AssetKey(asset) for asset in assets} or set(chosen.asset_layer.executable_asset_keys)
        if keys:
            left_out = {} if checks else {"asset_check_selection": frozenset()}
            chosen = chosen.get_subset(asset_selection=frozenset(keys), **left_out)
        return chosen.execute_in_process(
            instance=self.instance,
            partition_key=partition,
            tags={**ranged, **(tags or {})},
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {name: {"config": values} for name, values in (config or {}).items()},
            },
            raise_on_error=False,
        )

    def learn(
        self, job: str, *assets: str, overrides: dict[str, Any] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Run assets of a job with the tiny experiment; ``until_step`` is the paper ledger's."""
        own = {"paper_ledger": {"until_step": options.pop("until_step", None)}}
        config = {asset: {"overrides": {**TINY, **(overrides or {})}, **own.get(asset, {})} for asset in assets}
        return self.run(job, *assets, config=config, **options)

    def fold(self, *assets: str, **options: Any) -> dg.ExecuteInProcessResult:
        """Run assets of the fold with the tiny experiment."""
        return self.learn("train_fold", *assets, **{"partition": FOLD, **options})

    def counts(self) -> dict[str, int]:
        """Number of rows of each table."""
        return self.warehouse.row_counts()

    def adapt(self, step: int, *assets: str, **options: Any) -> dg.ExecuteInProcessResult:
        """Make the adapter of an environment step."""
        key = f"{step:06d}"
        self.instance.add_dynamic_partitions("adapter_steps", [key])
        return self.learn("adapt", *(assets or ("lora_adapter",)), partition=key, **options)

    def trade(self, until_step: int, *assets: str, **options: Any) -> dg.ExecuteInProcessResult:
        """Trade on paper up to an environment step."""
        chosen = assets or ("paper_ledger",)
        return self.learn("trade_on_paper", *chosen, until_step=until_step, partition=MONTHS[1], **options)

    @staticmethod
    def failure(result: dg.ExecuteInProcessResult) -> str:
        """What the one failed step says; it must have failed at its first attempt."""
        events = [(str(event.event_type_value), event) for event in result.all_events]
        assert "STEP_UP_FOR_RETRY" not in [kind for kind, _ in events]
        (failed,) = [event for kind, event in events if kind == "STEP_FAILURE"]
        return str(failed.step_failure_data.error.message)

    @staticmethod
    def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
        """Verdict of every check that ran."""
        return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


@pytest.fixture(scope="session")
def make_actions() -> Callable[..., pd.DataFrame]:
    """Corporate actions from symbol, ex-date, kind and value, known six hours before a daily bar of 21:00 UTC."""

    def make(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
        import pandas as pd

        from atlas_pipeline.market.bars import CORPORATE_ACTIONS, empty
        from atlas_pipeline.market.quarantine import conform

        if not rows:
            return empty(CORPORATE_ACTIONS)
        frame = pd.DataFrame(rows, columns=["symbol", "session", "kind", "value"])
        frame["session"] = pd.to_datetime(frame["session"])
        frame["available_at"] = (frame["session"] + pd.Timedelta(hours=15)).dt.tz_localize("UTC")
        return conform(frame, CORPORATE_ACTIONS)

    return make


@pytest.fixture(scope="session")
def as_traded() -> Callable[[MarketPath, dict[int, float], dict[int, float]], MarketPath]:
    """A path as it would trade through splits and dividends, by bar: prices fall by the splits, cash comes on top."""

    def trade(path: MarketPath, splits: dict[int, float], dividends: dict[int, float]) -> MarketPath:
        import dataclasses

        import numpy as np

        split, dividend = np.ones(len(path)), np.zeros(len(path))
        split[list(splits)], dividend[list(dividends)] = list(splits.values()), list(dividends.values())
        shares = np.cumprod(split)
        return dataclasses.replace(
            path, open=path.open / shares, close=path.close / shares, split=split, dividend=dividend
        )

    return trade


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def pipeline_at(instance: dg.DagsterInstance) -> Callable[..., Pipeline]:
    """The code location on a folder, which may be empty; settings of the market on request."""

    def make(home: Path, **market_settings: Any) -> Pipeline:
        return Pipeline(home, instance, {"replay_start": CLOCK, **market_settings})

    return make


Prepared = Callable[[str, Path | None, Callable[[Pipeline], None]], Path]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Make a state folder once, whichever worker comes first, from a copy of the one before it."""

    def make(name: str, before: Path | None, fill: Callable[[Pipeline], None]) -> Path:
        import dagster as dg
        from filelock import FileLock

        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        home, unfinished = shared / name, shared / f"{name}.unfinished"
        with FileLock(shared / f"{name}.lock"):
            if not home.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                if before is None:
                    unfinished.mkdir()
                else:
                    shutil.copytree(before, unfinished)
                with dg.DagsterInstance.ephemeral() as instance:
                    fill(Pipeline(unfinished, instance, {"replay_start": CLOCK}))
                unfinished.rename(home)
        return home

    return make


@pytest.fixture(scope="session")
def market_home(prepared: Prepared) -> Path:
    """Bars, features and panels of 1999 to 2007, the clock at the last close of 2007."""

    def fill(pipeline: Pipeline) -> None:
        assert pipeline.run("ingest", "bars", partitions=MONTHS).success
        assert pipeline.run("ingest", "features", partitions=MONTHS).success
        assert pipeline.run("build_panels", "panel", partitions=YEARS).success

    return prepared("market", None, fill)


@pytest.fixture(scope="session")
def fold_home(prepared: Prepared, market_home: Path) -> Path:
    """Beside that, the tiny forecaster, its policy and their registered base, which is live."""

    def fill(pipeline: Pipeline) -> None:
        assert pipeline.fold("forecaster", "forecasts", "embeddings", "policy", "backtest").success

    return prepared("fold", market_home, fill)


@pytest.fixture(scope="session")
def traded_home(prepared: Prepared, fold_home: Path) -> Path:
    """Beside that, the base's paper trading of the whole of 2007, 500 environment steps, committed at once."""

    def fill(pipeline: Pipeline) -> None:
        from datetime import UTC, datetime, timedelta

        from assets.loading import model_rows
        from assets.paper import LEDGER
        from assets.serving import champion_version, load_version
        from atlas_pipeline.adaptation.ledger import LEDGER_TABLES
        from atlas_pipeline.adaptation.paper import LedgerRows, LedgerState, trade
        from atlas_pipeline.config import Config
        from atlas_pipeline.market.instants import EPOCH

        config = Config(**TINY)
        live = load_version(champion_version(pipeline.tracking), pipeline.artifacts)
        end = datetime.fromisoformat(CLOCK) + timedelta(microseconds=1)
        with pipeline.warehouse.session() as lake:
            rows = model_rows(lake, EPOCH, end, live.features)
            paths = live.market_paths(
                rows, datetime(2007, 1, 1, tzinfo=UTC), end, pipeline.resources["compute"].hardware()
            )
            made = LedgerRows()
            for _, bar in trade(LedgerState(LEDGER), paths, live, config, config.seed):
                made.extend(bar)
            with lake.transaction() as transaction:
                for table in LEDGER_TABLES:
                    transaction.append(table, made.frames()[table.name])

    return prepared("traded", fold_home, fill)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: a third of a small run's time. The prepared folders were made with every picture."""
    for room in ("market", "features", "training", "trading", "adaptation"):
        module = importlib.import_module(f"atlas_pipeline.{room}.plots")
        for name, function in vars(module).items():
            if not name.startswith("_") and getattr(function, "__annotations__", {}).get("return") == "bytes":
                monkeypatch.setattr(module, name, lambda *arguments: b"picture")


@pytest.fixture
def market_copy(market_home: Path, tmp_path: Path, pipeline_at: Callable[..., Pipeline]) -> Pipeline:
    return pipeline_at(shutil.copytree(market_home, tmp_path / "home"))


@pytest.fixture
def fold_copy(fold_home: Path, tmp_path: Path, pipeline_at: Callable[..., Pipeline]) -> Pipeline:
    return pipeline_at(shutil.copytree(fold_home, tmp_path / "home"))


@pytest.fixture
def traded_copy(traded_home: Path, tmp_path: Path, pipeline_at: Callable[..., Pipeline]) -> Pipeline:
    return pipeline_at(shutil.copytree(traded_home, tmp_path / "home"))

"""``make demo``: the whole way once, from bundled bars to a promoted or refused adapter, in one process.

What is materialized already is left as it is, so a second call only goes on. What the stages compute lives in the
assets; the closing report in ``demo_report``.
"""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console

from assets.experiment import DEFAULT_EXPERIMENT
from assets.partitions import ADAPTER_STEPS, FOLDS, MONTHS, YEARS, adapter_step_key
from atlas_pipeline.config import load_config
from atlas_pipeline.demo_report import print_report, traded_steps
from atlas_pipeline.runner import Runner, command, cost, missing_partitions, prepared_home
from resources.market import Market
from resources.warehouse import Warehouse

DEFAULT_FOLD = "2016"


def walk(runner: Runner, market: Market, warehouse: Warehouse, folds: list[str]) -> None:
    """Materialize every asset of the market up to the project's clock, then trade it on paper."""
    now = market.now()
    for title, job, asset, keys in (
        ("Bars: ingest and validate", "ingest", "bars", MONTHS.get_partition_keys()),
        ("Bars: resample", "ingest", "resampled_bars", MONTHS.get_partition_keys()),
        ("Features: compute and audit", "ingest", "features", MONTHS.get_partition_keys()),
        ("Panels: what models read", "build_panels", "panel", YEARS.get_partition_keys()),
    ):
        due = [key for key in keys if key <= now.strftime("%Y-%m")]
        missing = missing_partitions(runner.instance, asset, due)
        if missing:
            runner.run(title, job, (asset,), partitions=missing)
    for fold in folds:
        for title, asset in (
            ("pretrain the forecaster", "forecaster"),
            ("forecast out of sample", "forecasts"),
            ("embed every bar", "embeddings"),
            ("train the policy", "policy"),
            ("backtest out of sample", "backtest"),
        ):
            if missing_partitions(runner.instance, asset, [fold]):
                runner.run(f"Fold {fold}: {title}", "train_fold", (asset,), partition=fold)
    _adapt(runner, warehouse, now.strftime("%Y-%m"))


def _adapt(runner: Runner, warehouse: Warehouse, month: str) -> None:
    """Trade on paper up to the clock, making each adapter at its step and letting the gate judge between them."""
    frequency = load_config(DEFAULT_EXPERIMENT).online_update_freq
    while True:
        before = traded_steps(warehouse)
        target = (2 * before // frequency + 1) * frequency // 2
        runner.run(
            f"Paper trading: from step {before}",
            "trade_on_paper",
            ("paper_ledger", "champion"),
            partition=month,
            config={"paper_ledger": {"until_step": target}},
        )
        after = traded_steps(warehouse)
        due = adapter_step_key(after // frequency * frequency)
        if after >= frequency and missing_partitions(runner.instance, "lora_adapter", [due]):
            runner.instance.add_dynamic_partitions(str(ADAPTER_STEPS.name), [due])
            runner.run(
                f"Adapter {due}: LoRA on the ledger's experience", "adapt", ("lora_adapter", "champion"), partition=due
            )
        if after < target:
            return


def main() -> None:
    """Run the demo, or with ``--prepare`` only the instance's folder."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--fold", action="append", choices=FOLDS.get_partition_keys(), help="fold to train; default 2016"
    )
    parser.add_argument("--prepare", action="store_true", help="only create the instance's folder")
    arguments = parser.parse_args()
    home = prepared_home()
    if arguments.prepare:
        return
    console = Console(width=None if sys.stdout.isatty() else 100)
    started = time.monotonic()
    warehouse = Warehouse(home=str(home))
    with command(console) as runner:
        walk(runner, Market(warehouse=warehouse), warehouse, arguments.fold or [DEFAULT_FOLD])
    print_report(console, warehouse)
    console.print(
        f"[dim]{cost(started)}. "
        "Dagster: make ui, then http://127.0.0.1:3000. MLflow: make mlflow, then http://127.0.0.1:5000.[/dim]"
    )


if __name__ == "__main__":
    main()

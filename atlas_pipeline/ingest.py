"""``make ingest``: every month of bars that is missing up to the project's clock, and the current one, with features.

One run, committed at once. Killed and called again, it goes on: a remote source is not asked again for its answers.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console

from assets.partitions import MONTHS
from atlas_pipeline.market.bars import BAR_COVERAGE
from atlas_pipeline.runner import command, cost, missing_partitions, prepared_home
from resources.market import Market
from resources.warehouse import Warehouse


def main() -> None:
    """Ingest, and say what is stored now."""
    home = prepared_home()
    console = Console(width=None if sys.stdout.isatty() else 100)
    started = time.monotonic()
    warehouse = Warehouse(home=str(home))
    market = Market(warehouse=warehouse)
    current = market.now().strftime("%Y-%m")
    due = [month for month in MONTHS.get_partition_keys() if month <= current]
    unfinished = market.unfinished_months(due)
    with command(console) as runner:
        for title, asset in (
            ("Bars: ingest and validate", "bars"),
            ("Bars: resample", "resampled_bars"),
            ("Features: compute", "features"),
        ):
            missing = missing_partitions(runner.instance, asset, due[:-1])
            begin = min([*(missing or ())[:1], *unfinished, due[-1]])
            runner.run(title, "ingest", (asset,), partitions=(begin, due[-1]))
    coverage = warehouse.read(BAR_COVERAGE)
    console.print(
        f"{coverage['bars'].sum():,} bars of {coverage['symbol'].nunique()} symbols, {due[0]} to {due[-1]}; "
        f"{coverage['quarantined'].sum():,} quarantined. [dim]{cost(started)}.[/dim]"
    )


if __name__ == "__main__":
    main()

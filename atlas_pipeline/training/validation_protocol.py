"""Does faster execution learn the same? ``python -m atlas_pipeline.training.validation_protocol``.

A document of origin asks that mixed precision, compiling and larger batches be validated by fits of the same seeds with
and without, and calls a difference of the final metrics below 0.5% acceptable. Here that is one command, on the bundled
indices: each execution is fitted before 2013 and judged on 2013 and 2014. How fast a GPU is stands in benchmarks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas_pipeline.config import Config, Hardware, load_config
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.market.bundled import FIRST_BAR, SYMBOLS, BundledSource
from atlas_pipeline.training.density import scores
from atlas_pipeline.training.fit import fit_forecaster
from atlas_pipeline.training.forecast import forecast
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import labels
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.panel_of_bars import panel_of_bars

TARGET = 0.005
"""Relative difference of a final metric that the document calls acceptable."""
FIRST_YEAR, END = 2013, datetime(2015, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Execution:
    """How a fit is run, and what of the experiment differs: a batch that is larger in effect learns something else."""

    hardware: Hardware
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Of a fit, or the mean over seeds: windows a second of the whole fit; NLL (nats), CRPS (percent), out of sample.

    Coverage is the share of outcomes inside the 95% interval. It is shown and not compared in percent: one outcome more
    or less moves it by a tenth of a percent.
    """

    windows_per_second: float
    nll: float
    crps: float
    coverage_95: float

    def difference(self, baseline: Outcome) -> float:
        """The larger relative difference of the two metrics, as a share."""
        pairs = ((self.nll, baseline.nll), (self.crps, baseline.crps))
        return max(abs(own - other) / abs(other) for own, other in pairs)


def executions(config: Config, compile_too: bool = False) -> dict[str, Execution]:
    """Ways to run a fit, the baseline first: float32, eager, the whole effective batch at once.

    Parameters
    ----------
    config
        Its effective batch is tripled in one of them, the learning rate with its square root.
    compile_too
        Compile in one of them, which takes up to a minute a fit on a CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = Hardware(device="cuda" if device == "cuda" else "cpu", batch_size=config.effective_batch_size)
    result = {
        "float32": Execution(plain),
        "bfloat16": Execution(dataclasses.replace(plain, precision="bfloat16")),
        "a quarter of the batch at once": Execution(
            dataclasses.replace(plain, batch_size=max(1, config.effective_batch_size // 4))
        ),
        "three times the effective batch": Execution(
            dataclasses.replace(plain, batch_size=3 * config.effective_batch_size),
            {"batch_size": 3 * config.batch_size, "learning_rate": config.learning_rate * 3**0.5},
        ),
    }
    if device == "cuda":
        result["float16, loss scaling"] = Execution(dataclasses.replace(plain, precision="float16"))
    if compile_too:
        result["compiled"] = Execution(dataclasses.replace(plain, compile="default"))
    return result


def run(panel: Panel, config: Config, execution: Execution, seed: int) -> Outcome:
    """Fit with a seed and judge the years that follow."""
    own = dataclasses.replace(config, **{**execution.changes, "seed": seed})
    fold = Fold(FIRST_YEAR, own)
    ends = fold.window_ends(panel, fold.start, END, own.horizons[0])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trained = fit_forecaster(panel, fold, own, execution.hardware, Path(folder))
        speed = trained.metrics["windows_learned"] / (time.perf_counter() - began)
    # Forecast alike: what differs was learned.
    density = forecast(panel, trained, ends, Hardware(device=execution.hardware.device)).density
    judged = scores(labels(panel, ends, own.horizons[0]), density)
    return Outcome(speed, judged["nll"], judged["crps"], judged["coverage_95"])


def compare(
    panel: Panel, config: Config, ways: Mapping[str, Execution], seeds: Sequence[int]
) -> Iterator[tuple[str, Outcome]]:
    """Run every execution with every seed and yield each one's mean, in the order given.

    Executions take turns seed by seed, so that a drifting machine treats them alike, after an epoch of the first that
    counts for none: what a process does once would be booked on it.
    """
    run(panel, dataclasses.replace(config, max_epochs=1), next(iter(ways.values())), seeds[0])
    found = [{name: run(panel, config, execution, seed) for name, execution in ways.items()} for seed in seeds]
    for name in ways:
        yield name, Outcome(*map(float, np.mean([dataclasses.astuple(each[name]) for each in found], axis=0)))


def epochs_for(steps: int, panel: Panel, config: Config) -> int:
    """Epochs of the experiment in which the baseline takes so many optimizer steps, or just more."""
    fold = Fold(FIRST_YEAR, config)
    windows = len(fold.split(panel.before(fold.fit_end)).train)
    return math.ceil(steps / math.ceil(windows / config.effective_batch_size))


def main() -> None:
    """Print a table, and a JSON line an execution."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="daily_indices", help="name of a file in configs/experiments")
    parser.add_argument("--steps", type=int, help="of the baseline, in whole epochs; the experiment's own without it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile too; needs a C++ compiler or a GPU")
    arguments = parser.parse_args()
    config = load_config(arguments.experiment, policy_years=0)
    source = BundledSource()
    panel = panel_of_bars(source.bars(tuple(SYMBOLS), FIRST_BAR, END), set_columns(config.features))
    if arguments.steps:
        config = dataclasses.replace(config, max_epochs=epochs_for(arguments.steps, panel, config))
    table = Table("execution", "windows/s", "speed-up", "NLL (nats)", "CRPS (%)", "95% covers", "difference",
                  f"below {TARGET:.1%}")  # fmt: skip
    baseline: Outcome | None = None
    for name, outcome in compare(panel, config, executions(config, arguments.compile), range(arguments.seeds)):
        baseline = baseline or outcome
        apart, gain = outcome.difference(baseline), outcome.windows_per_second / baseline.windows_per_second
        verdict = "met" if apart < TARGET else "missed"
        speed = f"{outcome.windows_per_second:.0f}"
        metrics = f"{outcome.nll:.4f}", f"{outcome.crps:.4f}", f"{outcome.coverage_95:.1%}"
        table.add_row(name, speed, f"{gain:.2f}", *metrics, f"{apart:.2%}", verdict)
        about = {
            "execution": name,
            **dataclasses.asdict(outcome),
            "speed_up": gain,
            "difference": apart,
            "target": verdict,
        }
        sys.stdout.write(json.dumps(about) + "\n")
    # A log has no width of its own, and eighty columns would cut the names.
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(table)


if __name__ == "__main__":
    main()

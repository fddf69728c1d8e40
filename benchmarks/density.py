"""One-day densities of the S&P 500 and the Nasdaq Composite beside the GARCH family: ``python -m benchmarks.density``.

Models are fitted on labels known before 2015 and judged on 2015 to 2018; folds 2005 to 2014 stand beside. Every
evaluation on 2015 to 2018 is added to ``density_evaluations.jsonl`` with its configuration, so that whoever tunes to
those years is seen to. A loss is the mean over seeds of each seed's loss, not the loss of an ensemble.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.config import Config, Hardware, experiment_settings
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.training.calibration import LEVELS, coverage, coverage_band
from atlas_pipeline.training.comparison import LossComparison, diebold_mariano
from atlas_pipeline.training.density import DensityForecast, nll, pit
from atlas_pipeline.training.divergence import Divergence, divergence
from atlas_pipeline.training.fit import fit_forecaster
from atlas_pipeline.training.forecast import forecast
from atlas_pipeline.training.volatility_models import GARCH_FAMILY, volatility_forecasts
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import labels
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.panel_of_bars import panel_of_bars
from benchmarks import figure
from benchmarks.density_data import INDICES, SHARED, bundled_panel, nine_panel

EVALUATIONS = Path(__file__).with_name("density_evaluations.jsonl")
FIRST, LAST = 2015, 2018
EARLIER = range(2005, 2015)
TARGET_WEIGHT = 10.0
"""Chosen among 1, 3, 10 and 30 by the folds before 2015; the last two differ by nothing there."""
HARDWARE = Hardware(device="cpu", batch_size=128)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Losses of one symbol's days, float64 [seeds, days] and of each volatility model [days], and the seeds' PIT."""

    losses: Array
    peers: dict[str, Array]
    pits: Array

    @property
    def loss(self) -> Array:
        """The daily loss, averaged over seeds, [days]."""
        mean: Array = self.losses.mean(axis=0)
        return mean

    @property
    def best_peer(self) -> str:
        """The model of the GARCH family with the lowest mean, known with hindsight only."""
        return min(GARCH_FAMILY, key=lambda name: self.peers[name].mean())

    @property
    def comparison(self) -> LossComparison:
        """Diebold-Mariano on the daily loss against the best of the family; below zero where ours is better."""
        return diebold_mariano(self.loss - self.peers[self.best_peer])


def experiment(name: str, **changes: object) -> Config:
    """Load an experiment that is fitted up to the judged years, without policy years between."""
    settings = experiment_settings(name, **{"policy_years": 0, **changes})
    return Config(**{**settings, "feature_size": len(set_columns(settings.get("features", Config.features)))})


def judged_ends(panel: Panel, config: Config, first: int, last: int) -> NDArray[np.int64]:
    """Rows of both indices from January of ``first`` through December of ``last`` that end a window with a label."""
    start, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last + 1, 1, 1, tzinfo=UTC)
    ends = Fold(first, config).window_ends(panel, start, end, 1)
    kept: NDArray[np.int64] = ends[np.isin(panel.symbol[ends], [panel.symbols.index(name) for name in INDICES])]
    return kept


def densities_of_seeds(
    panel: Panel, config: Config, first: int, ends: NDArray[np.int64], seeds: Sequence[int]
) -> list[DensityForecast]:
    """Fit before the first of January of ``first`` with each seed, and say a density at each of these rows."""
    densities = []
    for seed in seeds:
        seeded = replace(config, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            trained = fit_forecaster(panel, Fold(first, seeded), seeded, HARDWARE, Path(folder))
        densities.append(forecast(panel, trained, ends, HARDWARE).density)
    return densities


def judge(panel: Panel, config: Config, first: int, last: int, seeds: Sequence[int]) -> dict[str, Judged]:
    """Fit before the first of January of ``first`` with each seed, and judge both indices through ``last``."""
    ends = judged_ends(panel, config, first, last)
    outcome, start = labels(panel, ends, 1), datetime(first, 1, 1, tzinfo=UTC)
    densities = densities_of_seeds(panel, config, first, ends, seeds)
    losses = np.stack([nll(outcome, each) for each in densities])
    transforms = np.stack([pit(outcome, each) for each in densities])
    peers = {name: nll(outcome, each) for name, each in volatility_forecasts(panel, ends, start).items()}
    result = {}
    for name in INDICES:
        own = panel.symbol[ends] == panel.symbols.index(name)
        result[name] = Judged(losses[:, own], {k: v[own] for k, v in peers.items()}, transforms[:, own])
    return result


def coverage_text(judged: Judged) -> str:
    """Coverage of the central intervals, mean over seeds, each with the binomial 99% band it should lie in."""
    parts = []
    for level in LEVELS:
        found = float(np.mean([coverage(transform, level) for transform in judged.pits]))
        low, high = coverage_band(judged.pits.shape[1], level)
        parts.append(f"{100 * level:.0f}%: {100 * found:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    return ", ".join(parts)


def report(prefix: str, panel: Panel, config: Config, seeds: Sequence[int]) -> None:
    """Print both figures of a data set, and keep the evaluation."""
    found = judge(panel, config, FIRST, LAST, seeds)
    kept = {}
    for name, key in zip(INDICES, ("sp500", "nasdaq"), strict=True):
        own, test = found[name], found[name].comparison
        ours, peer = float(own.loss.mean()), float(own.peers[own.best_peer].mean())
        spread = float(own.losses.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else math.nan
        figure(
            f"{prefix}.{key}",
            ours,
            "nats",
            own.best_peer,
            peer,
            math.exp(peer - ours),
            f"{FIRST} to {LAST}, {len(seeds)} seeds (deviation {spread:.4f}), Diebold-Mariano {test.statistic:.2f}, "
            f"p {test.p_value:.2g}, {test.n} days; coverage {coverage_text(own)}; ratio of likelihoods a day",
        )
        kept[key] = {
            "nll": [round(float(each), 5) for each in own.losses.mean(axis=1)],
            **{peer_name: round(float(values.mean()), 5) for peer_name, values in own.peers.items()},
        }
    with EVALUATIONS.open("a") as log:
        about = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "figure": prefix, "symbols": panel.symbols}
        changed = {name: value for name, value in asdict(config).items() if value != getattr(Config, name)}
        log.write(json.dumps({**about, "seeds": list(seeds), "config": changed, **kept}) + "\n")


def report_folds(prefix: str, panel: Panel, config: Config, seeds: Sequence[int]) -> None:
    """Print the same of every earlier year, fitted before it, as a table on standard error and one figure a symbol."""
    rows, differences = [], {name: [] for name in INDICES}
    for year in EARLIER:
        for name, own in judge(panel, config, year, year, seeds).items():
            best = own.peers[own.best_peer]
            rows.append((year, name, own.loss.mean(), own.best_peer, best.mean(), own.comparison.p_value))
            differences[name].append(own.loss - best)
    table = pd.DataFrame(rows, columns=["fold", "symbol", "ours", "best of the family", "its NLL", "p"])
    print(table.to_string(index=False, float_format="%.4f"), file=sys.stderr)
    for name, key in zip(INDICES, ("sp500", "nasdaq"), strict=True):
        own, test = table[table["symbol"] == name], diebold_mariano(np.concatenate(differences[name]))
        ours, peer = own["ours"].mean(), own["its NLL"].mean()
        ahead = f"{(own['ours'] < own['its NLL']).sum()} of {len(own)} years ahead"
        tested = f"Diebold-Mariano {test.statistic:.2f}, p {test.p_value:.2g}"
        note = f"mean of {EARLIER[0]} to {EARLIER[-1]}, {ahead}, {tested}"
        figure(
            f"{prefix}.folds.{key}",
            ours,
            "nats",
            "best of the GARCH family, each year's",
            peer,
            math.exp(peer - ours),
            note,
        )


def against_the_truth(signal_r2: float, config: Config) -> Divergence:
    """Fit on fifteen years of a simulated market, and judge the next five against its true densities."""
    source = SimulatedSource([f"SIM{number}" for number in range(1, 9)], settings={"signal_r2": signal_r2})
    first, last = source.range()
    bars = source.bars(source.symbols, first, last)
    panel = panel_of_bars(bars, set_columns(config.features))
    fold = Fold(2015, config)
    with tempfile.TemporaryDirectory() as folder:
        trained = fit_forecaster(panel, fold, config, HARDWARE, Path(folder))
    ends = fold.window_ends(panel, fold.start, last, 1)
    return divergence(panel, ends, forecast(panel, trained, ends, HARDWARE).density, source)


def report_truth(config: Config) -> None:
    """Print how far from the truth a forecaster is with a planted signal, and what it finds where there is none."""
    planted, noise = (against_the_truth(r2, config) for r2 in (0.02, 0.0))
    figure(
        "density.simulated",
        planted.nll,
        "nats",
        "the true density",
        planted.true_nll,
        math.exp(planted.true_nll - planted.nll),
        f"{planted.excess:.4f} nats above the truth, asked 0.02; coefficient of the planted signal "
        f"{planted.coefficient:.2f} (standard error {planted.coefficient_error:.2f}), 1 is perfect",
    )
    figure(
        "density.noise",
        noise.nll,
        "nats",
        "the true density",
        noise.true_nll,
        math.exp(noise.true_nll - noise.nll),
        f"nothing but volatility can be predicted: {noise.excess:.4f} nats above the truth, never below",
    )


def main() -> None:
    """Print the figures; ``--seeds`` says how many seeds each is the mean of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-folds", action="store_true", help="leave out the folds 2005 to 2014")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    indices, stocks = experiment("daily_indices"), experiment("daily_stocks")
    nine = replace(stocks, target_symbols=INDICES, target_weight=TARGET_WEIGHT)
    panels = [("density.bundled", bundled_panel(indices.features), indices)]
    if SHARED.is_file():
        panels.append(("density", nine_panel(nine.features), nine))
    else:
        print(f"density.sp500, density.nasdaq: left out, there is no {SHARED}", file=sys.stderr)
    for prefix, panel, config in panels:
        report(prefix, panel, config, seeds)
        if not arguments.no_folds:
            report_folds(prefix, panel, config, seeds)
    report_truth(replace(stocks, validation_fraction=0.05))


if __name__ == "__main__":
    main()

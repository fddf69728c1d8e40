"""What each choice of the demo's experiment is worth, one factor at a time: ``python -m benchmarks.ablation``.

Beside one member of its ensemble, so that the table is made in minutes; what the ensemble adds is a row of it.
On the bundled indices, fitted before each year from 2005 to 2014 and judged on it: nothing after 2014 is looked at. A
difference is that of the daily losses, averaged over seeds and indices, with a 95% interval that respects their
autocorrelation.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from atlas_pipeline.config import Config
from atlas_pipeline.training.comparison import diebold_mariano
from atlas_pipeline.training.density import nll
from atlas_pipeline.windows.index import labels
from benchmarks import figure
from benchmarks.density import Array, densities_of_seeds, experiment, judged_ends
from benchmarks.density_data import INDICES, bundled_panel

YEARS = range(2005, 2015)
PATCHES = {"backbone": "patchtst", "seq_length": 4}
FACTORS: dict[str, list[dict[str, Any]]] = {
    "backbone": [
        PATCHES,
        {**PATCHES, "backbone": "mamba"},
        {**PATCHES, "backbone": "recursive", "latent_steps": 2, "supervision_steps": 2},
    ],
    "head": [{"head": "student_t"}, {"head": "gaussian"}],
    "features": [
        {"features": "relative+heterogeneous"},
        {"features": "heterogeneous+market"},
        {"features": "heterogeneous"},
        {"features": "relative+market"},
        {"features": "relative"},
        {"features": "a20"},
        {"features": "atlas8"},
        {"features": "relative+heterogeneous+market+a20"},
    ],
    "window": [
        {"seq_length": 4},
        {"seq_length": 16},
        {"seq_length": 64, "features": "relative"},
        {**PATCHES, "seq_length": 64, "patch_length": 8, "stride": 8, "features": "relative"},
    ],
    "network": [
        {"members": 8},
        {"input_units": 0, "input_dropout": 0.0},
        {"input_units": 8},
        {"input_units": 32},
        {"d_model": 16, "ff_dim": 32},
        {"d_model": 64, "ff_dim": 128},
        {"n_layers": 1},
        {"n_layers": 4},
        {"norm": "rms"},
        {"norm": "batch"},
        {**PATCHES, "channels": "independent"},
        {**PATCHES, "positions": "rotary"},
    ],
    "regularisation": [
        {"dropout": 0.0},
        {"input_dropout": 0.0},
        {"stochastic_depth": 0.2},
        {"mixup_alpha": 0.2},
        {"weight_decay": 0.0},
        {"ema_decay": 0.0},
    ],
    "training": [
        {"recency_half_life": None},
        {"recency_half_life": 4.0},
        {"validation_fraction": 0.15, "selection": "best"},
        {"sampling": "stratified"},
        {"schedule": "one_cycle"},
        {"scaler": "min_max"},
        {"log_sigma_penalty": 0.1},
    ],
}
"""Departures from the experiment, one a row of the table; another backbone comes with the window it reads."""


def daily_loss(config: Config, seeds: Sequence[int]) -> tuple[Array, float]:
    """Loss of each day (nats), averaged over seeds and both indices; and the seeds' deviation of its mean."""
    panel = bundled_panel(config.features)
    parts = []
    for year in YEARS:
        ends = judged_ends(panel, config, year, year)
        outcome = labels(panel, ends, 1)
        losses = np.stack([nll(outcome, each) for each in densities_of_seeds(panel, config, year, ends, seeds)])
        # Both indices have the same days.
        parts.append(losses.reshape(len(seeds), len(INDICES), -1).mean(axis=1))
    by_seed = np.concatenate(parts, axis=1)
    return by_seed.mean(axis=0), float(by_seed.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else math.nan


def main() -> None:
    """Print a figure for each departure, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", nargs="*", choices=FACTORS, default=list(FACTORS))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    base, spread = daily_loss(experiment("daily_indices", members=1), seeds)
    rows = [("", "one member", base.mean(), spread, math.nan, math.nan)]
    for factor in arguments.factors:
        for changes in FACTORS[factor]:
            changed = "+".join(f"{name}={value}" for name, value in changes.items())
            loss, spread = daily_loss(experiment("daily_indices", **{"members": 1, **changes}), seeds)
            # Windows of other lengths begin later, never end earlier: the days judged are the same.
            test = diebold_mariano(loss - base)
            error = test.mean / test.statistic if test.statistic else 0.0
            half = float(stats.t.ppf(0.975, test.n - 1)) * error
            rows.append((factor, changed, loss.mean(), spread, test.mean, half))
            interval = f"95%: {test.mean - half:+.4f} to {test.mean + half:+.4f}"
            note = f"{test.mean:+.4f} nats a day ({interval}), {len(seeds)} seeds"
            ratio = math.exp(float(base.mean() - loss.mean()))
            figure(f"ablation.{factor}.{changed}", float(loss.mean()), "nats", "one member", base.mean(), ratio, note)
    columns = ["factor", "departure", "NLL (nats)", "seeds' deviation", "difference", "+- (95%)"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="%.4f", na_rep=""), file=sys.stderr)


if __name__ == "__main__":
    main()

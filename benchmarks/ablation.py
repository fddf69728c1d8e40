"""What each choice of the demo's experiment is worth, one factor at a time: ``python -m benchmarks.ablation``.

On the bundled indices, fitted before 2009, 2011 and 2013 and judged on the two years that follow: nothing after 2014 is
looked at. A difference is that of the daily losses, averaged over seeds and indices, with a 95% interval that respects
their autocorrelation.
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
from benchmarks import figure
from benchmarks.density import Array, experiment, judge
from benchmarks.density_data import bundled_panel

FOLDS = (2009, 2011, 2013)
LONG = {"seq_length": 128, "patch_length": 8, "stride": 8}
FACTORS: dict[str, list[dict[str, Any]]] = {
    "backbone": [
        {"backbone": "residual_mlp"},
        {"backbone": "mamba"},
        {"backbone": "recursive", "latent_steps": 2, "supervision_steps": 2},
    ],
    "head": [{"head": "student_t"}, {"head": "gaussian"}],
    "features": [
        {"features": "relative"},
        {"features": "heterogeneous"},
        {"features": "a20"},
        {"features": "atlas8"},
        {"features": "relative+heterogeneous+a20"},
    ],
    "window": [
        {"seq_length": 1},
        {"seq_length": 16},
        LONG,
        {**LONG, "features": "relative"},
    ],
    "network": [
        {"d_model": 16, "ff_dim": 32},
        {"d_model": 128, "ff_dim": 256},
        {"channels": "independent"},
        {"positions": "rotary"},
        {"norm": "rms"},
        {"norm": "batch"},
    ],
    "regularisation": [
        {"dropout": 0.0},
        {"stochastic_depth": 0.2},
        {"mixup_alpha": 0.2},
        {"cutmix_alpha": 0.2},
        {"weight_decay": 0.0},
        {"ema_decay": 0.0},
    ],
    "training": [
        {"validation_fraction": 0.15, "selection": "best"},
        {"sampling": "stratified"},
        {"schedule": "one_cycle"},
        {"scaler": "min_max"},
        {"scaler": "instance"},
        {"log_sigma_penalty": 0.1},
    ],
}
"""Departures from the experiment, one a row of the table."""


def daily_loss(config: Config, seeds: Sequence[int]) -> tuple[Array, float]:
    """Loss of each day (nats), averaged over seeds and both indices; and the seeds' deviation of its mean."""
    panel = bundled_panel(config.features)
    parts = [judge(panel, config, year, year + 1, seeds) for year in FOLDS]
    by_seed = np.concatenate([np.mean([own.losses for own in part.values()], axis=0) for part in parts], axis=1)
    return by_seed.mean(axis=0), float(by_seed.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else math.nan


def main() -> None:
    """Print a figure for each departure, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", nargs="*", choices=FACTORS, default=list(FACTORS))
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    base, spread = daily_loss(experiment("daily_indices"), seeds)
    rows = [("", "daily_indices", base.mean(), spread, math.nan, math.nan)]
    for factor in arguments.factors:
        for changes in FACTORS[factor]:
            changed = "+".join(f"{name}={value}" for name, value in changes.items())
            loss, spread = daily_loss(experiment("daily_indices", **changes), seeds)
            # Windows of other lengths begin later, never end earlier: the days judged are the same.
            test = diebold_mariano(loss - base)
            error = test.mean / test.statistic if test.statistic else 0.0
            half = float(stats.t.ppf(0.975, test.n - 1)) * error
            rows.append((factor, changed, loss.mean(), spread, test.mean, half))
            interval = f"95%: {test.mean - half:+.4f} to {test.mean + half:+.4f}"
            note = f"{test.mean:+.4f} nats a day ({interval}), {len(seeds)} seeds"
            ratio = math.exp(float(base.mean() - loss.mean()))
            figure(
                f"ablation.{factor}.{changed}", float(loss.mean()), "nats", "daily_indices", base.mean(), ratio, note
            )
    columns = ["factor", "departure", "NLL (nats)", "seeds' deviation", "difference", "+- (95%)"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="%.4f", na_rep=""), file=sys.stderr)


if __name__ == "__main__":
    main()

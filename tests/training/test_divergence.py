from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.training.divergence import divergence, true_rows
from atlas_pipeline.windows.index import labels
from atlas_pipeline.windows.panel import Panel

SPAN = {"symbols": ["A", "B"], "first": "2015-01-02", "last": "2017-12-29", "seed": 3}
SOURCE = SimulatedSource(**SPAN, settings={"signal_r2": 0.1})


def simulated_panel() -> Panel:
    bars = SOURCE.bars(["B", "A"], *(instant + step for instant, step in zip(SOURCE.range(), STEPS, strict=True)))
    return Panel.from_frame(bars.assign(split=1.0, dividend=0.0, volatility_ewma=1.0), ["close"])


STEPS = (pd.Timedelta(0), pd.Timedelta("1s"))
PANEL = simulated_panel()
ENDS = np.flatnonzero(PANEL.symbol[1:] == PANEL.symbol[:-1])[::-1].astype(np.int64)


def of_truth(signal: float) -> DensityForecast:
    truth = true_rows(PANEL, ENDS, SOURCE)
    mean = truth["drift"] + signal * truth["signal"]
    return DensityForecast.of_moments(
        mean.to_numpy(), truth["volatility"].to_numpy(), SOURCE.settings.degrees_of_freedom
    )


def test_the_truth_is_that_of_the_return_after_each_bar():
    truth = true_rows(PANEL, ENDS, SOURCE)
    np.testing.assert_allclose(truth["log_return"], labels(PANEL, ENDS, 1), atol=1e-6)


def test_knowing_all_loses_nothing_and_knowing_less_loses_nats():
    best, blind = (divergence(PANEL, ENDS, of_truth(signal), SOURCE) for signal in (1.0, 0.0))
    assert best.excess == pytest.approx(best.nll - best.true_nll)
    # What is left is the jumps, which a single Student t does not have.
    assert abs(best.excess) < max(0.01, 4 * best.standard_error)
    assert best.coefficient == pytest.approx(1, abs=0.05)
    assert abs(blind.coefficient) < max(0.05, 4 * blind.coefficient_error)
    wide = of_truth(1.0)
    wrong = divergence(PANEL, ENDS, replace(wide, scale=2 * wide.scale), SOURCE)
    assert wrong.excess > 0.1


def test_without_a_signal_there_is_no_coefficient():
    # The same sessions; only the instants of the panel's bars are asked for.
    silent = SimulatedSource(**SPAN)
    assert np.isnan(divergence(PANEL, ENDS, of_truth(0.0), silent).coefficient)


def test_bars_of_another_market_are_refused():
    with pytest.raises(ValueError, match="no return after B's bar of 2017-12-29"):
        true_rows(PANEL, np.array([len(PANEL) - 1]), SOURCE)

from __future__ import annotations

import math

import numpy as np
import pytest

from atlas_pipeline.trading.statistics import max_drawdown, sharpe, total_return, turnover, win_rate


def test_sums() -> None:
    assert total_return([0.1, -0.1]) == pytest.approx(-0.01)
    assert max_drawdown([100, 120, 90, 130, 117]) == pytest.approx(0.25)
    assert max_drawdown([100, 101]) == 0.0
    assert win_rate([0.1, -0.1, 0.2, 0.3], [1, 1, 0, -1]) == pytest.approx(2 / 3)
    assert math.isnan(win_rate([0.0], [0]))
    assert turnover([0.5, 0.0], 252) == pytest.approx(63.0)


def test_sharpe_ratio_and_the_textbook_error() -> None:
    returns = np.random.default_rng(0).normal(0.0005, 0.01, 20_000)
    result = sharpe(returns, 252)
    assert result.ratio == pytest.approx(returns.mean() / returns.std() * math.sqrt(252))
    per_bar = result.ratio / math.sqrt(252)
    # Independent normal returns: Lo (2002), eq. 9; the kernel's noise is some percent.
    assert result.standard_error == pytest.approx(math.sqrt((1 + per_bar**2 / 2) / 20_000 * 252), rel=0.1)
    assert result.upper - result.ratio == pytest.approx(1.959964 * result.standard_error, rel=1e-5)


@pytest.mark.parametrize("autocorrelation", [0.0, 0.3])
def test_the_interval_covers(autocorrelation: float) -> None:
    random = np.random.default_rng(3)
    truth = 0.05
    hits = 0
    for _ in range(400):
        noise = random.standard_t(6, 600) / math.sqrt(1.5)
        series = np.empty(600)
        running = 0.0
        for t in range(600):
            running = autocorrelation * running + math.sqrt(1 - autocorrelation**2) * noise[t]
            series[t] = running
        result = sharpe(0.01 * (series + truth), 1.0)
        hits += result.lower <= truth <= result.upper
    # 400 draws of a 95% interval: a binomial error of 1.1%, and a kernel that understates a little.
    assert 0.90 <= hits / 400 <= 0.985


def test_no_ratio_where_nobody_traded() -> None:
    assert math.isnan(sharpe(np.zeros(10), 252).ratio)


def test_names_the_bar_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="net_returns is nan at bar 1"):
        sharpe([0.0, float("nan"), 0.1], 252)
    with pytest.raises(ValueError, match="at least 3 bars"):
        sharpe([0.0, 0.1], 252)

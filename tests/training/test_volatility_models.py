from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from atlas_pipeline.market.bundled import FIRST_BAR, BundledSource
from atlas_pipeline.training.density import nll
from atlas_pipeline.training.volatility_models import (
    GARCH_FAMILY,
    VOLATILITY_MODELS,
    garch_t,
    gjr_garch_t,
    riskmetrics,
    volatility_forecasts,
)
from atlas_pipeline.windows.index import labels

JUDGED = datetime(2002, 6, 3, tzinfo=UTC)


def garch_returns(n: int) -> np.ndarray:
    random = np.random.default_rng(2)
    variance, returns = 1.0, np.empty(n)
    for i in range(n):
        returns[i] = np.sqrt(variance) * random.standard_t(8) * np.sqrt(6 / 8)
        variance = 0.05 + 0.1 * returns[i] ** 2 + 0.85 * variance
    return returns


def ends_of(panel):
    instant = (JUDGED - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6
    later = np.flatnonzero(panel.available_at >= instant)
    return later[
        (later + 1 < len(panel)) & (panel.symbol[np.minimum(later + 1, len(panel) - 1)] == panel.symbol[later])
    ]


def test_cutting_the_future_changes_no_forecast(make_panel):
    panel = make_panel()
    whole = volatility_forecasts(panel, ends_of(panel), JUDGED)
    cut_at = datetime(2002, 9, 2, tzinfo=UTC)
    cut = panel.before(cut_at)
    ends = ends_of(cut)
    parts = volatility_forecasts(cut, ends, JUDGED)
    instants = panel.available_at[ends_of(panel)], panel.symbol[ends_of(panel)]
    same = [int(np.flatnonzero((instants[0] == cut.available_at[e]) & (instants[1] == cut.symbol[e]))[0]) for e in ends]
    for name, density in parts.items():
        np.testing.assert_array_equal(density.scale, whole[name].scale[same])
        np.testing.assert_array_equal(density.location, whole[name].location[same])


def test_forecasts_are_made_a_bar_ahead(make_panel):
    panel = make_panel()
    ends = ends_of(panel)
    riskmetric = volatility_forecasts(panel, ends, JUDGED)["riskmetrics"]
    close = panel.prices[:, 3]
    ratio = riskmetric.scale[1] ** 2 - 0.94 * riskmetric.scale[0] ** 2
    last = 100 * np.log(close[ends[1]] / close[ends[1] - 1])
    assert ratio == pytest.approx(0.06 * last**2)
    assert np.isfinite(nll(labels(panel, ends, 1), riskmetric)).all()


def test_a_garch_process_is_recovered_and_beats_riskmetrics():
    returns = garch_returns(6000)
    garch, risk = garch_t(returns, 4000), riskmetrics(returns, 4000)
    outcome = returns[4001:]
    judged = slice(4000, 5999)
    assert garch.df[0] == pytest.approx(8, rel=0.3)
    assert nll(outcome, garch[judged]).mean() < nll(outcome, risk[judged]).mean()


SPECIFICATIONS = {
    "garch_normal": {"vol": "GARCH", "dist": "normal"},
    "garch_t": {"vol": "GARCH", "dist": "t"},
    "gjr_garch_t": {"vol": "GARCH", "o": 1, "dist": "t"},
    "egarch_skewt": {"vol": "EGARCH", "o": 1, "dist": "skewt"},
}


@pytest.mark.parametrize("name", GARCH_FAMILY)
def test_a_fit_on_all_data_is_what_arch_itself_filters_and_scores(name: str):
    from arch import arch_model

    returns = garch_returns(1500)
    fitted = arch_model(returns, mean="Constant", p=1, q=1, **SPECIFICATIONS[name]).fit(disp="off")
    ours = GARCH_FAMILY[name](returns, 1500)
    # arch starts its recursion elsewhere; after 700 steps nothing of the start is left.
    np.testing.assert_allclose(ours.standard_deviation[700:-1], fitted.conditional_volatility[701:], rtol=1e-6)
    np.testing.assert_allclose(ours.mean, fitted.params["mu"], rtol=1e-9)
    model = fitted.model
    shape = fitted.params.to_numpy()[-model.distribution.num_params :] if model.distribution.num_params else []
    theirs = model.distribution.loglikelihood(
        shape, returns[701:] - fitted.params["mu"], fitted.conditional_volatility[701:] ** 2, individual=True
    )
    np.testing.assert_allclose(-nll(returns[701:], ours[700:-1]), theirs, rtol=1e-5)


def test_falls_that_raise_volatility_are_seen_by_the_model_with_leverage():
    random = np.random.default_rng(4)
    variance, returns = 1.0, np.empty(4000)
    for i in range(4000):
        returns[i] = np.sqrt(variance) * random.standard_normal()
        variance = 0.05 + 0.3 * returns[i] ** 2 * (returns[i] < 0) + 0.8 * variance
    judged = slice(2999, 3999)
    loss = {model: nll(returns[3000:], model(returns, 3000)[judged]).mean() for model in (garch_t, gjr_garch_t)}
    assert loss[gjr_garch_t] < loss[garch_t] - 0.005


def test_on_the_bundled_indices_they_reach_the_published_likelihoods():
    """Mean NLL of 2015 to 2018, fitted before (nats), as ``arch`` gave it to others: to the third digit."""
    expected = {
        "constant_gaussian": (1.390, 1.635),
        "riskmetrics": (1.161, 1.367),
        "garch_normal": (1.127, 1.343),
        "garch_t": (1.077, 1.310),
        "gjr_garch_t": (1.065, 1.301),
        "egarch_skewt": (1.065, 1.284),
    }
    source = BundledSource()
    for column, symbol in enumerate(("SP500", "NASDAQ")):
        own = source.bars([symbol], FIRST_BAR, datetime(2019, 1, 1, tzinfo=UTC))
        returns = 100 * np.diff(np.log(own["close"].to_numpy(float)))
        fitted = int((own["available_at"] < datetime(2015, 1, 1, tzinfo=UTC)).sum()) - 1
        for name, model in VOLATILITY_MODELS.items():
            found = nll(returns[fitted:], model(returns, fitted)[fitted - 1 : -1]).mean()
            assert found == pytest.approx(expected[name][column], abs=0.0015), (symbol, name)


def test_what_has_no_maximum_of_the_likelihood_is_refused(monkeypatch: pytest.MonkeyPatch):
    from arch.univariate.base import ARCHModelResult

    monkeypatch.setattr(ARCHModelResult, "convergence_flag", property(lambda result: 8))
    with pytest.raises(RuntimeError, match=r"GARCH\(1,1\)-t did not converge on 600 returns \(flag 8\)"):
        garch_t(garch_returns(600), 600)


def test_what_cannot_be_forecast_is_refused(make_panel):
    panel = make_panel()
    ends = ends_of(panel)
    with pytest.raises(ValueError, match="horizon=5"):
        volatility_forecasts(panel, ends, JUDGED, horizon=5)
    with pytest.raises(ValueError, match=r"A has 0 returns before 1999-01-01, 500 are needed"):
        volatility_forecasts(panel, ends, datetime(1999, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="inside the rows the models are estimated on"):
        volatility_forecasts(panel, np.array([100]), JUDGED)

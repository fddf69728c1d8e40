import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.market.simulation import Regime, SimulationSettings
from atlas_pipeline.market.truth import SIMULATED_TRUTH, TrueDensity

ONE = (Regime(drift=0.05, volatility=0.2, sessions=250.0),)
SYMBOLS = tuple(f"S{number}" for number in range(12))
PLAIN = SimulationSettings(
    regimes=ONE, alpha=0.0, gamma=0.0, beta=0.0, degrees_of_freedom=math.inf, jumps_per_year=0.0, correlation=0.0
)
RICH = SimulationSettings(correlation=0.0, signal_r2=0.05)


def whole(source, what="truth", symbols=None):
    first, last = source.range()
    return getattr(source, what)(symbols or source.symbols, first, last + timedelta(microseconds=1))


@pytest.fixture(scope="module")
def rich() -> SimulatedSource:
    return SimulatedSource(SYMBOLS, first="1960-01-04", last="2019-12-31", settings=RICH)


@pytest.fixture(scope="module")
def rich_truth(rich) -> pd.DataFrame:
    return whole(rich)


def test_the_truth_is_keyed_like_the_bars_and_known_at_the_bar_before(rich, rich_truth):
    SIMULATED_TRUTH.schema().validate(rich_truth, lazy=True)
    bars = whole(rich, "bars")
    for column in ("symbol", "interval", "available_at", "month"):
        pd.testing.assert_series_equal(rich_truth[column], bars[column])
    before = bars.groupby("symbol", sort=False)["available_at"].shift()
    pd.testing.assert_series_equal(rich_truth["known_at"], before.rename("known_at"))
    previous = bars.groupby("symbol", sort=False)["close"].shift().fillna(RICH.initial_price)
    # Relative rounding of a price, and of its logarithm.
    np.testing.assert_allclose(rich_truth["log_return"], 100 * np.log(bars["close"] / previous), atol=1e-11)
    assert (rich_truth["mean"] - rich_truth["drift"] - rich_truth["signal"]).abs().max() < 1e-12


def test_the_oracle_sees_uniform_and_unpredictable_outcomes(rich, rich_truth):
    returns = rich_truth["log_return"].to_numpy()
    pit = rich.density(rich_truth).pit(returns)
    assert len(pit) > 180_000
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    by_symbol = pit.reshape(len(SYMBOLS), -1)
    for transform in (by_symbol, (by_symbol - 0.5) ** 2):
        correlation = np.corrcoef(transform[:, 1:].ravel(), transform[:, :-1].ravel())[0, 1]
        assert abs(correlation) < 4 / math.sqrt(len(pit))


def test_no_other_density_is_likelier_than_the_true_one(rich, rich_truth):
    returns = rich_truth["log_return"].to_numpy()
    best = rich.density(rich_truth).nll(returns)
    constant = stats.norm(returns.mean(), returns.std())
    wrong = {
        "constant Gaussian": -constant.logpdf(returns),
        "no signal": rich.density(rich_truth.assign(mean=rich_truth["drift"])).nll(returns),
        "signal upside down": rich.density(
            rich_truth.assign(mean=rich_truth["drift"] - rich_truth["signal"])
        ).nll(returns),
        "volatility a tenth too high": rich.density(
            rich_truth.assign(volatility=1.1 * rich_truth["volatility"])
        ).nll(returns),
        "regimes unseen": rich.density(
            rich_truth.assign(volatility=rich_truth["volatility"] / RICH.deviations[rich_truth["regime"]]
                              * RICH.long_run_deviation)
        ).nll(returns),
        "thin tails": TrueDensity.of(rich_truth, replace(RICH, degrees_of_freedom=math.inf)).nll(returns),
        "no jumps": TrueDensity.of(rich_truth, replace(RICH, jumps_per_year=0.0)).nll(returns),
    }  # fmt: skip
    for name, nll in wrong.items():
        worse = nll - best
        # Beyond four standard errors, so that it is no luck.
        assert worse.mean() > 4 * worse.std() / math.sqrt(len(worse)), name


def test_realized_moments_are_those_stated(rich_truth):
    z = ((rich_truth["log_return"] - rich_truth["mean"]) / rich_truth["volatility"]).to_numpy()
    count = len(z)
    assert abs(z.mean()) < 4 / math.sqrt(count)
    assert z.var() == pytest.approx(1, abs=4 * (z**2).std() / math.sqrt(count))
    # R² of the standardized return. Neighbouring values of the signal share 0.8 of their news: nine times the variance.
    explained = (rich_truth["signal"] / rich_truth["volatility"]).to_numpy() ** 2 * (1 - RICH.signal_r2)
    assert explained.mean() == pytest.approx(RICH.signal_r2, abs=4 * 3 * explained.std() / math.sqrt(count))
    # 60 years of 12 symbols have about 12 · 60 · 252 / 310 · 2 changes of regime; 0.8 of the time is calm.
    calm = (rich_truth["regime"] == 0).mean()
    assert calm == pytest.approx(RICH.stationary[0], abs=0.04)
    moved = rich_truth.groupby("symbol")["regime"].diff().fillna(0) != 0
    left = moved[(rich_truth.groupby("symbol")["regime"].shift() == 0)]
    assert left.mean() == pytest.approx(RICH.leaving[0], abs=4 * math.sqrt(RICH.leaving[0] / len(left)))
    assert left.sum() > 400


def test_without_regimes_and_jumps_past_returns_alone_give_the_density():
    settings = SimulationSettings(regimes=ONE, jumps_per_year=0.0, signal_r2=0.1)
    truth = whole(SimulatedSource(["A"], first="2010-01-04", last="2013-12-31", settings=settings))
    level = 100 * settings.deviations[0] * np.sqrt(truth["variance_share"])
    h, f = 1.0, 0.0
    for row in range(len(truth)):
        volatility = level[row] * math.sqrt(h)
        # Rounding over a thousand steps of a recursion that forgets.
        assert truth["volatility"][row] == pytest.approx(volatility * math.sqrt(1 - settings.signal_r2), rel=1e-9)
        assert truth["signal"][row] == pytest.approx(volatility * math.sqrt(settings.signal_r2) * f, abs=1e-9)
        z = (truth["log_return"][row] - truth["mean"][row]) / truth["volatility"][row]
        h = 1 - settings.persistence + (settings.alpha + settings.gamma * (z < 0)) * h * z**2 + settings.beta * h
        f = settings.signal_persistence * f + math.sqrt(1 - settings.signal_persistence**2) * z


def test_half_days_and_overnight_gaps_have_their_share_of_the_variance():
    source = SimulatedSource(
        SYMBOLS, "1h", first="2010-01-04", last="2019-12-31", settings=replace(PLAIN, overnight=0.3)
    )
    bars, truth = whole(source, "bars"), whole(source)
    first = (bars.groupby(["symbol", "session"]).cumcount() == 0).to_numpy()
    gap = np.log(bars["open"] / bars.groupby("symbol")["close"].shift().fillna(100.0))
    session_variance = PLAIN.deviations[0] ** 2
    count = first.sum()
    assert gap[first].var() / session_variance == pytest.approx(0.3, rel=4 * math.sqrt(2 / count))
    assert gap[~first].abs().max() < 1e-12
    per_session = truth.assign(session=bars["session"]).groupby(["symbol", "session"])["variance_share"].sum()
    day_after_thanksgiving = pd.Timestamp("2015-11-27")
    assert per_session["S0", pd.Timestamp("2015-11-25")] == pytest.approx(1)
    assert per_session["S0", day_after_thanksgiving] == pytest.approx(0.3 + 0.7 * 3.5 / 6.5)
    z = (truth["log_return"] - truth["mean"]) / (10 * math.sqrt(session_variance * 100))
    own = (z**2 / truth["variance_share"]).to_numpy()
    # Every kind of bar, the half-hour before the close too, has the variance of its share.
    for share in truth["variance_share"].unique():
        kind = own[truth["variance_share"] == share]
        assert kind.mean() == pytest.approx(1, rel=4 * math.sqrt(2 / len(kind)))


def test_symbols_are_correlated_as_stated_and_their_densities_stay():
    settings = replace(PLAIN, correlation=0.5)
    source = SimulatedSource(SYMBOLS[:2], first="1990-01-02", last="2019-12-31", settings=settings)
    truth = whole(source)
    one, other = (own["log_return"].to_numpy() for _, own in truth.groupby("symbol"))
    # Fisher's z has a standard error of 1 / √n.
    assert math.atanh(np.corrcoef(one, other)[0, 1]) == pytest.approx(math.atanh(0.5), abs=4 / math.sqrt(len(one)))
    assert stats.kstest(source.density(truth).pit(truth["log_return"].to_numpy())[: len(one)], "uniform").pvalue > 0.01


def regression_r2(settings: SimulationSettings) -> float:
    """Out-of-sample R² of scaled returns, on an average of past ones: bars are all that is looked at."""
    source = SimulatedSource(SYMBOLS, first="1960-01-04", last="2019-12-31", settings=settings)
    close = whole(source, "bars").pivot(index="available_at", columns="symbol", values="close")
    returns = 100 * np.log(close).diff().iloc[1:]
    volatility = np.sqrt((returns**2).ewm(alpha=0.06).mean())
    scaled = (returns / volatility.shift()).iloc[250:]
    # The average that inverts the signal's ARMA(1, 1) where volatility is constant.
    phi, ratio = settings.signal_persistence, math.sqrt(0.05 / 0.95)
    average = scaled.ewm(alpha=1 - phi + ratio * math.sqrt(1 - phi**2), adjust=False).mean().shift()
    x, y = average.iloc[100:].to_numpy(), scaled.iloc[100:].to_numpy()
    middle = len(x) // 2
    slope = (x[:middle] * y[:middle]).sum() / (x[:middle] ** 2).sum()
    later = y[middle:] - y[:middle].mean()
    return float(1 - ((later - slope * x[middle:]) ** 2).sum() / (later**2).sum())


@pytest.mark.parametrize("base", [PLAIN, replace(RICH, regimes=ONE, jumps_per_year=0.0)])
def test_a_planted_signal_is_found_out_of_sample_and_none_where_there_is_none(base):
    # 90,000 returns are judged: the standard error of an R² of 0.05 is 2√(0.05 / 90,000) = 0.0015; fat tails and
    # volatility that is estimated double it and cost the regression part of what the oracle has.
    found = regression_r2(replace(base, signal_r2=0.05))
    assert found == pytest.approx(0.05, abs=4 * 0.0015) if base is PLAIN else 0.035 < found < 0.05 + 4 * 0.003
    # A slope fitted to noise moves R² by the product of its own error and that of the covariance it meets, each four
    # standard errors at most, which fat tails double.
    assert abs(regression_r2(replace(base, signal_r2=0.0))) < 2 * 8 * 8 / 90_000


def test_the_gain_of_the_signal_is_the_closed_form():
    settings = replace(PLAIN, signal_r2=0.05)
    source = SimulatedSource(SYMBOLS, first="1980-01-02", last="2019-12-31", settings=settings)
    truth = whole(source)
    returns = truth["log_return"].to_numpy()
    blind = truth.assign(mean=truth["drift"], volatility=truth["volatility"] / math.sqrt(1 - settings.signal_r2))
    gain = source.density(blind).nll(returns) - source.density(truth).nll(returns)
    # The signal is an AR(1): nine times the variance of an independent one, at most.
    assert gain.mean() == pytest.approx(-math.log(0.95) / 2, abs=4 * 3 * gain.std() / math.sqrt(len(gain)))


def test_with_thin_tails_and_no_jumps_the_density_is_the_normal_one():
    truth = whole(SimulatedSource(["A"], first="2010-01-04", last="2010-12-31", settings=PLAIN))
    density = TrueDensity.of(truth, PLAIN)
    normal = stats.norm(truth["mean"].to_numpy(), truth["volatility"].to_numpy())
    returns = truth["log_return"].to_numpy()
    np.testing.assert_allclose(density.nll(returns), -normal.logpdf(returns), rtol=1e-12)
    np.testing.assert_allclose(density.pit(returns), normal.cdf(returns), rtol=1e-12)
    np.testing.assert_allclose(density.quantile([0.1, 0.5])[:, 0], normal.ppf(0.1), rtol=1e-9)


def test_without_jumps_the_density_is_that_of_the_forecasts():
    from atlas_pipeline.training.density import DensityForecast, nll, pit

    settings = replace(RICH, jumps_per_year=0.0)
    truth = whole(SimulatedSource(["A"], first="2010-01-04", last="2012-12-31", settings=settings))
    df = settings.degrees_of_freedom
    scale = truth["volatility"].to_numpy() * math.sqrt((df - 2) / df)
    forecast = DensityForecast(truth["mean"].to_numpy(), scale, np.full(len(truth), df))
    returns, density = truth["log_return"].to_numpy(), TrueDensity.of(truth, settings)
    np.testing.assert_allclose(density.nll(returns), nll(returns, forecast), rtol=1e-12)
    np.testing.assert_allclose(density.pit(returns), pit(returns, forecast), rtol=1e-12)
    np.testing.assert_allclose(density.quantile([0.25, 0.75]), np.column_stack(forecast.interval(0.5)), rtol=1e-9)


def test_a_mixture_has_the_mass_the_moments_and_the_quantiles_it_states():
    settings = replace(RICH, jumps_per_year=60.0)
    truth = whole(SimulatedSource(["A"], "1h", first="2015-11-23", last="2015-11-30", settings=settings))
    density = TrueDensity.of(truth, settings)[:3]
    for row in range(len(density)):
        one = density[row : row + 1]

        def probability(value, one=one):
            return math.exp(-one.nll(np.array([value]))[0])

        def moment(order, one=one, probability=probability):
            def scaled(z):
                return (z * one.volatility[0]) ** order * probability(one.mean[0] + z * one.volatility[0])

            # Beyond 4,000 deviations a t of 6 degrees has 1e-11 of its variance.
            pieces = [-4000, -100, -10, -1, 1, 10, 100, 4000]
            total = sum(integrate.quad(scaled, a, b, limit=200)[0] for a, b in pairwise(pieces))
            return total * one.volatility[0]

        assert moment(0) == pytest.approx(1, abs=1e-8)
        assert moment(1) == pytest.approx(0, abs=1e-8)
        assert moment(2) == pytest.approx(one.volatility[0] ** 2, rel=1e-6)
    levels = [0.001, 0.2, 0.5, 0.95]
    quantiles = density.quantile(levels)
    for column, level in enumerate(levels):
        np.testing.assert_allclose(density.pit(quantiles[:, column]), level, rtol=1e-9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        density.quantile([0.0])


def test_jumps_come_as_often_as_stated():
    settings = replace(PLAIN, jumps_per_year=25.2, jump_size=20.0)
    truth = whole(SimulatedSource(SYMBOLS, first="1990-01-02", last="2019-12-31", settings=settings))
    z = (truth["log_return"] - truth["mean"]) / truth["volatility"]
    weights, inflations = settings.jump_law(truth["variance_share"].to_numpy())
    expected = 2 * (weights * stats.norm.sf(2 / inflations)).sum(axis=1)
    # A deviation without jumps is a sixth of the whole: two of them are beyond what comes without one.
    assert (z.abs() > 2).mean() == pytest.approx(expected.mean(), abs=4 * math.sqrt(expected.mean() / len(z)))
    assert weights[0, 1] == pytest.approx(0.1 * math.exp(-0.1))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose((weights * inflations**2).sum(axis=1), 1, rtol=1e-14)

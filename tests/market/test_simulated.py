import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import yaml

from atlas_pipeline.market import simulated
from atlas_pipeline.market.adjustment import actions_by_bar, forward_factors
from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.calendars import bar_grid, sessions
from atlas_pipeline.market.errors import UnknownSymbolError
from atlas_pipeline.market.option_chain import OPTION_CHAIN, validate_option_chain
from atlas_pipeline.market.quotes import validate_quotes
from atlas_pipeline.market.simulated import SimulatedSource
from atlas_pipeline.market.simulated_options import expected_variance, smile
from atlas_pipeline.market.simulation import Regime, SimulationSettings
from atlas_pipeline.market.sources import Outcome
from atlas_pipeline.market.validation import validate_bars

START, END = datetime(2015, 11, 20, tzinfo=UTC), datetime(2016, 2, 10, tzinfo=UTC)
KINDS = ("bars", "truth", "quotes", "option_chain", "corporate_actions")
PAYING = {"dividend_yield": 0.04, "split_above": 110.0, "signal_r2": 0.02}


def daily(symbols=("A", "B", "C"), **settings) -> SimulatedSource:
    return SimulatedSource(symbols, first="2014-06-02", last="2016-12-30", settings={**PAYING, **settings})


def same_bits(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(left, right, check_exact=True)


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "30m", "1h", "1d"])
def test_bars_stand_on_the_exchange_s_grid_and_pass_validation(interval):
    source = SimulatedSource(["A"], interval, first="2015-11-20", last="2015-12-31")
    bars = source.bars(["A"], START, END)
    BARS.schema().validate(bars, lazy=True)
    traded = sessions(datetime(2015, 11, 20, tzinfo=UTC), datetime(2015, 12, 31, tzinfo=UTC))
    # A half day among them: the day after Thanksgiving.
    pd.testing.assert_frame_equal(bars[["session", "available_at"]], bar_grid(traded, interval))
    assert source.range() == (bars["available_at"].min(), bars["available_at"].max())
    judged = validate_bars(bars, traded)
    assert judged.quarantined.empty and len(judged.bars) == len(bars)
    assert (bars["volume"] >= 1).all() and (bars["low"] > 0).all()


def test_an_exchange_with_a_break_at_noon_is_simulated_through_it():
    source = SimulatedSource(["A"], "30m", first="2015-06-01", last="2015-06-30", calendar="XHKG")
    truth = source.truth(["A"], datetime(2015, 6, 1, tzinfo=UTC), datetime(2015, 7, 1, tzinfo=UTC))
    shares = truth["variance_share"].groupby(truth["available_at"].dt.date).agg(["size", "sum"])
    # Five and a half hours; the break is no time in which anything moves.
    assert (shares["size"] == 11).all()
    np.testing.assert_allclose(shares["sum"], 1)


def test_ranges_are_half_open_and_unusable_requests_are_refused():
    source = daily()
    bars = source.bars(["A"], START, END)
    last = bars["available_at"].max().to_pydatetime()
    assert len(source.bars(["A"], START, last)) == len(bars) - 1
    assert not source.live and source.symbols == ("A", "B", "C")
    for kind in KINDS:
        assert getattr(source, kind)(["A"], START, START).empty
        assert getattr(source, kind)([], START, END).empty
        with pytest.raises(UnknownSymbolError, match="no symbol 'Z'; it has: A, B, C"):
            getattr(source, kind)(["A", "Z"], START, END)
        with pytest.raises(ValueError, match="no time zone"):
            getattr(source, kind)(["A"], START.replace(tzinfo=None), END)
        with pytest.raises(ValueError, match="lies before"):
            getattr(source, kind)(["A"], END, START)


def test_fetch_answers_symbol_by_symbol():
    answers = {answer.symbol: answer for answer in daily().fetch(["B", "A"], START, END)}
    assert list(answers) == ["B", "A"] and answers["A"].outcome is Outcome.OK
    pd.testing.assert_frame_equal(answers["A"].bars, daily().bars(["A"], START, END))
    CORPORATE_ACTIONS.schema().validate(answers["A"].actions, lazy=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_come_whatever_is_asked_for(kind, monkeypatch):
    def ask(source, symbols, start=START, end=END):
        return getattr(source, kind)(symbols, start, end)

    key = "underlying" if kind == "option_chain" else "symbol"
    source = daily()
    expected = ask(source, ["A", "B", "C"])
    same_bits(ask(source, ["A", "B", "C"]), expected)
    only_b = expected[expected[key] == "B"].reset_index(drop=True)
    assert len(only_b) > 0
    same_bits(ask(daily(["B"]), ["B"]), only_b)
    backwards = ask(daily(["C", "B", "A"]), ["B", "A"])
    same_bits(backwards[backwards[key] == "B"].reset_index(drop=True), only_b)
    # Month by month, the last one first, with room for one year's path at a time.
    monkeypatch.setattr(simulated, "_KEPT_BARS", 300)
    fresh = daily()
    edges = [START, datetime(2015, 12, 15, tzinfo=UTC), datetime(2016, 1, 1, tzinfo=UTC), END]
    parts = [ask(fresh, ["B"], *edges[part : part + 2]) for part in (2, 1, 0)]
    same_bits(pd.concat(parts[::-1], ignore_index=True), only_b)
    # A range of one bar: vectors of one element take other loops than long ones.
    for instant in only_b["available_at"].drop_duplicates()[-3:]:
        alone = ask(fresh, ["B"], instant.to_pydatetime(), instant.to_pydatetime() + timedelta(microseconds=1))
        same_bits(alone, only_b[only_b["available_at"] == instant].reset_index(drop=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interval", ["1d", "1h"])
def test_a_later_end_changes_no_earlier_row(kind, interval):
    def rows(last):
        source = SimulatedSource(["A"], interval, first="2014-06-02", last=last, settings=PAYING)
        return getattr(source, kind)(["A"], datetime(2014, 1, 1, tzinfo=UTC), datetime(2015, 8, 12, tzinfo=UTC))

    same_bits(rows("2015-08-11"), rows("2016-03-01"))


def test_seed_and_symbol_make_the_numbers_and_nothing_else_does():
    def closes(symbol, seed=0, **settings):
        source = SimulatedSource([symbol], first="2000-01-03", last="2000-12-29", seed=seed, settings=settings)
        return source.bars([symbol], *(source.range()))["close"].to_numpy()

    # Pinned, so that another process, platform or day is compared with this one; libraries differ in the last digit
    # of an exponential, and a year adds such differences up.
    pinned = {
        "A": (99.39957731917482, 108.40494597287443, 105.73837571189726),
        "B": (101.10398813273416, 112.18440254633742, 123.0398445209281),
    }
    for symbol, values in pinned.items():
        np.testing.assert_allclose(closes(symbol)[[0, 100, 250]], values, rtol=1e-12)
    assert (closes("A", seed=1) != closes("A")).all()
    assert (closes("A", signal_r2=0.1) != closes("A")).any()


def test_splits_and_dividends_leave_the_returns_of_the_truth():
    source = daily()
    first, last = source.range()
    end = last + timedelta(microseconds=1)
    bars, truth = (getattr(source, kind)(["A", "B", "C"], first, end) for kind in ("bars", "truth"))
    actions = source.corporate_actions(["A", "B", "C"], first, end)
    CORPORATE_ACTIONS.schema().validate(actions, lazy=True)
    assert set(actions["kind"]) == {"split", "dividend"}
    dividends = actions[actions["kind"] == "dividend"]
    assert set(dividends["session"].dt.month) == {2, 5, 8, 11}
    assert (dividends.groupby("symbol").size() == 10).all()
    opens = sessions(first, last).set_index("session")["opens_at"]
    assert (actions["available_at"] == actions["session"].map(opens)).all()
    split, dividend = actions_by_bar(bars, actions)
    for symbol, own in bars.groupby("symbol"):
        rows = own.index.to_numpy()
        index = own["close"].to_numpy() * forward_factors(own["close"].to_numpy(), split[rows], dividend[rows])
        returns = 100 * np.diff(np.log(index))
        # Rounding of the logarithm of an index.
        np.testing.assert_allclose(returns, truth["log_return"].to_numpy()[rows[1:]], atol=1e-10, err_msg=symbol)
        before = own["close"].shift()
        assert ((before > PAYING["split_above"]) == (split[rows] == 2.0)).all()
    days = sessions(first, last)
    assert validate_bars(bars, days, actions=actions).quarantined.empty


def test_a_company_that_loses_its_worth_keeps_a_positive_price():
    wild = {"regimes": [{"drift": -40.0, "volatility": 15.0, "sessions": 100}], "dividend_yield": 0.99}
    source = SimulatedSource(["A"], first="2010-01-04", last="2011-12-30", settings=wild)
    first, last = source.range()
    bars = source.bars(["A"], first, last)
    assert (bars["low"] > 0).all() and bars["close"].iloc[-1] < 1e-6
    assert validate_bars(bars, sessions(first, last), absurd_factor=math.inf).quarantined.empty


def test_quotes_widen_with_volatility_and_pass_validation():
    source = daily()
    first, last = source.range()
    quotes, truth = (getattr(source, kind)(["A"], first, last) for kind in ("quotes", "truth"))
    accepted, refused = validate_quotes(quotes)
    assert refused.empty and len(accepted) == len(truth)
    bars = source.bars(["A"], first, last)
    # bid · ask is the square of the close: the geometric mid.
    np.testing.assert_allclose(quotes["bid"] * quotes["ask"], bars["close"] ** 2, rtol=1e-12)
    width = np.log(quotes["ask"] / quotes["bid"]).to_numpy()
    # Where regime and length of the session stay, the next bar's volatility is the spread's.
    same = (truth["regime"] == truth["regime"].shift(-1)) & (truth["variance_share"].shift(-1) == 1)
    ratio = width[:-1] / truth["volatility"].to_numpy()[1:]
    np.testing.assert_allclose(ratio[same[:-1]], ratio[same[:-1]][0], rtol=1e-9)


@pytest.mark.parametrize(("lean", "r2"), [(0.5, 0.1), (-1.0, 0.1), (0.5, 0.0), (0.0, 0.1)])
def test_the_imbalance_predicts_as_much_as_was_planted(lean, r2):
    symbols = [f"S{number}" for number in range(8)]
    settings = {"imbalance_signal": lean, "signal_r2": r2, "correlation": 0.0}
    source = SimulatedSource(symbols, first="1990-01-02", last="2019-12-31", settings=settings)
    first, last = source.range()
    quotes, truth = (getattr(source, kind)(symbols, first, last) for kind in ("quotes", "truth"))
    imbalance = np.log(quotes["bid_size"] / quotes["ask_size"])
    scaled = (truth["log_return"] - truth["drift"]) / truth["volatility"]
    following = truth["symbol"] == truth["symbol"].shift(-1)
    found = imbalance[following].corr(scaled.shift(-1)[following])
    # Fat tails raise the standard error of a correlation by less than half; sizes are rounded to whole units.
    assert found == pytest.approx(lean * math.sqrt(r2), abs=4 * 1.5 / math.sqrt(following.sum()))


def test_option_chains_pass_validation_and_their_mids_have_the_volatility_given():
    from atlas_pipeline.features.option_contracts import compute_option_features

    source = daily()
    chain = source.option_chain(["A", "B"], START, END)
    accepted, refused = validate_option_chain(chain)
    assert refused.empty and len(accepted) == len(chain)
    OPTION_CHAIN.schema().validate(chain, lazy=True)
    traded = sessions(START, END - timedelta(days=1))
    assert len(chain) == 2 * len(traded) * 4 * 11 * 2
    closes = source.bars(["A", "B"], START, END).set_index(["symbol", "available_at"])["close"]
    keys = pd.MultiIndex.from_frame(chain[["underlying", "available_at"]])
    np.testing.assert_array_equal(chain["underlying_close"], closes.loc[keys])
    features = compute_option_features(accepted.assign(implied_volatility=np.nan))
    merged = features.merge(accepted, on=["underlying", "available_at", "expiry", "right", "strike"])
    mid = (merged["bid"] + merged["ask"]) / 2
    intrinsic = (merged["underlying_close"] - merged["strike"]) * np.where(merged["right"] == "call", 1, -1)
    # Prices of a hundred hold fourteen digits after the point: deep in the money those are all of the time value.
    priced = mid - intrinsic.clip(lower=0) > 1e-6
    assert priced.mean() > 0.8
    np.testing.assert_allclose(
        merged["implied_volatility_x"][priced], merged["implied_volatility_y"][priced], rtol=1e-5
    )


def test_an_expiry_on_a_holiday_ends_the_session_before():
    source = SimulatedSource(["A"], first="2008-02-01", last="2008-02-29")
    chain = source.option_chain(["A"], datetime(2008, 2, 1, tzinfo=UTC), datetime(2008, 3, 1, tzinfo=UTC))
    # The third Friday of March 2008 was Good Friday.
    assert pd.Timestamp("2008-03-20") in set(chain["expiry"])
    assert (chain["expiry"] > chain["session"]).all()
    assert (chain.groupby("session")["expiry"].nunique() == 4).all()


def test_options_are_priced_under_the_true_variance():
    flat = {"regimes": [{"drift": 0.0, "volatility": 0.3, "sessions": 100}], "alpha": 0.0, "gamma": 0.0, "beta": 0.0}
    source = SimulatedSource(["A"], first="2015-11-20", last="2016-01-29", settings=flat)
    chain = source.option_chain(["A"], START, END)
    years = (chain["expiry"].map(sessions(START, datetime(2016, 7, 1)).set_index("session")["available_at"])
             - chain["available_at"]) / pd.Timedelta(days=365)  # fmt: skip
    ordinal = sessions(START, datetime(2016, 7, 1)).set_index("session")["ordinal"]
    remaining = chain["expiry"].map(ordinal) - chain["session"].map(ordinal)
    total = np.sqrt(remaining * 0.3**2 / 252)
    expected = total * smile(np.log(chain["strike"] / chain["underlying_close"]) / total) / np.sqrt(years)
    np.testing.assert_allclose(chain["implied_volatility"], expected, rtol=1e-9)
    pairs = chain.assign(mid=(chain["bid"] + chain["ask"]) / 2)
    mids = pairs.pivot(index=["available_at", "expiry", "strike", "underlying_close"], columns="right", values="mid")
    mids = mids.dropna().reset_index()
    parity = mids["call"] - mids["put"] - mids["underlying_close"] + mids["strike"]
    assert parity.abs().max() < 1e-9


def test_the_variance_expected_is_the_variance_that_comes():
    regimes = (Regime(drift=0.0, volatility=0.1, sessions=50.0), Regime(drift=0.0, volatility=0.3, sessions=20.0))
    settings = SimulationSettings(regimes=regimes, correlation=0.0, jumps_per_year=0.0)
    symbols = [f"S{number}" for number in range(12)]
    source = SimulatedSource(symbols, first="1960-01-04", last="2019-12-31", settings=settings)
    first, last = source.range()
    quotes, truth = (getattr(source, kind)(symbols, first, last) for kind in ("quotes", "truth"))
    # Quotes show h: their spread is that of the regime times its root.
    regime = truth["regime"].to_numpy()
    width = np.log(quotes["ask"] / quotes["bid"]).to_numpy() / settings.spread * settings.long_run_deviation
    h = (width / settings.deviations[regime]) ** 2
    variance = (truth["volatility"] / 100) ** 2 / truth["variance_share"]
    level, slope = expected_variance(settings, 1)
    for ahead in (1, 30):
        came = variance.rolling(ahead).mean().shift(-ahead)
        inside = (truth["symbol"] == truth["symbol"].shift(-ahead)) & (np.arange(len(truth)) % ahead == 0)
        expected = level[regime, ahead - 1] + slope[regime, ahead - 1] * (h - 1)
        for state in (0, 1):
            ratio = (came / expected)[inside & (regime == state)]
            # Stretches that do not overlap: their errors are all but independent.
            assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / math.sqrt(len(ratio))), (ahead, state)
            assert ratio.std() / math.sqrt(len(ratio)) < 0.02


def test_settings_come_from_yaml_and_say_what_is_wrong():
    content = yaml.safe_load(
        """
        interval: 1h
        first: 2015-11-20
        last: "2015-12-31"
        seed: 7
        settings:
          regimes: [{drift: 0.1, volatility: 0.2, sessions: 100}]
          degrees_of_freedom: .inf
          signal_r2: 0.01
        """
    )
    source = SimulatedSource(["A"], **content)
    assert source.settings.regimes == (Regime(drift=0.1, volatility=0.2, sessions=100),)
    assert len(source.bars(["A"], START, END)) == 28 * 7 - 2 * 3
    for settings, message in (
        ({"sigma": 1}, r"unknown settings of SimulationSettings \['sigma'\]"),
        ({"regimes": [{"mean": 1}]}, r"unknown settings of Regime \['mean'\]"),
        ({"regimes": []}, "name at least one"),
        ({"regimes": [{"drift": 0.1, "volatility": 0.0, "sessions": 9}]}, "volatility above 0"),
        ({"spread": "2e-4"}, "spread='2e-4' is no number"),
        ({"beta": 0.99}, "beta=0.99 cannot be simulated: keep alpha"),
        ({"degrees_of_freedom": 2}, "more than 2"),
        ({"signal_r2": 1.0}, "signal_r2=1.0"),
        ({"correlation": -0.1}, "correlation=-0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            SimulatedSource(["A"], settings=settings)
    with pytest.raises(ValueError, match="interval='1wk' is not simulated"):
        SimulatedSource(["A"], "1wk")
    with pytest.raises(ValueError, match="seed=-1"):
        SimulatedSource(["A"], seed=-1)
    with pytest.raises(ValueError, match="no session of XNYS between"):
        SimulatedSource(["A"], first="2015-11-21", last="2015-11-22").range()


def test_the_source_is_made_without_heavy_packages():
    heavy = "torch numba scipy arch pandera exchange_calendars yfinance dagster duckdb mlflow"
    code = (
        "import sys; from atlas_pipeline.market.simulated import SimulatedSource; SimulatedSource(['A']).symbols; "
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]; assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

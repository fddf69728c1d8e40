"""Features of quotes against formulas written out row by row, their warm-up, their gaps, and real quotes."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.causality import audit_causality
from atlas_pipeline.features.microstructure import (
    GAP,
    MICROSTRUCTURE,
    MICROSTRUCTURE_FEATURES,
    MICROSTRUCTURE_SET,
    QUOTE,
    REACH,
    WINDOW,
    compute_microstructure,
    quote_coverage,
)
from atlas_pipeline.features.quote_stream import QuoteStream, replay_quotes
from atlas_pipeline.market.files import FilesSource
from atlas_pipeline.market.quotes import QUOTES, validate_quotes
from atlas_pipeline.market.simulated import SimulatedSource

NAMES = [feature.name for feature in MICROSTRUCTURE]
NOW = datetime(2015, 1, 5, 15, tzinfo=UTC)


def quotes_of(values: np.ndarray, steps: object = timedelta(minutes=1), symbol: str = "A") -> pd.DataFrame:
    """Rows of quotes from bid, bid size, ask and ask size, with the time from one to the next."""
    steps = [steps] * (len(values) - 1) if isinstance(steps, timedelta) else steps
    instants = pd.DatetimeIndex(NOW + np.cumsum([timedelta(0), *steps])[: len(values)]).as_unit("us")
    frame = pd.DataFrame(np.reshape(values, (-1, 4)), columns=list(QUOTE), dtype="float64")
    frame = frame.assign(symbol=symbol, available_at=instants, month=instants.strftime("%Y-%m"))
    return frame[list(QUOTES.names)].astype({"symbol": "str", "month": "str"})


def random_quotes(rows: int, seed: int, scale: float = 100.0, size: float = 300.0, move: float = 1e-4) -> np.ndarray:
    """A random walk of quotes on a grid, so that bids and asks often stay, with sizes of every magnitude."""
    random = np.random.default_rng(seed)
    tick = scale * move
    bid = np.maximum(np.round(scale / tick + np.cumsum(random.integers(-2, 3, rows))), 1) * tick
    ask = bid + random.integers(1, 4, rows) * tick
    sizes = np.ceil(size * np.exp(random.normal(0, 1, (2, rows))))
    return np.column_stack([bid, sizes[0], ask, sizes[1]])


def reference(values: np.ndarray, microseconds: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The formulas as they are declared, each window re-read with exact sums; beside them the sums of magnitudes."""
    rows = len(values)
    found = {name: np.full(rows, np.nan) for name in NAMES}
    magnitude = {name: np.zeros(rows) for name in NAMES}
    began = 0
    for row, (bid, bid_size, ask, ask_size) in enumerate(values.tolist()):
        usable = all(1e-30 <= value <= 1e30 for value in (bid, bid_size, ask, ask_size)) and bid < ask
        if not usable:
            began = row + 1
            continue
        if row > began and microseconds[row] - microseconds[row - 1] > GAP / timedelta(microseconds=1):
            began = row
        own = {name: column[row : row + 1] for name, column in found.items()}
        own["mid"][:] = mid = (bid + ask) / 2
        share = bid_size / (bid_size + ask_size)
        own["microprice"][:] = bid * (1 - share) + ask * share
        own["order_imbalance"][:] = imbalance = (bid_size - ask_size) / (bid_size + ask_size)
        own["effective_spread"][:] = imbalance * ((ask - bid) / 2) / mid
        own["quoted_spread"][:] = (ask - bid) / mid
        if row > began:
            last_bid, last_bid_size, last_ask, last_ask_size = values[row - 1].tolist()
            own["mid_return"][:] = math.log(mid / ((last_bid + last_ask) / 2))
            own["order_flow_imbalance"][:] = math.fsum(
                [
                    bid_size * (bid >= last_bid),
                    -last_bid_size * (bid <= last_bid),
                    -ask_size * (ask <= last_ask),
                    last_ask_size * (ask >= last_ask),
                ]
            )
        window = slice(row - WINDOW + 1, row + 1)
        if row - began >= WINDOW - 1:
            for name in ("effective_spread", "order_imbalance", "quoted_spread"):
                found[f"{name}_mean"][row] = math.fsum(found[name][window]) / WINDOW
                magnitude[f"{name}_mean"][row] = np.abs(found[name][window]).mean()
            depth = (values[window, 1] + values[window, 3]) / 2
            mean_depth = math.fsum(depth) / WINDOW
            own["quoted_spread_ratio"][:] = math.log(found["quoted_spread"][row] / found["quoted_spread_mean"][row])
            own["depth_ratio"][:] = math.log(depth[-1] / mean_depth)
        if row - began >= WINDOW:
            flows = found["order_flow_imbalance"][window]
            own["order_flow_imbalance_sum"][:] = math.fsum(flows)
            own["order_flow_imbalance_relative"][:] = math.fsum(flows) / mean_depth
            magnitude["order_flow_imbalance_sum"][row] = np.abs(flows).sum()
            magnitude["order_flow_imbalance_relative"][row] = np.abs(flows).sum() / mean_depth
            squares = [change * change for change in found["mid_return"][window]]
            own["mid_volatility"][:] = math.sqrt(math.fsum(squares) / WINDOW)
            first = found["microprice"][row - WINDOW]
            if first > 0 and own["microprice"][0] > 0:
                own["microprice_momentum"][:] = math.log(own["microprice"][0] / first)
    return found, magnitude


SPOILS = st.tuples(
    st.integers(0, 3), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-31, 1e31, "locked", "crossed"])
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 90),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-20, 1e-3, 100.0, 1e20]),
    size=st.sampled_from([1e-20, 1.0, 300.0, 1e20]),
    move=st.sampled_from([1e-9, 1e-4, 0.3]),
    constant=st.booleans(),
    spoilt=st.dictionaries(st.integers(0, 89), SPOILS, max_size=2),
    gaps=st.dictionaries(st.integers(0, 89), st.sampled_from([1, 1_800_000_000, 1_800_000_001, 10**12]), max_size=2),
)
def test_every_value_is_what_its_formula_says(rows, seed, scale, size, move, constant, spoilt, gaps):
    values = random_quotes(rows, seed, scale, size, move)
    if constant:
        values[:] = values[:1]
    for row, (column, value) in spoilt.items():
        if row < rows:
            if isinstance(value, str):
                values[row, 2] = values[row, 0] * (1.0 if value == "locked" else 0.99)
            else:
                values[row, column] = value
    steps = [timedelta(microseconds=gaps.get(row, 60_000_000)) for row in range(rows - 1)]
    quotes = quotes_of(values, steps)
    found = compute_microstructure(quotes)
    MICROSTRUCTURE_FEATURES.schema().validate(found, lazy=True)
    expected, magnitude = reference(values, quotes["available_at"].astype("int64").to_numpy())
    for feature in MICROSTRUCTURE:
        name, exact = feature.name, expected[feature.name]
        # Stored in single precision: half a unit in the 24th bit; prices in double, after a handful of roundings. A
        # sum is off by 5 roundings of the values' magnitudes; a logarithm, by that of the ratio it is taken of; and
        # the least number of single precision is 1e-45.
        relative = 1e-14 if feature.in_currency else 7e-8
        absolute = 1e-14 * magnitude[name] + (1e-14 if name.endswith(("ratio", "return", "momentum")) else 0.0)
        with np.errstate(over="ignore"):
            close = np.abs(found[name] - exact) <= relative * np.abs(exact) + absolute + 1e-44
        assert (close | (np.isnan(exact) & found[name].isna())).all(), name
        assert not np.isinf(found[name]).any()
        if feature.maximum is not None:
            assert not (found[name] > feature.maximum).any()


def test_the_warm_up_of_each_feature_is_the_declared_one():
    found = compute_microstructure(quotes_of(random_quotes(60, 1)))
    first = {name: int(found[name].first_valid_index()) for name in NAMES}
    assert first == {feature.name: feature.warmup for feature in MICROSTRUCTURE}
    assert found.iloc[WINDOW:].notna().all(axis=None)


def test_a_large_bid_leans_the_price_to_the_ask():
    found = compute_microstructure(quotes_of(np.array([[99.0, 900.0, 100.0, 100.0]]))).iloc[0]
    assert found["microprice"] == 99.9
    assert found["order_imbalance"] == np.float32(0.8)
    assert found["effective_spread"] == np.float32(0.4 / 99.5)


@pytest.mark.parametrize(
    ("after", "flow"),
    [
        ((10.00, 70, 10.02, 40), +20),  # more is wanted at the same bid
        ((10.00, 50, 10.02, 55), -15),  # more is offered at the same ask
        ((10.01, 30, 10.02, 40), +30),  # a better bid: all of it is new demand
        ((9.99, 80, 10.02, 40), -50),  # the old bid is gone
        ((10.00, 50, 10.01, 25), -25),  # a better ask: all of it is new supply
        ((10.00, 50, 10.03, 90), +40),  # the old ask is gone
        ((10.05, 10, 10.06, 20), +50),  # both rise: new demand, and the old supply is gone
        ((10.00, 50, 10.02, 40), 0),
    ],
)
def test_order_flow_of_one_change(after, flow):
    found = compute_microstructure(quotes_of(np.array([(10.00, 50, 10.02, 40), after])))
    assert found["order_flow_imbalance"].iloc[1] == flow


def test_constant_quotes_have_neither_flow_nor_volatility():
    found = compute_microstructure(quotes_of(np.tile([99.9, 300.0, 100.1, 100.0], (50, 1)))).iloc[WINDOW:]
    for name in ("mid_return", "order_flow_imbalance_sum", "order_flow_imbalance_relative", "mid_volatility"):
        assert (found[name] == 0.0).all(), name
    assert (found["microprice_momentum"] == 0.0).all()
    assert (found["order_imbalance_mean"] == 0.5).all()
    np.testing.assert_allclose(found[["quoted_spread_ratio", "depth_ratio"]], 0.0, atol=1e-15)


@pytest.mark.parametrize(("gap", "restarts"), [(GAP, False), (GAP + timedelta(microseconds=1), True)])
def test_what_rolls_begins_anew_after_a_gap(gap, restarts):
    values, half = random_quotes(100, 2), 50
    steps = [timedelta(minutes=1)] * (half - 1) + [gap] + [timedelta(minutes=1)] * half
    found = compute_microstructure(quotes_of(values, steps))
    alone = compute_microstructure(quotes_of(values[half:]))
    assert found.iloc[half:].reset_index(drop=True)[NAMES].equals(alone[NAMES]) == restarts
    assert found["mid_return"].isna().iloc[half] == restarts
    assert found["order_imbalance_mean"].isna().iloc[half : half + WINDOW - 1].all() == restarts


def test_a_quote_that_is_none_has_nothing_and_what_rolls_begins_anew():
    values = random_quotes(80, 3)
    values[40, 1] = math.nan
    found = compute_microstructure(quotes_of(values))
    assert found[NAMES].iloc[40].isna().all()
    assert found.iloc[41:].reset_index(drop=True)[NAMES].equals(compute_microstructure(quotes_of(values[41:]))[NAMES])


def test_a_huge_quote_is_forgotten_with_its_window():
    values = random_quotes(100, 4)
    values[30] = [1e15, 1e25, 2e15, 3e20]
    found, alone = compute_microstructure(quotes_of(values)), compute_microstructure(quotes_of(values[31:]))
    pd.testing.assert_frame_equal(
        found.iloc[31 + WINDOW :][NAMES].reset_index(drop=True), alone.iloc[WINDOW:][NAMES].reset_index(drop=True),
        check_exact=True,
    )  # fmt: skip


def test_sums_stay_within_the_stated_bound_after_many_rows():
    # Sizes of 15 orders of magnitude: a sum that adds and subtracts would have lost all digits of the small ones.
    random = np.random.default_rng(5)
    values = random_quotes(30_000, 5)
    values[:, [1, 3]] = 10 ** random.uniform(0, 15, (len(values), 2))
    values[25_000:, [1, 3]] = 10 ** random.uniform(0, 2, (5_000, 2))
    microseconds = np.arange(len(values)) * 60_000_000
    found = dict(zip(QuoteStream.names, QuoteStream().extend(microseconds, values.T), strict=True))
    flows, total = found["order_flow_imbalance"], found["order_flow_imbalance_sum"]
    for row in range(25_000 + WINDOW, 30_000, 7):
        window = flows[row - WINDOW + 1 : row + 1]
        assert abs(total[row] - math.fsum(window)) <= 5 * 2**-53 * np.abs(window).sum()


def test_symbols_do_not_touch_each_other_and_come_sorted():
    one, two = quotes_of(random_quotes(60, 6), symbol="B"), quotes_of(random_quotes(60, 7), symbol="A")
    mixed = pd.concat([one, two]).sort_values("available_at", kind="stable")
    apart = pd.concat([compute_microstructure(two), compute_microstructure(one)], ignore_index=True)
    pd.testing.assert_frame_equal(compute_microstructure(mixed), apart, check_exact=True)


def test_the_quotes_within_reach_are_enough_to_continue():
    random = np.random.default_rng(8)
    steps = [
        timedelta(minutes=int(minutes)) for minutes in random.choice([1, 15, 30, 31], 399, p=[0.3, 0.1, 0.59, 0.01])
    ]
    quotes = quotes_of(random_quotes(400, 8), steps)
    whole = compute_microstructure(quotes)
    for row in range(0, 400, 13):
        start = quotes["available_at"].iloc[row]
        part = compute_microstructure(quotes[quotes["available_at"] >= start - REACH])
        pd.testing.assert_frame_equal(
            part[part["available_at"] >= start].reset_index(drop=True), whole.iloc[row:].reset_index(drop=True),
            check_exact=True,
        )  # fmt: skip


def test_missing_values_are_counted_by_their_reason():
    values = random_quotes(100, 9)
    values[60, 0] = math.nan
    values[80, 1] = values[80, 1] * 1e17  # the weighted mid lies on the ask, and nothing is undefined
    steps = [timedelta(minutes=1)] * 29 + [timedelta(days=1)] + [timedelta(minutes=1)] * 70
    rows = compute_microstructure(pd.concat([quotes_of(values, steps), quotes_of(values[:5], symbol="B")]))
    counts = quote_coverage(rows).set_index("feature")
    assert (counts["rows"] == 105).all()
    assert (counts["no usable quote"] == 1).all()
    assert (counts["undefined"] == 0).all()
    # The beginning of A, after the night and after the quote that is none; B has five quotes, fewer than a window.
    assert counts.loc["mid", "warm-up"] == 0
    assert counts.loc["mid_return", "warm-up"] == 4
    assert counts.loc["order_imbalance_mean", "warm-up"] == 3 * (WINDOW - 1) + 5
    assert counts.loc["mid_volatility", "warm-up"] == 3 * WINDOW + 5
    empty = counts[["no usable quote", "warm-up", "undefined"]].sum(axis=1)
    np.testing.assert_array_equal(rows[NAMES].isna().sum(), empty)
    np.testing.assert_allclose(counts["valid_share"], 1 - empty / 105, rtol=1e-12)
    assert quote_coverage(rows.iloc[:0])["valid_share"].isna().all()


def test_a_vanishing_microprice_has_no_momentum_and_that_is_counted():
    # The bid is so low and so small that the weighted mid rounds to zero.
    values = np.tile([1e-25, 1.0, 1.0, 1e20], (WINDOW + 1, 1))
    rows = compute_microstructure(quotes_of(values))
    assert (rows["microprice"] == 0.0).all()
    assert rows["microprice_momentum"].isna().all()
    assert quote_coverage(rows).set_index("feature").loc["microprice_momentum", "undefined"] == 1


def test_wrong_frames_are_refused():
    quotes = quotes_of(random_quotes(5, 10))
    with pytest.raises(ValueError, match=r"quotes lack the columns \['ask'\]"):
        compute_microstructure(quotes.drop(columns="ask"))
    with pytest.raises(
        ValueError, match=r"quotes of 'A': 2015-01-05 15:01:00.* does not come after 2015-01-05 15:02:00"
    ):
        compute_microstructure(quotes.iloc[[0, 2, 1]])
    with pytest.raises(ValueError, match="remove duplicates"):
        compute_microstructure(quotes.iloc[[0, 1, 1]])


def test_the_set_of_models_means_the_same_at_any_price_and_size():
    values = random_quotes(60, 11)
    # Powers of two: scaling rounds nothing.
    scaled = values * np.array([2.0**10, 2.0**-3, 2.0**10, 2.0**-3])
    found, again = compute_microstructure(quotes_of(values)), compute_microstructure(quotes_of(scaled))
    same = [name for name in NAMES if found[name].equals(again[name])]
    assert tuple(same) == MICROSTRUCTURE_SET


@pytest.mark.parametrize(("explained", "least", "most"), [(0.3, 0.4, 0.6), (0.0, -0.06, 0.06)])
def test_imbalance_tells_the_simulated_signal_and_nothing_where_there_is_none(explained, least, most):
    # The sizes know the signal with a correlation of 0.95, and it explains this share of the next return: at 0.3 the
    # imbalance knows it with 0.95 · √0.3 = 0.52. Without a signal 3,000 rows leave 0.06 to chance, in three deviations.
    source = SimulatedSource(
        ["A"], "5m", "2015-01-05", "2015-02-27", settings={"signal_r2": explained, "imbalance_signal": 0.95}
    )
    quotes, refused = validate_quotes(source.quotes(["A"], NOW - timedelta(days=30), NOW + timedelta(days=90)))
    assert refused.empty
    found = compute_microstructure(quotes)
    assert least < found["order_imbalance"].corr(found["mid_return"].shift(-1)) < most


@pytest.fixture(scope="module")
def real_quotes() -> pd.DataFrame:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "quotes_minute.parquet"
    if not path.is_file():
        pytest.skip("no ../shared/data beside the repository: real minute quotes are tested only with it")
    source = FilesSource(quotes={"path": path, "columns": {"available_at": "ts"}})
    span = datetime(2013, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC)
    return validate_quotes(source.quotes(["SPY", "IBM", "BAC", "AIG", "AAPL"], *span))[0]


def test_real_quotes(real_quotes):
    found = compute_microstructure(real_quotes)
    MICROSTRUCTURE_FEATURES.schema().validate(found, lazy=True)
    pd.testing.assert_frame_equal(found, replay_quotes(found[["symbol", "available_at"]].merge(real_quotes)))
    counts = quote_coverage(found).set_index("feature")
    assert (counts["undefined"] + counts["no usable quote"] == 0).all()
    assert counts["valid_share"].min() > 0.95
    # No return bridges a night: AAPL's split of seven for one lies in one.
    assert found["mid_return"].abs().max() < 0.01
    assert found["microprice_momentum"].abs().max() < 0.02
    # Cont, Kukanov and Stoikov explain two thirds of a return by the order flow of all its events; quotes of a minute
    # show a fraction of the events, and still the price follows the flow in every stock.
    for _, own in found.groupby("symbol"):
        assert own["order_flow_imbalance_relative"].corr(own["microprice_momentum"]) > 0.2


def test_the_audit_of_features_finds_no_look_ahead_and_catches_one():
    quotes = pd.concat([quotes_of(random_quotes(150, seed), symbol=str(seed)) for seed in (12, 13)], ignore_index=True)
    assert audit_causality(compute_microstructure, quotes, cuts=8).passed

    def leaking(quotes: pd.DataFrame) -> pd.DataFrame:
        rows = compute_microstructure(quotes)
        return rows.assign(mid_return=rows.groupby("symbol")["mid_return"].shift(-1))

    assert set(audit_causality(leaking, quotes, cuts=8).violations["column"]) == {"mid_return"}

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.config import Config
from atlas_pipeline.trading.layout import BUY, CASH, ENTRY_PRICE, EQUITY, HOLD, PEAK, POSITION, SELL, SHARES
from atlas_pipeline.trading.rewards import DifferentialSharpeRatio
from atlas_pipeline.trading.simulator import DEVIATION_FLOOR, Rules, open_account, step

RULES = Rules.of(Config())
FREE = RULES._replace(commission=0.0, slippage=0.0)
bars = st.lists(
    st.tuples(st.sampled_from([HOLD, BUY, SELL]), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
    min_size=1,
    max_size=40,
)
costs = st.tuples(st.floats(0, 0.02), st.floats(0, 0.02))


def walk(
    path: list[tuple[int, float, float]], rules: Rules
) -> list[tuple[np.ndarray, np.ndarray, float, float, float]]:
    """Account before and after each step, with the bar's fill, close and the costs paid."""
    account, close, record = open_account(10_000.0, 1.0), 100.0, []
    for action, to_fill, to_close in path:
        before, fill = account.copy(), close * (1 + to_fill)
        previous, close = close, fill * (1 + to_close)
        outcome = step(account, action, fill, close, 1.0, rules)
        record.append((before, account.copy(), previous, fill, outcome))
    return record


@given(bars, costs, st.sampled_from([(-1, 1), (0, 1), (-3, 3)]))
@settings(max_examples=150, deadline=None)
def test_value_is_conserved(
    path: list[tuple[int, float, float]], cost: tuple[float, float], bounds: tuple[int, int]
) -> None:
    rules = RULES._replace(commission=cost[0], slippage=cost[1], min_position=bounds[0], max_position=bounds[1])
    close = 100.0
    for (action, to_fill, to_close), (before, after, previous, fill, outcome) in zip(
        path, walk(path, rules), strict=True
    ):
        close = previous * (1 + to_fill) * (1 + to_close)
        paid = outcome.commission + outcome.slippage
        held = before[SHARES] * (fill - previous) + after[SHARES] * (close - fill)
        if not outcome.ruined:
            assert after[EQUITY] - before[EQUITY] == pytest.approx(held - paid, abs=1e-6)
            assert after[EQUITY] == pytest.approx(after[CASH] + after[SHARES] * close, abs=1e-6)
            assert bounds[0] <= after[POSITION] <= bounds[1]
        if action == HOLD:
            assert outcome.traded == 0.0 or outcome.ruined


@given(bars, costs, costs)
@settings(max_examples=100, deadline=None)
def test_fees_never_help(
    path: list[tuple[int, float, float]], cost: tuple[float, float], more: tuple[float, float]
) -> None:
    cheap = RULES._replace(commission=cost[0], slippage=cost[1])
    dear = cheap._replace(commission=cost[0] + more[0], slippage=cost[1] + more[1])
    equity = [walk(path, rules)[-1][1][EQUITY] for rules in (FREE, cheap, dear)]
    assert equity[0] >= equity[1] - 1e-6
    assert equity[1] >= equity[2] - 1e-6


def test_buys_one_unit_of_what_is_left_at_an_adverse_price() -> None:
    account = open_account(10_000.0, 1.0)
    outcome = step(account, BUY, 100.0, 100.0, 1.0, RULES)
    assert outcome.price == pytest.approx(100.01)
    # Shares worth exactly the equity that remains; nothing is borrowed for the costs.
    assert account[CASH] == pytest.approx(0.0, abs=1e-9)
    assert account[EQUITY] == pytest.approx(10_000 / (1 + 1e-4 + 1e-4 * 1.0001))
    assert account[ENTRY_PRICE] == pytest.approx(100.01)


def test_sells_short_at_a_lower_price_and_gains_when_prices_fall() -> None:
    account = open_account(10_000.0, 1.0)
    outcome = step(account, SELL, 100.0, 90.0, 1.0, RULES)
    assert outcome.price == pytest.approx(99.99)
    assert account[SHARES] * 100 == pytest.approx(-(account[CASH] + account[SHARES] * 100))
    assert outcome.net_return == pytest.approx(0.1, abs=1e-3)


def test_hold_keeps_the_shares_and_an_order_at_the_bound_does_not_trade() -> None:
    account = open_account(10_000.0, 1.0)
    step(account, BUY, 100.0, 100.0, 1.0, RULES)
    shares = account[SHARES]
    for action, close in ((HOLD, 130.0), (BUY, 70.0)):
        assert step(account, action, close, close, 1.0, RULES).traded == 0.0
        assert account[SHARES] == shares


def test_an_order_fills_in_the_next_bar_and_earns_from_there() -> None:
    early, late = open_account(10_000.0, 1.0), open_account(10_000.0, 1.0)
    # The bar goes from 100 to 110: filled at its open the order earns that, at its close it does not.
    step(early, BUY, 100.0, 110.0, 1.0, FREE)
    step(late, BUY, 110.0, 110.0, 1.0, FREE)
    assert early[EQUITY] == pytest.approx(11_000.0)
    assert late[EQUITY] == pytest.approx(10_000.0)


def test_entry_price_is_the_average_of_what_was_added() -> None:
    rules = FREE._replace(max_position=2)
    account = open_account(10_000.0, 1.0)
    step(account, BUY, 100.0, 110.0, 1.0, rules)
    step(account, BUY, 110.0, 110.0, 1.0, rules)
    assert account[SHARES] == pytest.approx(200.0)
    assert account[ENTRY_PRICE] == pytest.approx(105.0)
    step(account, SELL, 110.0, 110.0, 1.0, rules)
    assert account[ENTRY_PRICE] == pytest.approx(105.0)
    step(account, SELL, 110.0, 110.0, 1.0, rules)
    assert (account[SHARES], account[ENTRY_PRICE]) == (0.0, 0.0)


@pytest.mark.parametrize("action", [HOLD, BUY])
def test_ruin_closes_the_account_for_good(action: int) -> None:
    account = open_account(10_000.0, 1.0)
    step(account, SELL, 100.0, 100.0, 1.0, RULES)
    outcome = step(account, action, 250.0, 250.0, 1.0, RULES)
    assert outcome.ruined
    assert (account[SHARES], account[POSITION]) == (0.0, 0.0)
    before = account.copy()
    assert step(account, BUY, 250.0, 100.0, 1.0, RULES).ruined
    np.testing.assert_array_equal(account, before)


def test_reward_is_the_class_applied_to_the_net_return() -> None:
    account = open_account(10_000.0, 1.0)
    ratio = DifferentialSharpeRatio(
        RULES.sharpe_eta, RULES.sharpe_warmup, second_moment=1e-4, minimum_deviation=DEVIATION_FLOOR * 0.01
    )
    random, close = np.random.default_rng(1), 100.0
    rewards = []
    for _ in range(100):
        close *= float(np.exp(0.01 * random.standard_normal()))
        outcome = step(account, int(random.integers(3)), close, close, 1.0, RULES)
        rewards.append(outcome.reward)
        assert outcome.reward == pytest.approx(ratio.update(outcome.net_return), rel=1e-12, abs=1e-12)
    assert rewards[: RULES.sharpe_warmup] == [0.0] * RULES.sharpe_warmup
    assert all(rewards[RULES.sharpe_warmup :])
    assert account[PEAK] >= account[EQUITY]


def test_refuses_an_unknown_action_and_an_account_of_nothing() -> None:
    with pytest.raises(ValueError, match="HOLD"):
        step(open_account(1.0, 1.0), 3, 1.0, 1.0, 1.0, RULES)
    with pytest.raises(ValueError, match="balance=0"):
        open_account(0.0, 1.0)
    with pytest.raises(ValueError, match="volatility=nan"):
        open_account(1.0, float("nan"))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([HOLD, BUY, SELL]),
        st.floats(-0.05, 0.05),
        st.floats(-0.05, 0.05),
        st.sampled_from([1.0, 1.0, 7.0, 1.5, 0.1]),
        st.sampled_from([0.0, 0.0, 0.02]),
    ),
    min_size=1,
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_a_split_changes_the_count_of_shares_and_nothing_else(
    path: list[tuple[int, float, float, float, float]],
) -> None:
    plain, split_up = open_account(10_000.0, 1.0), open_account(10_000.0, 1.0)
    close, shares = 100.0, 1.0
    for action, to_fill, to_close, split, _ in path:
        fill = close * (1 + to_fill)
        close, shares = fill * (1 + to_close), shares * split
        one = step(plain, action, fill, close, 1.0, RULES)
        other = step(split_up, action, fill / shares, close / shares, 1.0, RULES, split, 0.0)
        # A few roundings a bar.
        assert split_up[EQUITY] == pytest.approx(plain[EQUITY], rel=1e-12)
        assert other.net_return == pytest.approx(one.net_return, rel=1e-9, abs=1e-12)
        assert other.commission == pytest.approx(one.commission, rel=1e-9, abs=1e-9)
        assert split_up[SHARES] == pytest.approx(plain[SHARES] * shares, rel=1e-9)
        assert split_up[ENTRY_PRICE] * shares == pytest.approx(plain[ENTRY_PRICE], rel=1e-9)
        assert split_up[POSITION] == plain[POSITION]


@given(EVENTS, costs)
@settings(max_examples=100, deadline=None)
def test_value_is_conserved_through_splits_and_dividends(
    path: list[tuple[int, float, float, float, float]], cost: tuple[float, float]
) -> None:
    rules = RULES._replace(commission=cost[0], slippage=cost[1])
    account, close = open_account(10_000.0, 1.0), 100.0
    for action, to_fill, to_close, split, share in path:
        before, previous = account.copy(), close
        dividend = share * close / split
        fill = close / split * (1 + to_fill) - dividend
        close = fill * (1 + to_close)
        outcome = step(account, action, fill, close, 1.0, rules, split, dividend)
        if outcome.ruined:
            return
        held = before[SHARES] * split
        gain = held * (fill + dividend - previous / split) + account[SHARES] * (close - fill)
        costs_paid = outcome.commission + outcome.slippage
        assert account[EQUITY] - before[EQUITY] == pytest.approx(gain - costs_paid, abs=1e-6)
        assert outcome.dividend == held * dividend
        assert account[CASH] + account[SHARES] * close == pytest.approx(account[EQUITY], abs=1e-6)


@pytest.mark.parametrize(("action", "side"), [(BUY, 1.0), (SELL, -1.0)])
def test_who_holds_into_the_ex_date_is_paid_and_who_is_short_pays(action: int, side: float) -> None:
    account = open_account(10_000.0, 1.0)
    step(account, action, 100.0, 100.0, 1.0, FREE)
    outcome = step(account, HOLD, 98.0, 98.0, 1.0, FREE, 1.0, 2.0)
    assert outcome.dividend == pytest.approx(side * 200.0)
    # The price fell by what was paid: nobody gained or lost, and the open position says so.
    assert account[EQUITY] == pytest.approx(10_000.0)
    assert account[ENTRY_PRICE] == pytest.approx(98.0)


def test_who_buys_on_the_ex_date_is_not_paid_and_who_sells_there_is() -> None:
    late = open_account(10_000.0, 1.0)
    assert step(late, BUY, 98.0, 98.0, 1.0, FREE, 1.0, 2.0).dividend == 0.0
    leaving = open_account(10_000.0, 1.0)
    step(leaving, BUY, 100.0, 100.0, 1.0, FREE)
    assert step(leaving, SELL, 98.0, 98.0, 1.0, FREE, 1.0, 2.0).dividend == pytest.approx(200.0)
    assert (leaving[SHARES], leaving[CASH]) == (0.0, pytest.approx(10_000.0))


def test_a_ruined_account_is_paid_nothing() -> None:
    account = open_account(10_000.0, 1.0)
    step(account, SELL, 100.0, 100.0, 1.0, RULES)
    step(account, HOLD, 250.0, 250.0, 1.0, RULES)
    before = account.copy()
    assert step(account, HOLD, 250.0, 250.0, 1.0, RULES, 2.0, 1.0).dividend == 0.0
    np.testing.assert_array_equal(account, before)

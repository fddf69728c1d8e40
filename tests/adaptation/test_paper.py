import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from atlas_pipeline.adaptation.ledger import EQUITY, GATE_DECISIONS, LEDGER_TABLES
from atlas_pipeline.adaptation.paper import (
    LedgerError,
    LedgerRows,
    LedgerState,
    action_uniform,
    restore,
    trade,
    trade_bar,
)
from atlas_pipeline.trading.layout import ACCOUNT, CONTEXT
from atlas_pipeline.trading.policy import decide
from atlas_pipeline.trading.simulator import Rules, open_account, step
from atlas_pipeline.trading.state import state_vector

SEED = 3


@pytest.fixture(scope="module")
def paths(base, panel, hardware):
    return base.market_paths(panel, None, None, hardware)


def run(state, paths, policy, config, bars=None):
    rows = LedgerRows()
    traded = itertools.islice(trade(state, paths, policy, config, SEED), bars)
    for after, more in traded:
        state = after
        rows.extend(more)
    return state, rows.frames()


@pytest.fixture(scope="module")
def undisturbed(paths, base, config):
    return run(LedgerState("main"), paths, base, config)


def merge(tables, frames):
    """What the warehouse does: append where the key is new."""
    return {
        table.name: pd.concat([tables[table.name], frames[table.name]])
        .drop_duplicates(list(table.key))
        .reset_index(drop=True)
        for table in LEDGER_TABLES
    }


def test_rows_fit_their_tables(undisturbed):
    _, frames = undisturbed
    for table in LEDGER_TABLES:
        checked = table.schema().validate(frames[table.name], lazy=True)
        assert len(checked) > 0
        pd.testing.assert_frame_equal(checked, frames[table.name])


def test_empty_frames_fit_too():
    for table in LEDGER_TABLES:
        table.schema().validate(LedgerRows().frames()[table.name], lazy=True)
    assert GATE_DECISIONS.key == ("ledger", "candidate_sha256", "bar")


def test_counts(undisturbed, paths):
    state, frames = undisturbed
    bars = sum(len(path) for path in paths)
    assert len(frames["decisions"]) == len(frames["equity"]) == bars
    assert len(frames["experience"]) == bars - 2 == state.env_steps
    np.testing.assert_array_equal(frames["experience"]["env_step"], np.arange(1, bars - 1))
    assert frames["experience"].groupby("symbol")["episode_start"].sum().tolist() == [1, 1]
    assert 0 < len(frames["fills"]) < bars
    assert frames["decisions"]["action"].nunique() == 3


def test_equals_the_simulator_alone(undisturbed, paths, base, config):
    _, frames = undisturbed
    path = paths[0]
    decisions = frames["decisions"].query("symbol == 'AAA'").reset_index()
    equity = frames["equity"].query("symbol == 'AAA'").reset_index()
    experience = frames["experience"].query("symbol == 'AAA'").reset_index()
    account = open_account(config.initial_balance, path.volatility[0])
    for t in range(len(path) - 1):
        np.testing.assert_array_equal(equity.loc[t, list(ACCOUNT)].to_numpy(float), account)
        action = int(decisions.loc[t, "action"])
        outcome = step(account, action, path.close[t + 1], path.close[t + 1], path.volatility[t], Rules.of(config))
        assert experience.loc[t, "reward"] == outcome.reward
        assert experience.loc[t, "action"] == action
        assert equity.loc[t + 1, "net_return"] == outcome.net_return
        assert experience.loc[t, "next_bar"] == decisions.loc[t + 1, "bar"]
    assert (experience["net_return"] == equity["net_return"].to_numpy()[1:]).all()


def test_actions_are_sampled_and_their_probabilities_stored(undisturbed, paths, base):
    _, frames = undisturbed
    path = paths[1]
    rows = frames["decisions"].query("symbol == 'BBB'")
    contexts = rows[[f"context_{name}" for name in CONTEXT]].to_numpy(np.float32)
    for t in (0, 10, 50):
        state = state_vector(path.embedding[t], contexts[t])[None]
        uniform = action_uniform(SEED, "main", "BBB", int(path.available_at[t]))
        action, log_probability, value = decide(base.actor_critic, state, np.array([uniform]))
        assert rows["action"].iloc[t] == action[0]
        assert rows["log_probability"].iloc[t] == log_probability[0]
        assert rows["value"].iloc[t] == value[0]


def test_random_numbers_are_uniform_and_their_own(undisturbed):
    draws = np.array([action_uniform(0, "main", "AAA", bar) for bar in range(2000)])
    assert abs(draws.mean() - 0.5) < 4 / np.sqrt(12 * 2000)
    assert len(np.unique(draws)) == 2000
    others = {action_uniform(*key) for key in ((1, "main", "AAA", 5), (0, "m", "AAA", 5), (0, "main", "B", 5))}
    assert len(others | {draws[5]}) == 4


@pytest.fixture(scope="module")
def eventful(paths, as_traded):
    """The same market through splits and dividends."""
    dividends = {5: 0.6, 40: 0.1} | dict.fromkeys(range(48, 120, 6), 0.05)
    return [as_traded(path, {9: 7.0, 40: 2.0, 41: 0.5}, dividends) for path in paths]


def test_splits_and_dividends_are_booked_and_balance(eventful, base, config):
    """Shares and cash of every bar follow from those of the bar before, its fill, and what was booked."""
    _, frames = run(LedgerState("main"), eventful, base, config)
    fills = frames["fills"].set_index(["symbol", "bar"])[["quantity", "price", "commission"]]
    for path in eventful:
        rows = frames["equity"].query("symbol == @path.symbol").set_index("bar")
        np.testing.assert_array_equal(rows["split"].iloc[1:], path.split[1:])
        assert (rows["split"].iloc[0], rows["dividend"].iloc[0]) == (1.0, 0.0)
        own = fills.xs(path.symbol).reindex(rows.index, fill_value=0.0)
        shares = rows["shares"].shift(fill_value=0.0) * rows["split"]
        np.testing.assert_array_equal(rows["dividend"], shares * path.dividend)
        np.testing.assert_allclose(rows["shares"], shares + own["quantity"], rtol=1e-12, atol=1e-9)
        cash = rows["cash"].shift(fill_value=config.initial_balance) + rows["dividend"]
        cash -= own["quantity"] * own["price"] + own["commission"]
        np.testing.assert_allclose(rows["cash"], cash, rtol=0, atol=1e-7)
        before = rows["equity"].shift(fill_value=config.initial_balance)
        np.testing.assert_allclose(rows["net_return"], rows["equity"] / before - 1, atol=1e-12)
        assert (abs(rows["net_return"]) < 0.1).all(), "a split was taken for a crash"
    assert (frames["equity"]["dividend"] < 0).any() and (frames["equity"]["dividend"] > 0).any()


@pytest.mark.parametrize("bars", range(5, 64, 3))
def test_a_ledger_stopped_around_an_ex_date_books_it_once(eventful, base, config, bars):
    _, expected = run(LedgerState("main"), eventful, base, config)
    _, tables = run(LedgerState("main"), eventful, base, config, bars)
    resumed = restore("main", tables["equity"], tables["decisions"], tables["experience"])
    _, more = run(resumed, [path.between(bars - 4, len(path)) for path in eventful], base, config)
    tables = merge(tables, more)
    for table in LEDGER_TABLES:
        one, other = (
            frames[table.name].sort_values(list(table.key)).reset_index(drop=True) for frames in (tables, expected)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("kept", range(len(LEDGER_TABLES) + 1))
@pytest.mark.parametrize("bars", [1, 2, 40])
def test_a_ledger_killed_between_any_two_writes_goes_on_exactly(undisturbed, paths, base, learned, config, bars, kept):
    """Of the last bar only the first ``kept`` tables were written; the model changed before the restart."""
    final, expected = undisturbed
    state, tables = run(LedgerState("main"), paths, base, config, bars)
    _, last = run(state, paths, base, config, 1)
    written = {name: last[name] if i < kept else last[name].iloc[:0] for i, name in enumerate(last)}
    tables = merge(tables, written)
    resumed = restore("main", tables["equity"], tables["decisions"], tables["experience"])
    state, more = run(resumed, paths, base, config)
    tables = merge(tables, more)
    assert state.env_steps == final.env_steps
    for table in LEDGER_TABLES:
        one, other = (
            frames[table.name].sort_values(list(table.key)).reset_index(drop=True) for frames in (tables, expected)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_new_model_decides_from_the_restart_on_and_changes_nothing_before(
    paths, base, learned, panel, config, hardware
):
    _, tables = run(LedgerState("main"), paths, base, config, 20)
    resumed = restore("main", tables["equity"], tables["decisions"], tables["experience"])
    live = base.with_adapter(learned, "7")
    _, more = run(resumed, live.market_paths(panel, None, None, hardware), live, config)
    assert set(more["decisions"]["model_version"]) == {"7"}
    assert set(more["decisions"]["adapter_sha256"]) == {learned.sha256}
    # The first step of each account was decided by the old model.
    assert more["experience"].groupby("symbol")["model_version"].agg(list).map(lambda v: v[:2]).tolist() == [
        ["base", "7"],
        ["base", "7"],
    ]


def test_other_ledgers_are_not_seen(undisturbed):
    _, frames = undisturbed
    state = restore("other", frames["equity"], frames["decisions"], frames["experience"])
    assert (state.ledger, state.bar, state.env_steps, state.accounts) == ("other", None, 0, {})


def test_a_symbol_without_the_bar_is_left_alone(paths, base, config):
    first = int(paths[0].available_at[0])
    assert first < paths[1].available_at[0]
    state, rows = trade_bar(LedgerState("main"), paths, first, base, config, SEED)
    assert list(state.accounts) == ["AAA"]
    assert [row["symbol"] for row in rows.rows["decisions"]] == ["AAA"]


def test_actions_do_not_depend_on_later_bars(undisturbed, paths, base, config):
    _, expected = undisturbed
    _, frames = run(LedgerState("main"), [path.between(0, 50) for path in paths], base, config)
    known = expected["decisions"]["bar"] <= frames["decisions"]["bar"].max()
    common = expected["decisions"][known].merge(frames["decisions"], on=["symbol", "bar"])
    assert len(common) == 100
    assert (common["action_x"] == common["action_y"]).all()


def test_a_ruined_account_closes(base, paths, config):
    path = paths[0].between(0, 12)
    close = path.close.copy()
    close[6:] *= 1e4  # ruins whoever is short
    crash = dataclasses.replace(path, close=close)
    seed = next(s for s in range(50) if _position(crash, base, config, s, 6) < 0)
    state, rows = LedgerState("main"), LedgerRows()
    for after, more in trade(state, [crash], base, config, seed):
        state = after
        rows.extend(more)
    frames = rows.frames()
    assert state.closed == {"AAA"}
    assert frames["experience"]["terminated"].tolist() == [False] * 5 + [True]
    assert frames["equity"]["equity"].iloc[-1] <= 0
    again = restore("main", frames["equity"], frames["decisions"], frames["experience"])
    for _, more in trade(again, [crash], base, config, seed):
        for name, new in more.frames().items():
            old = frames[name].tail(len(new)).reset_index(drop=True)
            pd.testing.assert_frame_equal(new, old, check_exact=True)


def _position(path, policy, config, seed, bars):
    *_, (state, _) = itertools.islice(trade(LedgerState("main"), [path], policy, config, seed), bars)
    account, decision = state.accounts["AAA"].account, state.accounts["AAA"].decision
    short = account[ACCOUNT.index("position")] < 0
    return -1 if short and decision["action"] != 1 else 1


def test_a_bar_is_traded_once(paths, base, config):
    state, _ = run(LedgerState("main"), paths, base, config, 3)
    with pytest.raises(LedgerError, match="is not later"):
        trade_bar(state, paths, state.bar, base, config, SEED)


def test_torn_tables_are_refused(undisturbed):
    _, frames = undisturbed
    equity, decisions = frames["equity"], frames["decisions"]
    torn = equity[(equity["symbol"] != "BBB") | (equity["bar"] < equity["bar"].max())]
    with pytest.raises(LedgerError, match="no account at that bar"):
        restore("main", torn, frames["decisions"], frames["experience"])
    torn = decisions[(decisions["symbol"] != "BBB") | (decisions["bar"] < decisions["bar"].max())]
    with pytest.raises(LedgerError, match="no decision there"):
        restore("main", frames["equity"], torn, frames["experience"])
    assert EQUITY.key == ("ledger", "symbol", "bar")


def test_a_policy_that_has_diverged_does_not_trade(paths, base, config):
    broken = dataclasses.replace(base)
    model = type(base.actor_critic)(base.actor_critic.state_dim, config.policy_hidden)
    model.load_state_dict({name: torch.full_like(v, torch.nan) for name, v in model.state_dict().items()})
    object.__setattr__(broken, "actor_critic", model)
    with pytest.raises(FloatingPointError, match="not finite"):
        trade_bar(LedgerState("main"), paths, int(paths[0].available_at[0]), broken, config, SEED)

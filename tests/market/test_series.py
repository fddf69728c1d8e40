import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.market.series import actions_between, in_series


def test_bars_stand_behind_their_history_series_by_series(make_bars):
    bars = pd.concat([make_bars("BBB"), make_bars("AAA", seed=1)], ignore_index=True)
    shuffled = bars[20:].sample(frac=1, random_state=0).reset_index(drop=True)
    series = in_series(shuffled, bars[:20])
    assert list(series.symbols) == ["AAA", "BBB"]
    assert np.flatnonzero(series.first).tolist() == [0, 60]
    assert (series.row[60:80] == -1).all() and (np.delete(series.row, range(60, 80)) >= 0).all()
    expected = bars.sort_values(["symbol", "available_at"])
    assert series.close.tolist() == expected["close"].tolist()
    before = expected.groupby("symbol")["close"].shift()
    np.testing.assert_array_equal(series.before(series.close), before.to_numpy())
    assert (series.new_session() == ~series.first).all()


def test_runs_are_counted_within_their_series(make_bars):
    bars = pd.concat([make_bars("AAA", count=5), make_bars("BBB", count=4)], ignore_index=True)
    series = in_series(bars, bars[:0])
    condition = np.array([1, 0, 1, 1, 1, 1, 1, 0, 1], dtype=bool)
    assert series.run_lengths(condition).tolist() == [1, 0, 1, 2, 3, 1, 2, 0, 1]
    none = in_series(bars[:0], bars[:0])
    assert len(none.run_lengths(none.first)) == 0


def test_many_actions_are_mapped_as_one_by_one(make_bars):
    random = np.random.default_rng(5)
    bars = pd.concat([make_bars(symbol, seed=seed) for seed, symbol in enumerate("ABC")], ignore_index=True)
    bars = bars.drop(index=random.integers(0, len(bars), 40)).reset_index(drop=True)
    days = pd.Series(pd.date_range("2014-12-25", "2015-04-10", unit="us"))
    actions = pd.DataFrame(
        {
            "symbol": pd.Series(random.choice(["A", "B", "C", "D"], 150), dtype="str"),
            "session": days.iloc[random.integers(0, len(days), 150)].to_numpy(),
            "kind": pd.Series(random.choice(["split", "dividend"], 150), dtype="str"),
            "value": random.choice([0.5, 2.0, 4.0], 150),
        }
    )
    series = in_series(bars, bars[:0])
    found = actions_between(series, actions).level(series.before(series.close))
    for row in range(len(bars)):
        if series.first[row]:
            assert np.isnan(found[row])
            continue
        before, own = bars.iloc[row - 1], bars.iloc[row]
        between = actions[
            (actions["symbol"] == own["symbol"])
            & (actions["session"] > before["session"])
            & (actions["session"] <= own["session"])
        ].sort_values(["session", "kind"], ascending=[True, False], kind="stable")
        level = before["close"]
        for action in between.itertuples():
            level = level / action.value if action.kind == "split" else level - action.value
        assert found[row] == pytest.approx(level, rel=1e-12)  # the order of the divisions differs

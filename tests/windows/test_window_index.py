from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from atlas_pipeline.windows.index import density_unit, gather, label_instants, labels, window_ends
from atlas_pipeline.windows.panel import CLOSE


def test_windows_stay_in_one_symbol_and_hold_no_missing_value(make_panel):
    panel = make_panel(rows=60, warmup=5)
    values = panel.values.copy()
    values[30, 1], values[90, 1] = np.nan, np.inf
    panel = replace(panel, values=values)
    expected = [
        i
        for i in range(len(panel))
        if i >= 9 and len(set(panel.symbol[i - 9 : i + 1])) == 1 and np.isfinite(panel.values[i - 9 : i + 1]).all()
    ]
    assert window_ends(panel, 10).tolist() == expected
    assert set(window_ends(panel, 10)) & {*range(30, 40), *range(90, 100)} == set()


def test_a_value_missing_from_a_column_that_is_not_read_costs_no_window(make_panel):
    panel = make_panel(rows=60)
    values = panel.values.copy()
    values[30:50, 1] = np.nan
    broken = replace(panel, values=values)
    assert len(window_ends(broken, 10)) < len(window_ends(panel, 10))
    np.testing.assert_array_equal(window_ends(broken.select(["x"]), 10), window_ends(panel.select(["x"]), 10))


def test_labels_exist_within_the_symbol_only(make_panel):
    panel = make_panel(rows=60)
    ends = window_ends(panel, 10, horizon=3)
    assert set(window_ends(panel, 10)) - set(ends) == {57, 58, 59, 117, 118, 119}
    close = panel.prices[:, CLOSE]
    np.testing.assert_allclose(labels(panel, ends, 3), 100 * np.log(close[ends + 3] / close[ends]))
    assert (label_instants(panel, ends, 3) > panel.available_at[ends]).all()
    np.testing.assert_allclose(density_unit(panel, ends, 4), 2.0)


def test_unknown_volatility_ends_no_window(make_panel):
    panel = make_panel(rows=60)
    volatility = panel.volatility.copy()
    volatility[[20, 21]] = np.nan, 0.0
    ends = window_ends(replace(panel, volatility=volatility), 10)
    assert not {20, 21} & set(ends.tolist())
    assert {19, 22} <= set(ends.tolist())


def test_an_absurd_close_ends_no_labelled_window(make_panel):
    panel = make_panel(rows=60)
    prices = panel.prices.copy()
    prices[[20, 30], CLOSE] = np.inf, -1.0
    ends = window_ends(replace(panel, prices=prices), 10, horizon=1)
    assert not {19, 20, 29, 30} & set(ends.tolist())
    assert {18, 21, 28, 31} <= set(ends.tolist())


def test_a_panel_shorter_than_a_window_has_none(make_panel):
    assert len(window_ends(make_panel(rows=5, symbols=("A",)), 10, 1)) == 0


def test_a_window_never_includes_the_future(make_panel):
    panel = make_panel(rows=60, symbols=("A",))
    changed = panel.values.copy()
    changed[41:] += 100
    for values in (panel.values[:41].copy(), changed):
        window = gather(torch.from_numpy(values), torch.tensor([40]), 10)
        np.testing.assert_array_equal(window[0], panel.values[31:41])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    features=st.integers(1, 4),
    length=st.integers(1, 30),
    transposed=st.booleans(),
)
def test_gathered_windows_equal_slices_whatever_the_layout(rows, features, length, transposed):
    if length > rows:
        return
    values = torch.arange(rows * features, dtype=torch.float32).reshape(features, rows).T
    if not transposed:
        values = values.contiguous()
    ends = torch.arange(length - 1, rows).flip(0)
    windows = gather(values, ends, length)
    assert windows.shape == (len(ends), length, features)
    for end, window in zip(ends, windows, strict=True):
        assert torch.equal(window, values[end - length + 1 : end + 1])


def test_a_window_or_a_label_over_a_hole_in_time_is_none(make_panel):
    """A month that was never ingested must not be trained across as if the next bar were tomorrow's."""
    panel = make_panel(rows=100, symbols=("A",), warmup=0)
    later = panel.available_at.copy()
    later[50:] += LONGEST_CLOSURE // timedelta(microseconds=1)
    panel = replace(panel, available_at=later)
    ends = window_ends(panel, 8, horizon=2)
    assert not set(ends) & set(range(48, 57)), "rows whose window or label crosses the hole"
    assert {47, 57} <= set(ends)


def test_labels_are_total_returns_across_ex_dates(make_panel):
    plain = make_panel(rows=60)
    split, dividend, prices = plain.split.copy(), plain.dividend.copy(), plain.prices.copy()
    split[30], dividend[32] = 7.0, 0.25
    prices[30:60, :4] /= 7.0
    panel = replace(plain, split=split, dividend=dividend, prices=prices)
    ends = window_ends(panel, 10, horizon=3)
    np.testing.assert_array_equal(ends, window_ends(plain, 10, horizon=3))
    close = prices[:, CLOSE]
    growth = 1 + 0.25 / close[32]
    expected = labels(plain, ends, 3) + 100 * np.log(growth) * ((ends < 32) & (ends + 3 >= 32))
    np.testing.assert_allclose(labels(panel, ends, 3), expected, rtol=1e-9, atol=1e-11)
    # One bar: what a holder earns who is paid in cash.
    one = labels(panel, np.array([29, 31]), 1)
    np.testing.assert_allclose(
        one, 100 * np.log([7 * close[30] / close[29], (close[32] + 0.25) / close[31]]), rtol=1e-9, atol=1e-11
    )

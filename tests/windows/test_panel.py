from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.windows.panel import CLOSE, Panel, PanelError


def test_a_frame_in_any_order_becomes_sorted_rows(make_panel):
    panel = make_panel()
    assert panel.symbols == ("A", "B")
    assert len(panel) == 800
    assert (np.diff(panel.available_at[:400]) > 0).all()
    assert panel.symbol.tolist() == [0] * 400 + [1] * 400


def test_what_is_written_is_read_back_mapped_and_equal_files_are_equal_bytes(make_panel, tmp_path):
    panel = make_panel()
    digest = panel.write(tmp_path / "panel.safetensors")
    again = make_panel().write(tmp_path / "again.safetensors")
    read = Panel.open(tmp_path / "panel.safetensors")
    assert digest == again == read.sha256()
    assert (tmp_path / "panel.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert isinstance(read.values, np.memmap)
    np.testing.assert_array_equal(read.values, panel.values)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_any_safetensors_reader_can_read_the_file(make_panel, tmp_path):
    from safetensors.numpy import load_file

    panel = make_panel()
    panel.write(tmp_path / "panel.safetensors")
    stored = load_file(tmp_path / "panel.safetensors")
    np.testing.assert_array_equal(stored["prices"], panel.prices)
    np.testing.assert_array_equal(stored["available_at"], panel.available_at)


def test_no_row_at_or_after_the_bound_is_ever_returned(make_panel, tmp_path):
    panel = make_panel()
    panel.write(tmp_path / "p")
    bound = datetime.fromtimestamp(panel.available_at[100] / 1e6, tz=UTC)
    read = Panel.open(tmp_path / "p", before=bound)
    # Row 100 becomes available exactly at the bound, and is refused.
    assert read.available_at.max() == panel.available_at[99] < microseconds(bound)
    assert len(read) == 200
    assert len(Panel.open([tmp_path / "p"], before=datetime(1999, 1, 1, tzinfo=UTC))) == 0


def test_a_bound_without_time_zone_is_refused(make_panel):
    with pytest.raises(ValueError, match="no time zone"):
        make_panel().before(datetime(2000, 1, 1))


def test_years_are_joined_by_symbol_and_time(make_panel, tmp_path):
    first = make_panel(rows=50)
    second = make_panel(rows=50, symbols=("B", "C"), start="2001-01-01")
    second.write(tmp_path / "2001")
    first.write(tmp_path / "2000")
    joined = Panel.open([tmp_path / "2001", tmp_path / "2000"])
    assert joined.symbols == ("A", "B", "C")
    assert np.bincount(joined.symbol).tolist() == [50, 100, 50]
    assert (np.diff(joined.available_at[joined.symbol == 1]) > 0).all()


def test_a_bar_in_two_files_is_refused(make_panel, tmp_path):
    make_panel().write(tmp_path / "p")
    with pytest.raises(PanelError, match="duplicate"):
        Panel.open([tmp_path / "p", tmp_path / "p"])


def test_years_of_other_features_are_refused(make_panel):
    panel = make_panel()
    with pytest.raises(PanelError, match="different features"):
        Panel.concatenate([panel, replace(panel, features=("x", "y"))])


def test_columns_are_selected_and_others_are_in_no_digest(make_panel, tmp_path):
    panel = make_panel()
    chosen = panel.select(["z"])
    assert chosen.features == ("z",) and chosen.values.flags.c_contiguous
    np.testing.assert_array_equal(chosen.values[:, 0], panel.values[:, 1])
    assert panel.select(panel.features) is panel
    assert panel.select(["z", "x"]).values.tolist()[9] == panel.values[9, ::-1].tolist()
    values = panel.values.copy()
    values[:, 0] += 1
    other = replace(panel, values=values)
    assert other.sha256() != panel.sha256() and other.select(["z"]).sha256() == chosen.sha256()
    other.write(tmp_path / "2000")
    read = Panel.open(tmp_path / "2000", features=["z"])
    assert read.sha256() == chosen.sha256()
    # The rest stays in the file until it is read.
    assert isinstance(read.prices, np.memmap) and not isinstance(read.values, np.memmap)


def test_a_missing_column_is_named_with_the_remedy(make_panel, tmp_path):
    with pytest.raises(PanelError, match=r"lacks \['y'\], it holds \['x', 'z'\]: materialize features and panel"):
        make_panel().select(["x", "y"])
    make_panel().write(tmp_path / "2000")
    with pytest.raises(PanelError, match=r"2000: the panel lacks \['y'\]"):
        Panel.open(tmp_path / "2000", features=["y"])


def test_years_that_hold_other_columns_are_joined_by_those_that_are_read(make_panel, tmp_path):
    make_panel(rows=50).write(tmp_path / "2000")
    later = make_panel(rows=50, start="2001-01-01")
    replace(later.select(["z", "x"]), features=("z", "new")).write(tmp_path / "2001")
    assert len(Panel.open([tmp_path / "2000", tmp_path / "2001"], features=["z"])) == 200


def test_wrong_types_are_refused(make_panel):
    panel = make_panel()
    with pytest.raises(PanelError, match="'volatility' is float32"):
        replace(panel, volatility=panel.volatility.astype(np.float32))


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(PanelError, match=r"2016 is missing: materialize"):
        Panel.open(tmp_path / "2016")


@pytest.mark.parametrize("damage", ["truncated", "header", "flipped", "empty"])
def test_a_damaged_file_is_named_with_the_remedy(make_panel, tmp_path, damage):
    path = tmp_path / "2016"
    make_panel().write(path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-100]
    elif damage == "empty":
        content = bytearray()
    else:
        content[20 if damage == "header" else -9] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(PanelError, match=r"2016 is damaged: delete it"):
        Panel.open(path)


def with_actions(panel):
    """Symbol A splits two for one at row 20 and pays 0.5 a share at row 40, prices as they would trade."""
    split, dividend, prices = panel.split.copy(), panel.dividend.copy(), panel.prices.copy()
    split[20], dividend[40] = 2.0, 0.5
    prices[20 : np.flatnonzero(panel.symbol == 0)[-1] + 1, :4] /= 2
    return replace(panel, split=split, dividend=dividend, prices=prices)


def test_total_returns_know_splits_and_dividends(make_panel, tmp_path):
    plain = make_panel(rows=60)
    np.testing.assert_array_equal(plain.total_return_close, plain.prices[:, CLOSE])
    panel = with_actions(plain)
    panel.write(tmp_path / "p")
    panel = Panel.open(tmp_path / "p")
    returns = panel.total_return_close[1:] / panel.total_return_close[:-1]
    close = plain.prices[:, CLOSE]
    expected = close[1:] / close[:-1]
    expected[39] += 0.5 / panel.prices[39, CLOSE]
    inside = np.diff(panel.symbol) == 0
    np.testing.assert_allclose(returns[inside], expected[inside], rtol=1e-13)


def test_actions_at_the_turn_of_a_year_are_not_lost_by_joining(make_panel):
    panel = with_actions(make_panel(rows=60))
    for row in (20, 40):
        cut = datetime.fromtimestamp(panel.available_at[row] / 1e6, tz=UTC)
        later = panel.available_at >= microseconds(cut)
        arrays = ("symbol", "available_at", "values", "prices", "volatility", "split", "dividend")
        rest = replace(panel, **{name: getattr(panel, name)[later] for name in arrays})
        joined = Panel.concatenate([rest, panel.before(cut)])
        assert joined.sha256() == panel.sha256()
        np.testing.assert_array_equal(joined.total_return_close, panel.total_return_close)

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.market.bundled import FIRST_BAR, LAST_BAR, BundledSource
from atlas_pipeline.windows.panel_of_bars import panel_of_bars


def test_a_panel_holds_the_features_and_prices_of_the_bars():
    bars = BundledSource().bars(["NASDAQ", "SP500"], FIRST_BAR, LAST_BAR)
    bars = bars.groupby("symbol").head(300).reset_index(drop=True)
    panel = panel_of_bars(bars, ["relative_range", "log_volatility"])
    assert panel.symbols == ("NASDAQ", "SP500") and panel.features == ("relative_range", "log_volatility")
    computed = compute_features(bars)
    np.testing.assert_array_equal(panel.values[:, 1], computed["log_volatility"])
    np.testing.assert_array_equal(panel.volatility, computed["volatility_ewma"].to_numpy(np.float64))
    np.testing.assert_array_equal(panel.prices[:, 3], bars["close"])
    assert (panel.split == 1).all() and (panel.dividend == 0).all()


def test_bars_of_two_intervals_are_refused():
    bars = BundledSource().bars(["SP500"], FIRST_BAR, LAST_BAR).head(30)
    mixed = pd.concat([bars, bars.assign(interval="1wk")])
    with pytest.raises(ValueError, match=r"intervals \['1d', '1wk'\] were given: a panel holds one"):
        panel_of_bars(mixed, ["relative_range"])

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.training.calibration import LEVELS
from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.training.forecast_table import FORECASTER, FORECASTS, forecast_rows, score_table, stored_densities
from atlas_pipeline.training.garch_contest import contest_table, interval_table, loss_differences, pooled_contest
from atlas_pipeline.windows.index import labels


@pytest.fixture
def rows(make_panel) -> pd.DataFrame:
    panel = make_panel(rows=300)
    ends = np.flatnonzero(panel.symbol[1:] == panel.symbol[:-1]).astype(np.int64)
    n = len(ends)

    def normal(scale: float) -> DensityForecast:
        return DensityForecast(np.zeros(n), np.full(n, scale), np.full(n, np.inf), np.full(n, 0.01))

    densities = {FORECASTER: normal(1.0), "garch_t": normal(1.6), "egarch_skewt": normal(1.3), "riskmetrics": normal(1)}
    return forecast_rows("2000", panel, ends, labels(panel, ends, 1), densities)


def test_the_opponent_is_the_best_of_the_family_and_the_differences_are_its(rows):
    assert list(rows.columns) == list(FORECASTS.names)
    table = contest_table(pd.concat([rows, rows.assign(fold="2001", nll=rows["nll"] + 1)]))
    assert list(table["fold"]) == ["2000", "2000", "2001", "2001"] and set(table["opponent"]) == {"egarch_skewt"}
    np.testing.assert_allclose(table["difference"], table["forecaster"] - table["best_garch"])
    assert (table["dm_statistic"] < -2).all() and (table["dm_p_value"] < 0.05).all() and (table["bars"] == 299).all()
    means = rows.groupby(["symbol", "model"])["nll"].mean().unstack()
    np.testing.assert_allclose(table["difference"][:2], means[FORECASTER] - means["egarch_skewt"])


def test_pooled_over_symbols_each_day_is_one_observation(rows):
    found = pooled_contest(rows)
    assert found.n == 299 and found.mean == pytest.approx(loss_differences(rows)["difference"].mean())


def test_without_a_garch_model_there_is_no_contest(rows):
    alone = rows[rows["model"] == FORECASTER]
    assert contest_table(alone).empty and pooled_contest(alone).n == 0


def test_scores_of_stored_rows_are_those_of_their_densities(rows):
    table = score_table(rows).set_index(["symbol", "model"])
    assert table.loc[("A", FORECASTER), "calibrated"] == "50, 80, 95"
    assert table.loc[("A", "garch_t"), "calibrated"] == "none"
    own = rows[(rows["symbol"] == "A") & (rows["model"] == FORECASTER)]
    said = stored_densities(own)
    assert table.loc[("A", FORECASTER), "mae"] == pytest.approx((own["outcome"] - said.median).abs().mean())
    low, high = said.interval(0.8)
    assert table.loc[("A", FORECASTER), "width_80"] == pytest.approx((high - low).mean())


def test_conformal_intervals_mend_what_the_raw_ones_miss():
    random = np.random.default_rng(0)
    transform, earlier = (0.5 + (random.random(n) - 0.5) * 0.6 for n in (1000, 500))
    table = interval_table({"A": transform}, {"A": earlier}, horizon=1)
    assert list(table["level"]) == list(LEVELS)
    assert (table["raw"] > table["band_high"]).all()
    assert table["conformal"].between(table["band_low"], table["band_high"]).all()

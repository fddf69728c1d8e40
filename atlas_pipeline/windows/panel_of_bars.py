"""From bars to a panel in one call, for Python users and benchmarks; the pipeline joins its stored tables instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from atlas_pipeline.features.compute import compute_features
from atlas_pipeline.features.cross_section import MARKET, market_means
from atlas_pipeline.features.model_inputs import table_columns
from atlas_pipeline.features.relative import VOLATILITY
from atlas_pipeline.market.adjustment import DIVIDEND, SPLIT
from atlas_pipeline.windows.panel import PRICES, Panel

_KEY = ["symbol", "interval", "available_at"]


def panel_of_bars(bars: pd.DataFrame, features: Sequence[str], actions: pd.DataFrame | None = None) -> Panel:
    """Compute the features of bars and lay them out as models read them.

    Parameters
    ----------
    bars
        Rows of ``BARS`` of one interval: the whole history of each symbol, as for ``compute_features``.
    features
        Columns to hold, such as those of ``set_columns("relative")``; the market's means are over the bars given.
    actions
        Rows of ``CORPORATE_ACTIONS`` of that history; None where there are none.

    Raises
    ------
    ValueError
        Where bars of several intervals are given: their rows would be taken for one series.
    """
    intervals = bars["interval"].unique()
    if len(intervals) != 1:
        raise ValueError(f"bars of the intervals {sorted(intervals)} were given: a panel holds one, choose it")
    columns = dict.fromkeys([*_KEY, *table_columns(features), VOLATILITY.name, SPLIT.name, DIVIDEND.name])
    computed = compute_features(bars, actions)[list(columns)]
    rows = computed.merge(bars[[*_KEY, *PRICES]], on=_KEY, validate="one_to_one")
    market = [name for name in features if name in MARKET]
    if market:
        rows[market] = market_means(rows, market)
    rows["volume"] = rows["volume"].astype(np.float64)
    return Panel.from_frame(rows, features)

"""The set ``market``: what all series did at the same instant, beside what one did.

A series' variance is its market's and its own (Campbell, Lettau, Malkiel and Xu, J. of Finance 56 (2001) 1, sec. I).
Its return and its range are noisy measures of the market's part, of which the mean over series is a better one. These
are means of columns that stand in the feature table already, so no table holds them: they are made where rows are
joined for models.

A mean is over the series that have a value at that instant, of the same interval. It depends on which series those are:
another universe makes other inputs. A live market's bars of one instant have to be ingested together, as a month of
``bars`` is, or a mean is of fewer of them than it will be of in history.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from atlas_pipeline.features.feature import Feature
from atlas_pipeline.features.registry import REGISTRY

AVERAGED = ("trend_1", "trend_2", "trend_4", "range_ratio_1", "range_ratio_4")
"""Columns of the feature table of which the market has a mean; longer memories added nothing to a forecast."""


def _market(feature: Feature) -> Feature:
    return Feature(
        f"market_{feature.name}",
        f"mean of {feature.name} over all series with a value at the same instant",
        (feature.name,),
        feature.unit,
        "the market's part of it: Campbell et al., J. of Finance 56 (2001) 1, sec. I",
        feature.warmup,
        feature.parameters,
    )


MARKET: dict[str, Feature] = {f"market_{name}": _market(REGISTRY[name]) for name in AVERAGED}
"""The set's features by name, in the order in which a model reads them."""


def market_means(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Give each row the means over the series of its instant and interval.

    Parameters
    ----------
    rows
        One a series and instant, with ``symbol``, ``interval``, ``available_at`` and what the features are made of, in
        any order.
    names
        Features of ``MARKET``.

    Returns
    -------
    pandas.DataFrame
        float32, with the index of ``rows``; NaN where no series has a value. The same bits in whatever order and with
        whatever other instants the rows come.

    Raises
    ------
    KeyError
        Where a column is missing, or a name is not of the set.
    """
    sources = [MARKET[name].inputs[0] for name in names]
    # A sum's last bits depend on its order.
    ordered = rows[["symbol", "interval", "available_at", *sources]].sort_values("symbol", kind="stable")
    moments = ordered.groupby(["interval", "available_at"], sort=False, observed=True)[sources]
    means = moments.transform("mean").astype(np.float32)
    return means.set_axis(list(names), axis=1).reindex(rows.index)

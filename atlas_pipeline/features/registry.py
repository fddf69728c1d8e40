"""Every feature, declared once: name, formula, inputs, parameters, warm-up, unit, source; and the sets they form.

The tables, the names the models read and the documentation are made from here. Nothing is computed, and neither numba
nor torch imported, so that names are free to look up.
"""

from __future__ import annotations

from atlas_pipeline.features.atlas8 import ATLAS8
from atlas_pipeline.features.feature import Feature
from atlas_pipeline.features.heterogeneous import HETEROGENEOUS
from atlas_pipeline.features.relative import RELATIVE, VOLATILITY
from atlas_pipeline.features.technical import A20, A25, TECHNICAL, VOLATILITY_INDEX
from atlas_pipeline.market.adjustment import DIVIDEND, SPLIT
from atlas_pipeline.market.bars import AVAILABLE_AT, INTERVAL, MONTH, SYMBOL
from atlas_pipeline.market.table import Table

REGISTRY: dict[str, Feature] = {
    feature.name: feature for feature in (*ATLAS8, VOLATILITY, *RELATIVE, *HETEROGENEOUS, *TECHNICAL, *VOLATILITY_INDEX)
}
"""The features of bars, in the order of the columns of ``FEATURES``."""

SETS: dict[str, tuple[str, ...]] = {
    "atlas8": tuple(feature.name for feature in ATLAS8),
    "technical": tuple(feature.name for feature in TECHNICAL),
    "a20": A20,
    "a25": A25,
    "relative": tuple(feature.name for feature in RELATIVE),
    "heterogeneous": tuple(feature.name for feature in HETEROGENEOUS),
}
"""Columns of each set that a model can read."""

FEATURES = Table(
    name="features",
    description="The feature matrix: one row a symbol and bar; and what corporate actions brought at each bar, from "
    "which returns are made and accounts are booked",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        MONTH,
        *(feature.column() for feature in REGISTRY.values()),
        SPLIT,
        DIVIDEND,
    ),
    key=("symbol", "interval", "available_at"),
    partition_by="month",
    time="available_at",
)

"""Pictures of the feature matrix, as PNG bytes; what a feature is stands in ``registry``."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from atlas_pipeline.features.registry import MODEL_INPUTS, REGISTRY


def plot_features(features: pd.DataFrame) -> bytes:
    """Distribution of every model input, its older half beside its newer, so that drift can be seen.

    Parameters
    ----------
    features
        Rows of ``FEATURES``.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(10, 2.3 * -(-len(MODEL_INPUTS) // columns)), dpi=80, layout="constrained")
    axes = np.ravel(figure.subplots(-(-len(MODEL_INPUTS) // columns), columns))
    middle = features["available_at"].sort_values().iloc[len(features) // 2]
    for axis, name in zip(axes, MODEL_INPUTS, strict=False):
        known = features[name].dropna()
        if known.empty:
            axis.set_visible(False)
            continue
        bins = np.linspace(known.quantile(0.001), known.quantile(0.999), 41)
        for label, part in (
            (f"before {middle:%Y-%m}", features["available_at"] < middle),
            (f"from {middle:%Y-%m}", features["available_at"] >= middle),
        ):
            values = features.loc[part, name].dropna()
            if len(values):  # the older half may be all warm-up
                axis.hist(values, bins=bins, density=True, histtype="stepfilled", alpha=0.5, label=label)
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_xlabel(REGISTRY[name].unit, fontsize=8)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
    axes[0].legend(frameon=False, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

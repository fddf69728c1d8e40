"""How much of the feature matrix has values, and why the rest has none."""

from __future__ import annotations

import pandas as pd

from atlas_pipeline.features.registry import REGISTRY


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Count values, and what is missing by its reason, of each feature.

    Parameters
    ----------
    frame
        Rows of ``FEATURES``, each symbol from its first bar on.

    Returns
    -------
    pandas.DataFrame
        ``feature``, ``rows``, ``valid``, ``warm_up`` (missing among the first rows of a symbol),
        ``undefined`` (missing later: after a missing bar, or where prices never moved) and ``valid_share``.
    """
    age = frame.groupby(["symbol", "interval"], sort=False).cumcount()
    missing = {name: frame[name].isna() for name in REGISTRY}
    warm_up = {name: int((missing[name] & (age < REGISTRY[name].warmup)).sum()) for name in REGISTRY}
    absent = {name: int(missing[name].sum()) for name in REGISTRY}
    rows = len(frame)
    return pd.DataFrame(
        [
            {
                "feature": name,
                "rows": rows,
                "valid": rows - absent[name],
                "warm_up": warm_up[name],
                "undefined": absent[name] - warm_up[name],
                "valid_share": (rows - absent[name]) / rows if rows else float("nan"),
            }
            for name in REGISTRY
        ]
    )

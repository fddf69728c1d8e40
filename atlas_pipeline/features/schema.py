"""Whether a features frame is what the registry promises."""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.features.registry import FEATURES, REGISTRY


class FeatureSchemaError(Exception):
    """A features frame breaks its table: wrong columns or types, repeated keys, impossible values."""


def validate_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Check a frame against the ``features`` table and return it coerced.

    Parameters
    ----------
    frame
        Rows of ``FEATURES``.

    Raises
    ------
    FeatureSchemaError
        Naming every column and check that fails, with the number of rows and a first value.
    """
    from pandera.errors import SchemaErrors

    try:
        checked = FEATURES.schema().validate(frame.reset_index(drop=True), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        found = [
            f"{column or 'frame'}: {check} ({len(group)} cases, first {group['failure_case'].iloc[0]})"
            for (column, check), group in cases.groupby(["column", "check"], dropna=False, sort=False)
        ]
        raise FeatureSchemaError(
            f"features break their schema: {'; '.join(found)}. Recompute them with compute_features"
        ) from error
    infinite = [name for name in REGISTRY if np.isinf(checked[name]).any()]
    if infinite:
        raise FeatureSchemaError(f"features {infinite} are infinite: look for absurd prices in the bars of those rows")
    above = [
        f"{name} reaches {checked[name].max()}, above {feature.maximum:g}"
        for name, feature in REGISTRY.items()
        if feature.maximum is not None and (checked[name] > feature.maximum).any()
    ]
    if above:
        raise FeatureSchemaError(
            f"features break their limits: {'; '.join(above)}. Recompute them with compute_features"
        )
    return checked

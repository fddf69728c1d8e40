"""The scaler of model inputs: fitted on training rows only, carried with the model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.windows.folds import Split
from atlas_pipeline.windows.panel import EPOCH, Panel

# The interquartile range of a standard normal variable, so that scaled Gaussian inputs have unit variance.
NORMAL_IQR = 1.3489795003921634


class ScalerLeakError(RuntimeError):
    """A scaler was to be fitted on rows that are not training rows."""


@dataclass(frozen=True, eq=False)
class RobustScaler:
    """Centres by the median, divides by the interquartile range over 1.349, clips; float32 [features] each.

    Quantiles, because inputs of markets have tails that would carry a mean and a standard deviation away
    (Huber and Ronchetti, Robust Statistics, 2nd ed., 2009, ch. 5).
    """

    features: tuple[str, ...]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    clip: float = 8.0

    @classmethod
    def fit(cls, panel: Panel, split: Split, clip: float = 8.0) -> RobustScaler:
        """Fit on a panel that holds no row at or after the end of the split's training rows.

        Parameters
        ----------
        panel
            Training rows; take them with ``panel.before(split.train_end)``. NaN rows are left out.
        split
            The fold's split.
        clip
            Scaled inputs are cut to [-clip, clip].

        Raises
        ------
        ScalerLeakError
            Where a row is not a training row, or a feature has no value at all.
        """
        limit = (split.train_end - EPOCH) // timedelta(microseconds=1)
        late = np.flatnonzero(panel.available_at >= limit)
        if late.size:
            instant = datetime.fromtimestamp(int(panel.available_at[late[0]]) / 1e6, tz=UTC)
            raise ScalerLeakError(
                f"{late.size} of {len(panel)} rows are not training rows, the first at "
                f"{instant:%Y-%m-%d %H:%M}; training rows end before {split.train_end:%Y-%m-%d %H:%M}: "
                "fit on panel.before(split.train_end)"
            )
        empty = [name for name, column in zip(panel.features, panel.values.T, strict=True)
                 if not np.isfinite(column).any()]  # fmt: skip
        if empty:
            raise ScalerLeakError(f"features {empty} have no value before {split.train_end:%Y-%m-%d}: drop them")
        low, centre, high = np.nanquantile(panel.values.astype(np.float64), (0.25, 0.5, 0.75), axis=0)
        spread = (high - low) / NORMAL_IQR
        # A feature that hardly moves is centred only; dividing by zero would make it infinite.
        scale = np.where(spread > 1e-9, spread, 1.0)
        return cls(panel.features, centre.astype(np.float32), scale.astype(np.float32), clip)

    def transform(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled inputs, float32 [rows, features]; NaN stays NaN."""
        scaled = (np.asarray(values) - self.centre) / self.scale
        return np.clip(scaled, -self.clip, self.clip, out=scaled)

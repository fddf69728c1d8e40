"""The features of one series, one bar at a time: the streaming twin of ``compute``."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features.compute import continue_features
from atlas_pipeline.features.kernels.inputs import INPUTS
from atlas_pipeline.features.memory import SeriesMemory
from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from atlas_pipeline.market.instants import EPOCH, microseconds

_ONE_ROW = np.array([0, 1])


class FeatureStream:
    """Every feature of the registry, bar by bar; bit for bit what ``compute_features`` gives for the whole series.

    ``memory`` is advanced with every bar; written and read again it goes on where it was.

    Parameters
    ----------
    symbol, interval
        The series.
    memory
        Of the bars before; None begins the series, as does ``SeriesMemory.empty`` with a decay of its own.
    """

    def __init__(
        self,
        symbol: str,
        interval: str = "1d",
        memory: SeriesMemory | None = None,
    ) -> None:
        from atlas_pipeline.features.kernels.series import FEATURE_COUNT

        self.memory = (memory or SeriesMemory.empty()).of([(symbol, interval)])
        self._inputs = np.empty((len(INPUTS), 1))
        self._out = np.empty((FEATURE_COUNT, 1), np.float32)
        self._row, self._ages = np.empty(2, bool), np.empty((1, 4), np.int32)

    def update(
        self,
        available_at: datetime,
        *,
        open: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        split: float = 1.0,
        dividend: float = 0.0,
        volatility_index: float = float("nan"),
    ) -> NDArray[np.float32]:
        """Take the next bar and return its features.

        Parameters
        ----------
        available_at
            Instant at which the bar is complete, with a time zone; later than the last.
        open, high, low, close, volume
            As traded; NaN where missing.
        split
            Shares at this bar for one at the bar before.
        dividend
            Cash a share paid at this bar, counted after the split.
        volatility_index
            Last value published up to ``available_at``, percent per root year; NaN without one.

        Returns
        -------
        float32 [len(REGISTRY)]
            In the order of the registry; NaN where undefined.

        Raises
        ------
        ValueError
            Where the bar is not later than the last one, or a split or dividend cannot be.
        """
        from atlas_pipeline.features.kernels.rows import judge_rows
        from atlas_pipeline.features.kernels.series import advance

        instant, memory = microseconds(available_at), self.memory
        last = int(memory.last_bar[0])
        if instant <= last:
            raise ValueError(
                f"{memory.series[0]}: the bar of {available_at} is not later than the last, "
                f"{EPOCH + timedelta(microseconds=last)}: pass each bar once, in order"
            )
        if not (np.isfinite(split) and split > 0.0 and np.isfinite(dividend) and dividend >= 0.0):
            raise ValueError(
                f"{memory.series[0]}: split={split} and dividend={dividend} at {available_at}: a split is a positive "
                "ratio, 1 without one, a dividend is not negative"
            )
        inputs, row = self._inputs, self._row
        inputs[:, 0] = open, high, low, close, volume, volatility_index
        judge_rows(
            _ONE_ROW,
            np.array([instant]),
            LONGEST_CLOSURE // timedelta(microseconds=1),
            inputs,
            memory.last_bar,
            memory.last_priced,
            memory.last_close,
            memory.ages,
            row[:1],
            row[1:],
            self._ages,
        )
        advance(
            memory.averages,
            memory.history,
            memory.volatility_decay,
            _ONE_ROW,
            row[1:],
            row[:1],
            np.array([split]),
            np.array([dividend]),
            inputs,
            self._out,
            1,
        )
        return self._out[:, 0].copy()


def stream_features(
    bars: pd.DataFrame,
    actions: pd.DataFrame | None = None,
    *,
    volatility_index: pd.DataFrame | None = None,
    volatility_decay: float = DataSettings.volatility_decay,
) -> pd.DataFrame:
    """Compute what ``compute_features`` does, giving the kernel a single bar at a time: it cannot look ahead.

    Parameters and result are those of ``compute_features``.
    """
    memory = SeriesMemory.empty(volatility_decay=volatility_decay)
    return continue_features(memory, bars, actions, volatility_index=volatility_index, block=1).frame

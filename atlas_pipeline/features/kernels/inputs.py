"""The columns of bars that kernels read, and their places."""

from __future__ import annotations

import numpy as np

INPUTS = ("open", "high", "low", "close", "volume", "volatility_index")
"""As traded; within the kernels with splits and dividends taken out, volume counted in the first bar's shares."""
OPEN, HIGH, LOW, CLOSE, VOLUME, INDEX = range(len(INPUTS))
NEVER = int(np.iinfo(np.int64).min)
"""Instant of the last bar of a series that has none."""

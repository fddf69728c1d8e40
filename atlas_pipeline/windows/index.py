"""Which rows of a panel end a window, what their labels are, and how windows are gathered.

Splits in time live in ``folds``; nothing here knows years.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from atlas_pipeline.windows.panel import CLOSE, Panel

if TYPE_CHECKING:
    import torch


def window_ends(panel: Panel, seq_length: int, horizon: int | None = None) -> NDArray[np.int64]:
    """Find the rows that end a valid window: one symbol, no missing value or hole in time, a known volatility.

    An infinite value counts as missing.

    Parameters
    ----------
    panel
        The rows, with the columns that are read and no others: each of them must have a value; see ``Panel.select``.
    seq_length
        Bars a window.
    horizon
        Where given, only rows whose label ``horizon`` bars later exists too.

    Returns
    -------
    int64 [n]
        Row numbers i, increasing; the window is rows [i - seq_length + 1, i].
    """
    rows = len(panel)
    if rows < seq_length:
        return np.empty(0, np.int64)
    missing = ~np.isfinite(panel.values).all(axis=1)
    before = np.concatenate([[0], np.cumsum(missing)])
    ends = np.arange(seq_length - 1, rows, dtype=np.int64)
    starts = ends - (seq_length - 1)
    valid = (panel.symbol[starts] == panel.symbol[ends]) & (before[ends + 1] == before[starts])
    longest = LONGEST_CLOSURE // timedelta(microseconds=1)
    hole = (np.diff(panel.available_at) > longest) & (panel.symbol[1:] == panel.symbol[:-1])
    holes = np.concatenate([[0], np.cumsum(hole)])
    valid &= holes[ends] == holes[starts]
    # A NaN volatility compares false.
    valid &= panel.volatility[ends] > 0
    if horizon is not None:
        later = np.minimum(ends + horizon, rows - 1)
        valid &= (ends + horizon < rows) & (panel.symbol[later] == panel.symbol[ends])
        close = panel.prices[:, CLOSE]
        usable = np.isfinite(close) & (close > 0)
        valid &= usable[ends] & usable[later] & (holes[later] == holes[ends])
    return ends[valid]


def labels(panel: Panel, ends: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Compute total log returns over the horizon, ``100 * log(close[i + horizon] / close[i])``, percent.

    Splits between are no return and dividends are one, see ``Panel.total_return_close``.

    Parameters
    ----------
    panel, ends, horizon
        As for ``window_ends``, which must have been asked for rows with a label.

    Returns
    -------
    float64 [n]
    """
    close = panel.total_return_close
    return 100.0 * np.log(close[ends + horizon] / close[ends])


def label_instants(panel: Panel, ends: NDArray[np.int64], horizon: int) -> NDArray[np.int64]:
    """Return the instants at which the labels are known: int64 [n], microseconds since 1970 UTC."""
    return panel.available_at[ends + horizon]


def density_unit(panel: Panel, ends: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Return what locations and scales are multiples of: volatility x sqrt(horizon), percent, float64 [n].

    The square root is exact for uncorrelated returns of constant volatility (RiskMetrics Technical Document,
    4th ed., 1996, sec. 5.2.2); what it misses the model may learn.
    """
    return panel.volatility[ends] * np.sqrt(horizon)


def gather(values: torch.Tensor, ends: torch.Tensor, seq_length: int) -> torch.Tensor:
    """Gather the windows that end at these rows.

    All windows are one strided view of ``values``; only those asked for are copied, each as one block.

    Parameters
    ----------
    values
        float32 [rows, features].
    ends
        int64 [n] on the same device, each at least ``seq_length - 1``.
    seq_length
        Bars a window.

    Returns
    -------
    float32 [n, seq_length, features], contiguous
    """
    rows, features = values.shape
    row, column = values.stride()
    windows = values.as_strided((rows - seq_length + 1, seq_length, features), (row, row, column))
    return windows[ends - (seq_length - 1)]

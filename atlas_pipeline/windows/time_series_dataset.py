"""The plain torch dataset of one scaled series: windows of rows and the value that follows them.

For a user with an array of their own. The pipeline reads a ``Panel`` of several symbols through ``index``
instead, where missing values, symbols and folds are known.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset


class TimeSeriesDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows over consecutive rows; the target is the first column ``horizon`` rows after the window's last.

    Parameters
    ----------
    data : array [n_samples, n_features]
        Rows in time order; the first column is what is forecast (the close).
    seq_length : int
        Rows a window.
    horizon : int
        Rows from the window's last to the target's.

    Raises
    ------
    ValueError
        Where ``data`` is not two-dimensional, or has too few rows for one window and its target.
    """

    def __init__(self, data: np.ndarray, seq_length: int, horizon: int = 1) -> None:
        self.data = torch.as_tensor(np.ascontiguousarray(data, dtype=np.float32))
        if self.data.ndim != 2:
            raise ValueError(f"data has shape {tuple(self.data.shape)}; give [n_samples, n_features]")
        if seq_length < 1 or horizon < 1:
            raise ValueError(f"seq_length={seq_length} and horizon={horizon} must both be at least 1")
        if len(self.data) < seq_length + horizon:
            raise ValueError(
                f"{len(self.data)} rows hold no window of {seq_length} with a target {horizon} later; "
                f"give {seq_length + horizon} rows or more, or shorten seq_length"
            )
        self.seq_length = seq_length
        self.horizon = horizon

    def __len__(self) -> int:
        return len(self.data) - self.seq_length - self.horizon + 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Window float32 [seq_length, n_features], a view, and target float32 [1]."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index % len(self)
        end = start + self.seq_length
        target = end - 1 + self.horizon
        return self.data[start:end], self.data[target, :1]

"""The one way from a panel into a network: rows scaled on the device, windows gathered and normalised when asked for.

Training, forecasts and the online update all take their inputs from here, so that none can scale differently, and
none can be given a missing value.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.windows.index import gather, window_ends
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaler import Scaler


class ScaledWindows:
    """Windows of a panel as a network reads them.

    Parameters
    ----------
    panel
        Holds at least the scaler's features.
    ends
        Rows that may be asked for, int64 [n]; each must end a valid window of the scaler's features.
    scaler
        What scales them.
    fold
        The fold of the model that reads them.
    seq_length
        Bars a window.
    device
        Where the rows stand.

    Raises
    ------
    ValueError
        Where a row does not end a valid window: values are missing, or it reaches over a hole or another symbol.
    PanelError
        Where the panel lacks a feature.
    ScalerLeakError
        Where the scaler was fitted for another fold.
    """

    def __init__(
        self,
        panel: Panel,
        ends: NDArray[np.int64],
        scaler: Scaler,
        fold: int,
        seq_length: int,
        device: torch.device,
    ) -> None:
        read = panel.select(scaler.features)
        invalid = np.setdiff1d(ends, window_ends(read, seq_length))
        if invalid.size:
            raise ValueError(
                f"{invalid.size} rows, the first {invalid[0]}, do not end a valid window of {seq_length} bars: take "
                "them from window_ends"
            )
        self.scaler = scaler
        self.seq_length = seq_length
        self.values = torch.from_numpy(scaler.transform(read.values, fold)).to(device)

    def __call__(self, ends: torch.Tensor) -> torch.Tensor:
        """Windows that end at these rows (int64 [n], on the device), float32 [n, seq_length, features]."""
        return self.scaler.normalize(gather(self.values, ends, self.seq_length))

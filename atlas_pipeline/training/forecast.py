"""Forecasts and embeddings of a trained forecaster, in the unit of the return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.config import DENSITY_HEADS, Hardware
from atlas_pipeline.models.densities import DensityHead
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.training.hardware import settings
from atlas_pipeline.training.objective import densities_of
from atlas_pipeline.windows.index import density_unit
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What is said at each window's end.

    Attributes
    ----------
    embeddings
        float32 [n, d_model].
    head
        ``Config.head``.
    quantities
        Names of the last dimension of ``values``.
    values
        What the head says, float64 [n, horizons, quantities]; returns are in percent.
    densities
        The same as density forecasts, one a horizon; none where the head says no density.
    """

    embeddings: NDArray[np.float32]
    head: str
    quantities: tuple[str, ...]
    values: NDArray[np.float64]
    densities: tuple[DensityForecast, ...]

    @property
    def density(self) -> DensityForecast:
        """The density of the first horizon.

        Raises
        ------
        ValueError
            Where the head says no density.
        """
        if not self.densities:
            raise ValueError(
                f"Config.head={self.head!r} says {', '.join(self.quantities)}, no density of the return, which this "
                f"needs: train a forecaster with one of {', '.join(DENSITY_HEADS)}"
            )
        return self.densities[0]


def forecast(panel: Panel, trained: TrainedForecaster, ends: NDArray[np.int64], hardware: Hardware) -> Forecasts:
    """Embeddings, and what the head says of each horizon, for the windows that end at these rows.

    Parameters
    ----------
    panel
        Holds at least the features the forecaster was fitted on.
    trained
        The forecaster; its scaler is applied here.
    ends
        Rows of the panel that end a valid window of these features, int64 [n].
    hardware
        How it is run. Use precision float32 where a batch and a single window must agree closely.

    Raises
    ------
    ValueError
        Where a row does not end a valid window.
    PanelError
        Where the panel lacks a feature.
    """
    config = trained.config
    embeddings = np.empty((len(ends), config.d_model), np.float32)
    quantities = trained.model.head.quantities
    values = np.empty((len(ends), len(config.horizons), len(quantities)))
    batch = 64 if hardware.batch_size == "auto" else hardware.batch_size
    with settings(hardware, config) as compute, torch.inference_mode():
        model = trained.model.to(compute.device).eval()
        windows = ScaledWindows(panel, ends, trained.scaler, trained.fold, config.seq_length, compute.device)
        for begin in range(0, len(ends), batch):
            chosen = slice(begin, begin + batch)
            rows = torch.from_numpy(ends[chosen]).to(compute.device)
            with compute.autocast():
                embedding, outputs = model(windows(rows))
            embeddings[chosen] = embedding.cpu().numpy()
            values[chosen] = model.head.values(outputs).cpu().numpy()
    unit = np.stack([density_unit(panel, ends, horizon) for horizon in config.horizons], axis=1)
    densities: tuple[DensityForecast, ...] = ()
    if isinstance(trained.model.head, DensityHead):
        densities = densities_of(values, unit)
        values[:, :, :2] *= unit[:, :, None]
    elif trained.model.head.in_returns:
        values *= unit[:, :, None]
    return Forecasts(embeddings, config.head, quantities, values, densities)

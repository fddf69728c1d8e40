"""Forecasts and embeddings of a trained forecaster, in the unit of the return."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.config import Hardware
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.training.hardware import settings
from atlas_pipeline.windows.index import density_unit
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What is said at each window's end: ``embeddings`` float32 [n, d_model], and a ``density`` each."""

    embeddings: NDArray[np.float32]
    density: DensityForecast


def forecast(panel: Panel, trained: TrainedForecaster, ends: NDArray[np.int64], hardware: Hardware) -> Forecasts:
    """Embeddings and densities of the return over the horizon, for the windows that end at these rows.

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
    outputs = np.empty((3, len(ends)))
    batch = 64 if hardware.batch_size == "auto" else hardware.batch_size
    with settings(hardware) as compute, torch.inference_mode():
        model = trained.model.to(compute.device).eval()
        windows = ScaledWindows(panel, ends, trained.scaler, trained.fold, config.seq_length, compute.device)
        for begin in range(0, len(ends), batch):
            chosen = slice(begin, begin + batch)
            rows = torch.from_numpy(ends[chosen]).to(compute.device)
            with compute.autocast():
                embedding, density = model(windows(rows))
            df = torch.full_like(density.scale, math.inf) if density.df is None else density.df
            embeddings[chosen] = embedding.cpu().numpy()
            outputs[:, chosen] = torch.stack([density.location, density.scale, df]).cpu().numpy()
    unit = density_unit(panel, ends, config.horizon)
    return Forecasts(embeddings, DensityForecast(outputs[0] * unit, outputs[1] * unit, outputs[2]))

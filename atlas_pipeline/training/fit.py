"""Fitting the forecaster of a fold: from the panel to a trained bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.config import Config, DataSettings, Hardware, ModelSettings, TrainingSettings
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.hardware import peak_memory, physical_batch, settings
from atlas_pipeline.training.loop import Loop, Progress
from atlas_pipeline.training.objective import LabelledWindows
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import density_unit, labels
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows
from atlas_pipeline.windows.scaler import SCALERS


def fit_forecaster(
    panel: Panel,
    fold: Fold,
    config: Config,
    hardware: Hardware,
    checkpoint_dir: Path,
    progress: Callable[[Progress], None] | None = None,
    metrics: Callable[[int, dict[str, float]], None] | None = None,
    *,
    features: Sequence[str] | None = None,
    checkpoint_seconds: float = 20.0,
) -> TrainedForecaster:
    """Fit a forecaster on the windows whose labels are known before the fold's ``fit_end``.

    The same call after a kill goes on where the last checkpoint stands, and on a CPU ends with the same bits.

    Parameters
    ----------
    panel
        Holds the columns that are read; rows at or after ``fold.fit_end`` are left out here, whatever it holds.
    fold
        Decides the rows.
    config
        What is learned.
    hardware
        How it is run.
    checkpoint_dir
        The state stands here in a file named by fold, configuration and data, never by run.
    progress, metrics
        Called after each optimizer step; and once an epoch with its number and ``train/nll_loss``,
        ``train/variance`` (percent squared), ``val/nll_loss`` (nats, of the return in percent),
        ``val/coverage_95`` (share), ``learning_rate``, ``windows_per_second``.
    features
        Columns of the panel that the forecaster reads: for inputs of one's own. None reads the set
        ``config.features``.
    checkpoint_seconds
        Within an epoch a checkpoint is written no oftener than this; after an epoch always.

    Raises
    ------
    InsufficientHistoryError
        Where the fold has too few windows before it.
    NonFiniteLossError
        Where the loss becomes NaN or infinite.
    CorruptCheckpointError
        Where the checkpoint it would go on from is damaged.
    PanelError
        Where the panel lacks a column.
    ScalerLeakError
        Where a column has no value in the training rows.
    ValueError
        Where there is no such set, it does not have ``config.feature_size`` columns, or the hardware is not there.
    """
    names = set_columns(config.features) if features is None else tuple(features)
    if len(names) != config.feature_size:
        raise ValueError(
            f"Config.feature_size={config.feature_size}, and {len(names)} columns are to be read, {', '.join(names)}: "
            f"set feature_size={len(names)}, or choose other features"
        )
    began = time.monotonic()
    panel = panel.select(names).before(fold.fit_end)
    split = fold.split(panel)
    scaler = SCALERS[config.scaler].fit(panel.before(split.train_end), split)
    learned = config.digest(DataSettings, ModelSettings, TrainingSettings)
    key = hashlib.sha256(f"{fold.year} {learned} {panel.sha256()}".encode()).hexdigest()[:16]
    checkpoint = checkpoint_dir / f"forecaster-{fold.year}-{key}.safetensors"

    with settings(hardware) as compute, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Forecaster(config).to(compute.device)
        model.backbone.gradient_checkpointing = compute.gradient_checkpointing
        every = np.concatenate([split.train, split.validation])
        inputs = ScaledWindows(panel, every, scaler, fold.year, config.seq_length, compute.device)

        def windows(ends: NDArray[np.int64]) -> LabelledWindows:
            unit = density_unit(panel, ends, config.horizon)
            target = labels(panel, ends, config.horizon) / unit
            return LabelledWindows(
                inputs=inputs,
                ends=torch.from_numpy(ends).to(compute.device),
                target=torch.from_numpy(target.astype(np.float32)).to(compute.device),
                unit=torch.from_numpy(unit.astype(np.float32)).to(compute.device),
            )

        loop = Loop(model, config, compute, windows(split.train), windows(split.validation), batch=1)

        def trial(size: int) -> None:
            rows = torch.arange(size, device=compute.device) % len(split.train)
            with torch.random.fork_rng():
                loop.losses(rows).objective.backward()
            model.zero_grad(set_to_none=True)

        loop.batch = physical_batch(hardware, config, compute, trial)
        loop.run(
            checkpoint,
            checkpoint_seconds,
            progress or (lambda _: None),
            metrics or (lambda _epoch, _values: None),
        )
        summary = {
            "epochs": loop.position.history,
            "best_epoch": loop.position.best_epoch + 1,
            "val/nll_loss": loop.position.best_loss,
            "training_windows": len(split.train),
            "validation_windows": len(split.validation),
            "validation_outside_training_range": scaler.outside_share(panel.values[split.validation]),
            "physical_batch": loop.batch,
            "precision": hardware.precision,
            "device": compute.device.type,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_memory(compute.device),
        }
    return TrainedForecaster(model, scaler, config, fold.year, panel.symbols, summary, checkpoint)

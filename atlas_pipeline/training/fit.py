"""Fitting the forecaster of a fold: from the panel to a trained bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_pipeline.config import Config, DataSettings, Hardware, ModelSettings, TrainingSettings
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.climatology import climatology
from atlas_pipeline.training.feed import data_home
from atlas_pipeline.training.hardware import settings
from atlas_pipeline.training.loop import Loop
from atlas_pipeline.training.memory import peak_memory
from atlas_pipeline.training.objective import LabelledWindows
from atlas_pipeline.training.progress import Progress
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import density_unit, labels
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.sampling import window_weights
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
    step_metrics: Callable[[int, dict[str, float]], None] | None = None,
    trace: Path | None = None,
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
        Called after each optimizer step; and after each evaluation, once an epoch without ``config.eval_interval``,
        with its number and ``train/nll_loss``, ``val/nll_loss`` (nats, of the return in percent), or the loss of a head
        that says no density by its name; of densities ``train/variance`` (percent squared) and ``val/coverage_95``
        (share); ``learning_rate``, ``windows_per_second``, and so far
        ``step``, ``skipped_steps``, ``out_of_memory_halvings``.
    features
        Columns of the panel that the forecaster reads: for inputs of one's own. None reads the set
        ``config.features``.
    checkpoint_seconds
        Within an epoch a checkpoint is written no oftener than this, or each ``hardware.save_interval`` steps; after an
        epoch always.
    step_metrics
        Called each ``hardware.log_interval`` steps, once an epoch without, with the steps done and what the last step
        and the machine did: ``step/*``, and the device's load as ``telemetry.Telemetry.read`` names it.
    trace
        Where a profile of a few steps goes, in Chrome's format.

    Raises
    ------
    InsufficientHistoryError
        Where the fold has too few windows before it.
    NonFiniteLossError
        Where the loss or gradient was NaN or infinite in more than ``config.max_skipped_steps`` steps. Each one's
        windows stand beside the checkpoint, in a file named by the step.
    DeviceMemoryError
        Where not even one window fits the device. Where several do not, their number is halved, and the summary says
        so.
    CorruptCheckpointError
        Where the checkpoint it would go on from is damaged.
    PanelError
        Where the panel lacks a column.
    ScalerLeakError
        Where a column has no value in the training rows.
    ValueError
        Where there is no such set, it does not have ``config.feature_size`` columns, one of ``config.target_symbols``
        has no window, or the hardware is not there.
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

    with settings(hardware, config) as compute, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Forecaster(config).to(compute.device)
        model.backbone.gradient_checkpointing = compute.gradient_checkpointing
        every = np.concatenate([split.train, split.validation])
        home = data_home(hardware, compute.device, panel.values.nbytes)
        inputs = ScaledWindows(panel, every, scaler, fold.year, config.seq_length, home)

        def on_device(ends: Tensor) -> Tensor:
            return inputs(ends).to(compute.device, non_blocking=True)

        def windows(
            ends: NDArray[np.int64], inputs: Callable[[Tensor], Tensor], weight: NDArray[np.float32] | None = None
        ) -> LabelledWindows:
            unit = np.stack([density_unit(panel, ends, each) for each in config.horizons], axis=1)
            target = np.stack([labels(panel, ends, each) for each in config.horizons], axis=1) / unit
            return LabelledWindows(
                inputs=inputs,
                ends=torch.from_numpy(ends).to(home),
                target=torch.from_numpy(target.astype(np.float32)).to(home),
                unit=torch.from_numpy(unit.astype(np.float32)).to(home),
                weight=None if weight is None else torch.from_numpy(weight).to(home),
            )

        loop = Loop(
            model,
            config,
            compute,
            windows(split.train, inputs, window_weights(panel, split.train, config)),
            windows(split.validation, on_device),
            hardware.batch_size,
            workers=hardware.workers,
            log_interval=hardware.log_interval,
            save_interval=hardware.save_interval,
        )
        loop.run(
            checkpoint,
            checkpoint_seconds,
            progress or (lambda _: None),
            metrics or (lambda _number, _values: None),
            step_metrics or (lambda _step, _values: None),
            trace,
        )
        position = loop.position
        with torch.inference_mode():
            tokens = model.backbone(torch.zeros(1, config.seq_length, config.feature_size, device=compute.device))
        summary = {
            "epochs": position.history,
            "best_epoch": position.best_epoch + 1,
            "loss": model.head.loss_name,
            f"val/{model.head.loss_name}": position.best_loss,
            "climatology": climatology(model.head, loop.train),
            "training_windows": len(split.train),
            "validation_windows": len(split.validation),
            "validation_outside_training_range": scaler.outside_share(panel.values[split.validation]),
            "steps": position.step,
            "windows_learned": position.windows_learned,
            "tokens_learned": position.windows_learned * (tokens.numel() // config.d_model),
            "skipped_steps": position.skipped_steps,
            "physical_batch": loop.batch,
            "out_of_memory_halvings": position.out_of_memory_halvings,
            "precision": hardware.precision,
            "compile": hardware.compile,
            "data": "host" if hardware.data == "host" or home != compute.device else "device",
            "device": compute.device.type,
            "seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_memory(compute.device),
        }
    return TrainedForecaster(model, scaler, config, fold.year, panel.symbols, summary, checkpoint)

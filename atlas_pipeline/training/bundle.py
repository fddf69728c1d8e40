"""The trained bundle: a folder with weights, scaler, configuration and metrics, verified when loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from atlas_pipeline.config import Config
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.checkpoint import read_tensors, tensors_digest, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.whole_file import flush
from atlas_pipeline.windows.scaler import Scaler, ScalerLeakError, restore

WEIGHTS = "weights.safetensors"
SCALER = "scaler.safetensors"
CONFIG = "config.json"
METRICS = "metrics.json"
_REMEDY = "materialize the forecaster of that fold again"


@dataclass(frozen=True, eq=False)
class TrainedForecaster:
    """A forecaster, the scaler of its inputs, and how it came about.

    Attributes
    ----------
    model
        In evaluation mode.
    scaler
        Fitted on the fold's training rows; names the input features in their order. What is beyond its range is cut
        or flagged as it says.
    config
        What was learned.
    fold
        Year it is judged on.
    symbols
        What it was fitted on.
    metrics
        ``epochs`` (one mapping of metrics an epoch), ``best_epoch`` (counted from 1), counts of windows,
        seconds, bytes.
    checkpoint
        The state the fit left behind; of no use once the bundle is where it is kept.

    Raises
    ------
    ScalerLeakError
        Where the scaler was fitted for another fold.
    """

    model: Forecaster
    scaler: Scaler
    config: Config
    fold: int
    symbols: tuple[str, ...]
    metrics: dict[str, Any]
    checkpoint: Path | None = field(default=None)

    def __post_init__(self) -> None:
        if self.scaler.fold != self.fold:
            raise ScalerLeakError(
                f"a forecaster of fold {self.fold} is given the scaler of fold {self.scaler.fold}: "
                f"fit a scaler on the training rows of fold {self.fold}"
            )

    @cached_property
    def base_hash(self) -> str:
        """SHA-256 (hex) of the weights: what an adapter names as the base it belongs to."""
        return tensors_digest(dict(self.model.named_parameters()))

    @cached_property
    def scaler_hash(self) -> str:
        """SHA-256 (hex) of the scaler's arrays: what tells which scaling a network's inputs need."""
        return tensors_digest(self._scaler_tensors())

    def _scaler_tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.scaler.state()[0].items()}

    def save(self, directory: Path) -> Path:
        """Write the bundle; ``directory`` is replaced as a whole.

        Returns
        -------
        Path
            ``directory``.
        """
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        base_hash = write_tensors(temporary / WEIGHTS, dict(self.model.named_parameters()), {})
        scaler_hash = write_tensors(temporary / SCALER, self._scaler_tensors(), self.scaler.state()[1])
        about = {
            "base_hash": base_hash,
            "scaler_hash": scaler_hash,
            "fold": self.fold,
            "symbols": self.symbols,
            "features": self.scaler.features,
            "config": dataclasses.asdict(self.config),
        }
        for name, content in ((CONFIG, about), (METRICS, self.metrics)):
            path = temporary / name
            path.write_text(json.dumps(content, indent=2) + "\n")
            flush(path)
        if directory.exists():
            old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
            directory.rename(old)
            temporary.rename(directory)
            shutil.rmtree(old)
        else:
            temporary.rename(directory)
        flush(directory.parent)
        return directory

    @classmethod
    def load(cls, directory: Path) -> TrainedForecaster:
        """Read and verify the bundle that ``save`` wrote.

        Raises
        ------
        CorruptCheckpointError
            Where a file is missing or damaged, the weights are not those the configuration names, or the scaler is of
            another fold or of a kind that is not known.
        """
        try:
            about = json.loads((directory / CONFIG).read_text())
            metrics = json.loads((directory / METRICS).read_text())
            config = Config(**about["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptCheckpointError(
                f"{directory} is no complete bundle ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error
        weights, _ = read_tensors(directory / WEIGHTS, _REMEDY)
        scaling, record = read_tensors(directory / SCALER, _REMEDY)
        for name, tensors, expected in (
            (WEIGHTS, weights, about["base_hash"]),
            (SCALER, scaling, about["scaler_hash"]),
        ):
            if tensors_digest(tensors) != expected:
                raise CorruptCheckpointError(f"{directory / name} is not what {CONFIG} beside it names: {_REMEDY}")
        model = Forecaster(config)
        model.load_state_dict(weights)
        model.eval()
        try:
            scaler = restore({name: tensor.numpy() for name, tensor in scaling.items()}, record)
            return cls(model, scaler, config, about["fold"], tuple(about["symbols"]), metrics)
        except (ValueError, ScalerLeakError) as error:
            raise CorruptCheckpointError(f"{directory / SCALER}: {error}; {_REMEDY}") from error

"""The state of a policy's training in one file: written atomically, read back bit for bit, never pickled."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlas_pipeline.config import Config, PPOSettings, TradingSettings
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.trading.rollout import VectorEnvironment
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors


class PolicyCheckpointError(RuntimeError):
    """A checkpoint is sound, but of another training."""


def checkpoint_path(folder: Path, paths: list[MarketPath], config: Config) -> Path:
    """Name the file by everything that decides the result: bars, embeddings, forecasts and settings."""
    settings = [config.digest(TradingSettings, PPOSettings), config.gradient_clip, config.seed]
    content = hashlib.sha256(json.dumps(settings).encode())
    for path in paths:
        content.update(path.symbol.encode())
        for array in (
            path.available_at,
            path.open,
            path.close,
            path.volatility,
            path.embedding,
            path.forecast_location,
            path.forecast_scale,
            path.split,
            path.dividend,
        ):
            content.update(np.ascontiguousarray(array).tobytes())
    return folder / f"policy-{content.hexdigest()[:16]}.safetensors"


class PolicyCheckpoint:
    """Everything that training goes on from, in memory and in its file.

    Parameters
    ----------
    model, optimizer, generator, environment
        Read when saved, overwritten in place when loaded.

    Attributes
    ----------
    update : int
        Updates done.
    best : dict of str to Tensor
        Weights of the best policy so far, ``best_score`` and ``best_steps`` beside it.
    history : list of dict
        One record an update.
    """

    def __init__(
        self,
        model: ActorCritic,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        environment: VectorEnvironment,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.generator = generator
        self.environment = environment
        self.update = 0
        self.best: dict[str, Tensor] = copy.deepcopy(model.state_dict())
        self.best_score = float("-inf")
        self.best_steps = 0
        self.history: list[dict[str, float]] = []

    def consider(self, score: float, steps: int) -> None:
        """Keep the present policy where its score is the best so far."""
        if score > self.best_score:
            self.best = copy.deepcopy(self.model.state_dict())
            self.best_score, self.best_steps = score, steps

    def save(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items()}
        for name in ("accounts", "places", "tallies"):
            tensors[f"environment/{name}"] = torch.from_numpy(getattr(self.environment, name))
        tensors["generator"] = self.generator.get_state()
        progress = {
            "update": self.update,
            "best_score": self.best_score,
            "best_steps": self.best_steps,
            "history": self.history,
        }
        write_tensors(file, tensors, progress)

    def load(self, file: Path) -> None:
        """Take over a saved state.

        Raises
        ------
        CorruptCheckpointError
            Where the file is damaged.
        PolicyCheckpointError
            Where it is sound but does not fit this training.
        """
        remedy = "delete it, and the policy is trained from the start"
        tensors, progress = read_tensors(file, remedy)
        try:
            self.model.load_state_dict(_under(tensors, "model/"))
            state = self.optimizer.state_dict()
            for number in range(len(list(self.model.parameters()))):
                state["state"][number] = _under(tensors, f"optimizer/{number}/")
            self.optimizer.load_state_dict(state)
            for name in ("accounts", "places", "tallies"):
                getattr(self.environment, name)[:] = tensors[f"environment/{name}"].numpy()
            self.generator.set_state(tensors["generator"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise PolicyCheckpointError(f"{file} does not fit this training ({error}): {remedy}") from error
        self.best = _under(tensors, "best/")
        self.update, self.history = progress["update"], progress["history"]
        self.best_score, self.best_steps = progress["best_score"], progress["best_steps"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

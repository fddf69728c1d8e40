"""What a fit must keep to go on bit for bit: weights, averages, optimizer, random state, and where it stands.

How it is written and verified is ``checkpoint``'s.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas_pipeline.training.checkpoint import read_tensors, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.training.weight_average import load_parameters

if TYPE_CHECKING:
    from atlas_pipeline.training.loop import Loop

_CORRUPT = "delete it, and the fit starts again from its beginning"


@dataclass
class Position:
    """How far a fit has come, and what it has seen since its last evaluation."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    variance_sum: float = 0.0
    windows: int = 0
    windows_learned: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    patience_loss: float = math.inf
    epochs_without_gain: int = 0
    skipped_steps: int = 0
    out_of_memory_halvings: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the generators that a step on this device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set the generators back to a ``random_state``; those it does not have are left as they are."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def save_state(loop: Loop, path: Path) -> None:
    """Write the state of a fit."""
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in loop.model.named_parameters()}
    tensors |= {f"average.{name}": w for name, w in loop.average.weights.items()}
    tensors |= {f"best.{name}": w for name, w in loop.best.items()}
    optimizer = loop.optimizer.state_dict()["state"]
    tensors |= {f"optimizer.{i}.{key}": t for i, state in optimizer.items() for key, t in state.items()}
    tensors |= {f"random.{name}": state for name, state in random_state(loop.compute.device).items()}
    record = {
        "position": dataclasses.asdict(loop.position),
        "average_steps": loop.average.steps,
        "gradient_scaler": loop.gradient_scaler.state_dict(),
        "batch": loop.batch,
        "device": loop.compute.device.type,
    }
    write_tensors(path, tensors, record)


def restore_state(loop: Loop, path: Path) -> None:
    """Go on from a state that ``save_state`` wrote.

    A batch that was measured, or halved for want of memory, stays what it was: another one adds in another order.

    Raises
    ------
    CorruptCheckpointError
        Where the file is damaged or of another network.
    """
    tensors, record = read_tensors(path, _CORRUPT)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    weights = part("model.")
    if {n: p.shape for n, p in loop.model.named_parameters()} != {n: w.shape for n, w in weights.items()}:
        raise CorruptCheckpointError(f"{path} holds the weights of another network: {_CORRUPT}")
    load_parameters(loop.model, weights)
    device = loop.compute.device
    loop.average.load(part("average."), record["average_steps"])
    loop.best = {name: w.to(device) for name, w in part("best.").items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    loop.optimizer.load_state_dict({"state": state, "param_groups": loop.optimizer.state_dict()["param_groups"]})
    loop.gradient_scaler.load_state_dict(record["gradient_scaler"])
    set_random_state(part("random."), device)
    loop.position = Position(**record["position"])
    if record["device"] == device.type and (loop.batch == 0 or loop.position.out_of_memory_halvings):
        loop.batch = record["batch"]

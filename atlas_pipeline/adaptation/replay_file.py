"""The replay buffer in one safetensors file, so that priorities and beta outlive the run; draws go on exactly."""

from __future__ import annotations

from pathlib import Path

import torch

from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer, ReplayError
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError

_REMEDY = "materialize the lora_adapter of that step again"


def save_replay(buffer: PrioritizedReplayBuffer, path: Path) -> str:
    """Write the buffer, whole or not at all, and return the SHA-256 (hex) of its arrays."""
    arrays = buffer.state_dict()
    return write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, {})


def load_replay(path: Path) -> PrioritizedReplayBuffer:
    """Read a buffer that ``save_replay`` wrote.

    Raises
    ------
    CorruptCheckpointError
        Where the file is missing, damaged or something else; it is named.
    """
    tensors, _ = read_tensors(path, _REMEDY)
    try:
        return PrioritizedReplayBuffer.from_state_dict({name: t.numpy() for name, t in tensors.items()})
    except ReplayError as error:
        raise CorruptCheckpointError(f"{path}: {error}; {_REMEDY}") from error

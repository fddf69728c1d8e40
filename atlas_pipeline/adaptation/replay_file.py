"""A replay buffer on disk, so that the next adapter carries its priorities on."""

from __future__ import annotations

from pathlib import Path

import torch

from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors


def save_replay(replay: PrioritizedReplayBuffer, file: Path) -> str:
    """Write the buffer, whole or not at all, and return the SHA-256 (hex) of its arrays."""
    return write_tensors(
        file, {name: torch.from_numpy(array) for name, array in replay.state_dict().items()}, {}
    )


def load_replay(file: Path) -> PrioritizedReplayBuffer:
    """Read a buffer that ``save_replay`` wrote.

    Raises
    ------
    CorruptCheckpointError
        Where the file is missing or damaged.
    ReplayError
        Where it holds something else.
    """
    tensors, _ = read_tensors(file, "materialize the adapter that it stands beside again")
    return PrioritizedReplayBuffer.from_state_dict({name: tensor.numpy() for name, tensor in tensors.items()})

"""A trained policy on disk: the actor-critic in one file, how it came about in another beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.ppo import TrainedPolicy
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.whole_file import whole_file

HISTORY = "history.json"
_REMEDY = "materialize the policy of that fold again"


def save_policy(model: ActorCritic, file: Path) -> str:
    """Write an actor-critic, whole or not at all, and return the SHA-256 (hex) of its tensors."""
    record = {"state_dim": model.state_dim, "hidden": model.actor[0].out_features}
    return write_tensors(file, model.state_dict(), record)


def load_policy(file: Path) -> ActorCritic:
    """Read an actor-critic that ``save_policy`` wrote, in evaluation mode.

    Raises
    ------
    CorruptCheckpointError
        Where the file is missing, damaged or something else; it is named.
    """
    tensors, record = read_tensors(file, _REMEDY)
    if record.keys() != {"state_dim", "hidden"}:
        raise CorruptCheckpointError(f"{file} is not an actor-critic: {_REMEDY}")
    model = ActorCritic(**record)
    model.load_state_dict(tensors)
    return model.eval()


def save_trained_policy(trained: TrainedPolicy, file: Path) -> None:
    """Write a trained policy; the actor-critic comes last, so that where it stands its history does too."""
    about = {field.name: getattr(trained, field.name) for field in dataclasses.fields(trained) if field.name != "model"}
    with whole_file(file.with_name(HISTORY)) as temporary:
        temporary.write_text(json.dumps(about))
    save_policy(trained.model, file)


def load_trained_policy(file: Path) -> TrainedPolicy:
    """Read what ``save_trained_policy`` wrote.

    Raises
    ------
    CorruptCheckpointError
        Where one of the two files is missing or damaged.
    """
    try:
        about = json.loads(file.with_name(HISTORY).read_text())
        return TrainedPolicy(model=load_policy(file), **about)
    except (OSError, ValueError, TypeError) as error:
        raise CorruptCheckpointError(f"{file.with_name(HISTORY)} cannot be read ({error}): {_REMEDY}") from error

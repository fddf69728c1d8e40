import numpy as np
import pytest
import torch

from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer
from atlas_pipeline.adaptation.replay_file import load_replay, save_replay
from atlas_pipeline.training.checkpoint import write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError


@pytest.mark.parametrize("count", [5, 30])
def test_draws_go_on_after_the_file(tmp_path, count):
    buffer = PrioritizedReplayBuffer(16)
    generator = np.random.default_rng(0)
    for number in range(count):
        buffer.add({"env_step": np.array([number])}, generator.normal(size=1))
    save_replay(buffer, tmp_path / "replay.safetensors")
    again = load_replay(tmp_path / "replay.safetensors")
    for each in (buffer, again):
        each.add({"env_step": np.array([99, 100])})
    one, other = (each.sample(20, np.random.default_rng(1)) for each in (buffer, again))
    np.testing.assert_array_equal(one.experience["env_step"], other.experience["env_step"])
    np.testing.assert_array_equal(one.weights, other.weights)


def test_a_damaged_or_strange_file_is_named(tmp_path):
    path = tmp_path / "replay.safetensors"
    with pytest.raises(CorruptCheckpointError, match=r"replay\.safetensors"):
        load_replay(path)
    buffer = PrioritizedReplayBuffer(4)
    buffer.add({"env_step": np.arange(3)})
    save_replay(buffer, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpointError, match=r"replay\.safetensors"):
        load_replay(path)
    write_tensors(path, {"weight": torch.zeros(1)}, {})
    with pytest.raises(CorruptCheckpointError, match="lacks"):
        load_replay(path)

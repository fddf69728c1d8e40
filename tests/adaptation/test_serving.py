import dataclasses
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from atlas_pipeline.adaptation.lora import AdapterBaseMismatchError, save_adapter
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.market.instants import EPOCH
from atlas_pipeline.trading.policy_bundle import save_policy
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.windows.index import window_ends


def day(number):
    return EPOCH + timedelta(days=number)


def test_the_empty_adapter_serves_the_base_bit_for_bit(base, panel, config, hardware):
    ends = window_ends(panel, config.seq_length)
    embeddings, _, _ = base.observe(panel, ends, hardware)
    values = torch.from_numpy(base.forecaster.scaler.transform(panel.values, base.forecaster.fold))
    with torch.inference_mode():
        for start in range(0, len(ends) - 16, 16):
            rows = ends[start : start + 16]
            windows = torch.stack([values[row - config.seq_length + 1 : row + 1] for row in rows])
            np.testing.assert_array_equal(base.forecaster.model.embed(windows), embeddings[start : start + 16])


def test_an_adapter_changes_the_embedding_and_not_the_forecast(base, learned, panel, config, hardware):
    ends = window_ends(panel, config.seq_length)[:20]
    plain = base.observe(panel, ends, hardware)
    adapted = base.with_adapter(learned, "7").observe(panel, ends, hardware)
    assert np.abs(plain[0] - adapted[0]).max() > 1e-3
    np.testing.assert_array_equal(plain[1], adapted[1])
    np.testing.assert_array_equal(plain[2], adapted[2])


def test_a_bar_is_the_same_bits_whatever_it_is_computed_with(base, learned, panel, config, hardware):
    live = base.with_adapter(learned, "7")
    ends = window_ends(panel, config.seq_length)
    together = live.observe(panel, ends, hardware)
    for position in (0, 5, 17, len(ends) - 1):
        alone = live.observe(panel, ends[position : position + 1], hardware)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[position])
    shifted = live.observe(panel, ends[3:], hardware)
    np.testing.assert_array_equal(shifted[0], together[0][3:])


def test_paths_do_not_change_with_the_future(base, panel, hardware):
    whole = base.market_paths(panel, day(60), day(100), hardware)
    cut = base.market_paths(panel.before(day(100)), day(60), None, hardware)
    changed = dataclasses.replace(panel, values=np.where(panel.available_at[:, None] < 100 * 86_400_000_000,
                                                         panel.values, np.float32(9)))  # fmt: skip
    for other in (cut, base.market_paths(changed, day(60), day(100), hardware)):
        for one, two in zip(whole, other, strict=True):
            np.testing.assert_array_equal(one.available_at, two.available_at)
            np.testing.assert_array_equal(one.embedding, two.embedding)
            np.testing.assert_array_equal(one.forecast_scale, two.forecast_scale)
    assert [len(path) for path in whole] == [40, 40]


def test_paths_know_the_splits_of_bars_that_end_no_window(base, panel, hardware, config):
    split, dividend, values = panel.split.copy(), panel.dividend.copy(), panel.values.copy()
    split[70], dividend[[72, 110]], values[68] = 3.0, [0.6, 0.2], np.nan
    holed = dataclasses.replace(panel, split=split, dividend=dividend, values=values)
    # A missing value at 68: the first window after it ends seq_length bars later.
    first = 68 + config.seq_length
    for start, booked in ((68, (3.0, 0.6)), (71, (1.0, 0.6)), (73, (1.0, 0.0))):
        path, _ = base.market_paths(holed, day(start), None, hardware)
        assert path.available_at[0] == first * 86_400_000_000
        assert (path.split[0], path.dividend[0]) == booked
        assert np.flatnonzero(path.dividend[1:]).tolist() == [110 - first - 1]


def test_no_bar_no_path(base, panel, hardware):
    assert base.market_paths(panel, datetime(2100, 1, 1, tzinfo=UTC), None, hardware) == []


def test_loads_what_was_saved(tmp_path, base, learned, panel, config, hardware):
    base.forecaster.save(tmp_path / "forecaster")
    sha256 = save_policy(base.actor_critic, tmp_path / "policy.safetensors")
    save_adapter(learned, tmp_path / "adapter.safetensors")
    assert sha256 == base.policy_sha256
    for adapter, live in ((None, base), (tmp_path / "adapter.safetensors", base.with_adapter(learned, "7"))):
        again = LivePolicy.load(tmp_path / "forecaster", tmp_path / "policy.safetensors", adapter, "7")
        assert again.adapter.sha256 == live.adapter.sha256
        ends = window_ends(panel, config.seq_length)[:4]
        np.testing.assert_array_equal(again.observe(panel, ends, hardware)[0], live.observe(panel, ends, hardware)[0])
        state = torch.randn(2, base.actor_critic.state_dim)
        assert torch.equal(again.actor_critic(state)[0], base.actor_critic(state)[0])


def test_what_does_not_belong_together_is_refused(base, learned):
    with pytest.raises(AdapterBaseMismatchError, match="base"):
        base.with_adapter(dataclasses.replace(learned, base_sha256="0" * 64), "7")
    with pytest.raises(AdapterBaseMismatchError, match="learned with policy 0000"):
        base.with_adapter(dataclasses.replace(learned, policy_sha256="0" * 64), "7")


def test_a_damaged_policy_file_is_named(tmp_path, base):
    base.forecaster.save(tmp_path / "forecaster")
    path = tmp_path / "policy.safetensors"
    save_policy(base.actor_critic, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptCheckpointError, match=r"policy\.safetensors"):
        LivePolicy.load(tmp_path / "forecaster", path, None, "7")


def test_a_network_that_has_diverged_is_refused(base, learned, panel, config, hardware):
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in learned.tensors.items()}
    broken = base.with_adapter(dataclasses.replace(learned, tensors=tensors), "8")
    with pytest.raises(FloatingPointError, match="model '8' is not finite"):
        broken.observe(panel, window_ends(panel, config.seq_length)[:3], hardware)


def test_serving_needs_no_peft():
    code = "import sys, atlas_pipeline.adaptation.shadow; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(shown.stdout.split())
    assert "atlas_pipeline.adaptation.serving" in modules
    assert not modules & {"peft", "transformers", "arch", "matplotlib", "dagster", "duckdb", "mlflow"}

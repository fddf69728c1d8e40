"""Adapters: made from the ledger up to their step, registered once, carried on from one to the next."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from atlas_pipeline.adaptation.ledger import EXPERIENCE
from atlas_pipeline.adaptation.lora import load_adapter
from atlas_pipeline.adaptation.replay_file import load_replay
from resources.tracking import CHALLENGER, CHAMPION, MODEL, Tracking


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("lora_adapter")
    return {name: value.value for name, value in event.metadata.items()}


def test_an_adapter_is_registered_once_as_challenger(traded_copy) -> None:
    result = traded_copy.adapt(100)
    assert result.success
    base, made = traded_copy.tracking.versions(MODEL)
    assert traded_copy.tracking.alias(MODEL, CHALLENGER).version == made.version == 2
    assert traded_copy.tracking.alias(MODEL, CHAMPION).version == base.version
    assert made.tags["kind"] == "adapter" and made.tags["env_step"] == "100" and made.tags["continues"] == "1"
    for name in ("base_hash", "forecaster", "policy", "fold", "trades_from"):
        assert made.tags[name] == base.tags[name]
    experience = traded_copy.warehouse.read(EXPERIENCE).set_index("env_step")
    assert pd.Timestamp(made.tags["created_at"]) == experience.loc[100, "next_bar"]
    adapter = load_adapter(traded_copy.artifacts.absolute(made.tags["adapter"]), base.tags["base_hash"])
    assert adapter.sha256 == made.tags["sha256"] and adapter.env_step == 100
    assert any(bool(tensor.any()) for tensor in adapter.tensors.values()), "the adapter learned nothing"
    shown = metadata(result)
    assert shown["experience"] == 100 and shown["model version"] == 2 and shown["adapter hash"] == adapter.sha256
    assert {"online/actor_loss", "online/critic_loss", "online/entropy", "online/per_beta"} <= set(shown)

    again = traded_copy.adapt(100)
    assert again.success and metadata(again)["adapter hash"] == adapter.sha256
    assert [version.version for version in traded_copy.tracking.versions(MODEL)] == [1, 2]
    traded_copy.artifacts.verify(traded_copy.artifacts.absolute(made.tags["adapter"]).parent)


def test_an_adapter_knows_nothing_after_its_step(traded_copy, cut_ledger) -> None:
    later = metadata(traded_copy.adapt(60))["adapter hash"]
    cut_ledger(traded_copy, 60)
    assert traded_copy.warehouse.read(EXPERIENCE)["env_step"].max() == 60
    # Not found by its name: learned anew.
    for made in traded_copy.artifacts.kept("lora_adapter"):
        made.rename(made.with_name("moved"))
    assert metadata(traded_copy.adapt(60))["adapter hash"] == later


def test_an_adapter_beyond_the_ledger_fails(traded_copy) -> None:
    message = traded_copy.failure(traded_copy.adapt(600))
    assert "adapter 000600 needs 600 environment steps, the ledger has 500" in message
    assert "materialize paper_ledger further first" in message
    assert len(traded_copy.tracking.versions(MODEL)) == 1


def test_without_experience_there_is_no_adapter(fold_copy) -> None:
    assert "the ledger has 0" in fold_copy.failure(fold_copy.adapt(100))


def test_the_next_adapter_carries_the_replay_on(traded_copy) -> None:
    first, second = metadata(traded_copy.adapt(100)), metadata(traded_copy.adapt(200))
    buffers = [load_replay(Path(shown["file"]).with_name("replay.safetensors")) for shown in (first, second)]
    assert len(buffers[0]) < len(buffers[1])
    assert second["online/per_beta"] > first["online/per_beta"]
    made = traded_copy.tracking.versions(MODEL)[2]
    assert made.tags["env_step"] == "200" and made.tags["continues"] == "1", "the first was never promoted"
    assert traded_copy.tracking.alias(MODEL, CHALLENGER).version == 3


def test_a_damaged_replay_is_named_and_its_remedy_helps(traded_copy) -> None:
    folder = Path(metadata(traded_copy.adapt(100))["file"]).parent
    (folder / "replay.safetensors").write_bytes(b"damaged")
    message = traded_copy.failure(traded_copy.adapt(200))
    assert f"{folder / 'replay.safetensors'} is changed" in message and f"remove the folder {folder}" in message
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert traded_copy.adapt(100).success and traded_copy.adapt(200).success
    assert [version.tags["env_step"] for version in traded_copy.tracking.versions(MODEL)] == ["0", "100", "200"]


def test_an_adapter_that_was_published_and_not_registered_is_registered_once(
    traded_copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> int:
        raise dg.Failure("stopped here", allow_retries=False)

    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "register", stopped)
        assert "stopped here" in traded_copy.failure(traded_copy.adapt(100))
    (folder,) = traded_copy.artifacts.kept("lora_adapter")
    assert traded_copy.adapt(100).success
    assert traded_copy.artifacts.kept("lora_adapter") == [folder]
    (_, made) = traded_copy.tracking.versions(MODEL)
    adapter = load_adapter(folder / "adapter.safetensors", made.tags["base_hash"])
    assert adapter.sha256 == made.tags["sha256"]

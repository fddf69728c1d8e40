import dataclasses

import pytest
import torch

from atlas_pipeline.adaptation.lora import (
    Adapter,
    AdapterBaseMismatchError,
    AdapterShapeError,
    attach,
    extract,
    load_adapter,
    merged,
    save_adapter,
)
from atlas_pipeline.config import Config
from atlas_pipeline.models.patchtst import PatchTST
from atlas_pipeline.models.registry import BACKBONES, make_backbone
from atlas_pipeline.training.checkpoint import write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError

SMALL = Config(seq_length=32, patch_length=8, stride=8, d_model=16, n_heads=2, n_layers=2, ff_dim=32, lora_rank=4)
EMPTY = Adapter("base", "policy", "digest", rank=4, alpha=16)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return PatchTST(SMALL).eval()


@pytest.fixture(scope="module")
def learned(backbone):
    """An adapter with non-zero B, as after an update."""
    generator = torch.Generator().manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in extract(attach(backbone, SMALL, EMPTY, 0)).items()}
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return dataclasses.replace(EMPTY, env_step=500, tensors=tensors)


def windows(count=3):
    return torch.randn(count, SMALL.seq_length, SMALL.feature_size, generator=torch.Generator().manual_seed(2))


def test_has_98304_trainable_parameters_on_the_default_model():
    config = Config()
    network = attach(PatchTST(config), config, Adapter("b", "p", "c"), 0)
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == 98_304
    assert sum(tensor.numel() for tensor in extract(network).values()) == 98_304


def test_the_empty_adapter_is_the_identity_bit_for_bit(backbone):
    x = windows()
    expected = backbone(x)
    assert torch.equal(merged(backbone, EMPTY)(x), expected)
    assert torch.equal(attach(backbone, SMALL, EMPTY, 0).eval()(x), expected)
    fresh = dataclasses.replace(EMPTY, tensors=extract(attach(backbone, SMALL, EMPTY, 0)))
    assert torch.equal(merged(backbone, fresh)(x), expected)


def test_merge_equals_peft(backbone, learned):
    from peft.tuners.lora import LoraLayer

    x = windows()
    network = attach(backbone, SMALL, learned, 0).eval()
    ours = merged(backbone, learned)
    torch.testing.assert_close(ours(x), network(x), rtol=0, atol=1e-5)  # two roundings of one product
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    weights = {name.replace(".base_layer", ""): p for name, p in network.named_parameters() if "lora" not in name}
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)
    assert not torch.equal(ours(x), backbone(x))


@pytest.mark.parametrize(("name", "members"), [*((name, 1) for name in BACKBONES), ("residual_mlp", 3)])
def test_every_backbone_takes_an_adapter(name, members):
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, backbone=name, members=members)
    backbone = make_backbone(config).eval()
    x = windows()
    network = attach(backbone, config, EMPTY, 0).eval()
    # Nothing is added, but on some processors the next product is then summed in another order.
    torch.testing.assert_close(network(x), backbone(x), rtol=0, atol=1e-6)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    adapter = dataclasses.replace(EMPTY, tensors=extract(network))
    assert len(adapter.tensors) == 2 * len(backbone.lora_targets) * config.n_layers * members
    ours = merged(backbone, adapter)
    torch.testing.assert_close(ours(x), network(x), rtol=1e-4, atol=1e-4)  # two roundings of one product, many layers
    assert not torch.allclose(ours(x), backbone(x), atol=1e-3)


def test_neither_merge_nor_attach_touches_the_backbone(backbone, learned):
    before = {name: p.clone() for name, p in backbone.state_dict().items()}
    merged(backbone, learned)
    attach(backbone, SMALL, learned, 0)
    assert all(torch.equal(before[name], p) for name, p in backbone.state_dict().items())
    assert before.keys() == backbone.state_dict().keys()


def test_the_file_carries_everything(tmp_path, learned):
    adapter = dataclasses.replace(learned, parent="f" * 64)
    sha256 = save_adapter(adapter, tmp_path / "a" / "adapter.safetensors")
    again = load_adapter(tmp_path / "a" / "adapter.safetensors", "base")
    assert again.sha256 == sha256
    assert (again.env_step, again.parent, again.policy_sha256) == (500, "f" * 64, "policy")
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in adapter.tensors.items())
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["adapter.safetensors"]


def test_the_empty_adapter_has_a_file_too(tmp_path):
    save_adapter(EMPTY, tmp_path / "empty.safetensors")
    assert load_adapter(tmp_path / "empty.safetensors", "base").sha256 == EMPTY.sha256


def test_another_base_is_refused(tmp_path, learned):
    save_adapter(learned, tmp_path / "adapter.safetensors")
    with pytest.raises(AdapterBaseMismatchError, match="learned on base base, not on other"):
        load_adapter(tmp_path / "adapter.safetensors", "other")


@pytest.mark.parametrize("where", [0, 40, -40])
def test_a_changed_byte_is_found(tmp_path, learned, where):
    path = tmp_path / "adapter.safetensors"
    save_adapter(learned, path)
    content = bytearray(path.read_bytes())
    content[where] ^= 0x41
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"adapter\.safetensors"):
        load_adapter(path, "base")


def test_a_changed_origin_is_found(tmp_path, learned):
    path = tmp_path / "adapter.safetensors"
    save_adapter(learned, path)
    content = path.read_bytes()
    assert content.count(b"500") == 1
    path.write_bytes(content.replace(b"500", b"501"))
    with pytest.raises(CorruptCheckpointError, match="another origin"):
        load_adapter(path, "base")


def test_a_cut_file_another_file_and_no_file_are_named(tmp_path, learned):
    path = tmp_path / "adapter.safetensors"
    save_adapter(learned, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptCheckpointError, match=r"adapter\.safetensors"):
        load_adapter(path, "base")
    path.write_text("not an adapter")
    with pytest.raises(CorruptCheckpointError, match=r"adapter\.safetensors"):
        load_adapter(path, "base")
    write_tensors(path, {"weight": torch.zeros(2)}, {"about": "something else"})
    with pytest.raises(CorruptCheckpointError, match="not an adapter"):
        load_adapter(path, "base")
    with pytest.raises(CorruptCheckpointError, match="none"):
        load_adapter(tmp_path / "none", "base")


def test_matrices_that_do_not_fit_are_refused(backbone, learned):
    strange = dataclasses.replace(learned, tensors={"layers.9.lora_A.weight": torch.zeros(4, 16)})
    with pytest.raises(AdapterShapeError, match=r"layers\.9"):
        merged(backbone, strange)
    with pytest.raises(AdapterShapeError, match="modules are not this backbone's q_proj"):
        attach(backbone, SMALL, strange, 0)
    with pytest.raises(AdapterShapeError, match="rank 4"):
        attach(backbone, dataclasses.replace(SMALL, lora_rank=8), learned, 0)

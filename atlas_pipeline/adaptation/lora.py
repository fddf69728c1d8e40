"""LoRA adapters: what they are, their file, their layers in training, and their merge for serving.

``W' = W + (alpha / r) B A`` (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
sec. 4.1). Training uses peft's layers. Serving needs no peft, which takes seconds to import: it adds the
product to the weights. How an adapter is learned is in ``online_update``; whether it is served is in
``gate``.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from atlas_pipeline.config import AdaptationSettings

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
# All metadata is one entry: safetensors does not keep an order among several, and equal adapters are equal
# files.
METADATA_ENTRY = "adapter"
Network = TypeVar("Network", bound=nn.Module)


class AdapterBaseMismatchError(RuntimeError):
    """An adapter was to be loaded onto another base than the one it was learned on."""


class AdapterFileError(RuntimeError):
    """A file is not an adapter, or not the one that was written."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter and where it comes from.

    Attributes
    ----------
    base_sha256, policy_sha256
        Of the forecaster's weights and of the actor-critic's it was learned with.
    config_digest
        Of the settings it was learned with.
    env_step
        Environment steps (bars times symbols) its ledger had at its creation; 0 for the empty adapter.
    parent
        ``sha256`` of the adapter it was continued from; "" where it was begun.
    rank, alpha
        r and alpha of the formula above.
    tensors
        ``MODULE.lora_A.weight`` float32 [r, in] and ``MODULE.lora_B.weight`` float32 [out, r]; none: the
        identity.
    """

    base_sha256: str
    policy_sha256: str
    config_digest: str
    env_step: int = 0
    parent: str = ""
    rank: int = 8
    alpha: int = 16
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameter_count(self) -> int:
        """Numbers in all matrices."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over provenance, names, shapes and numbers: the adapter's identity."""
        digest = hashlib.sha256(json.dumps(self._provenance(), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().float().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def _provenance(self) -> dict[str, str | int]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}


def save_adapter(adapter: Adapter, path: Path) -> str:
    """Write one safetensors file, whole or not at all, and return the adapter's ``sha256``."""
    sha256 = adapter.sha256
    metadata = {METADATA_ENTRY: json.dumps({**adapter._provenance(), "sha256": sha256}, sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(safetensors.torch.save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return sha256


def load_adapter(path: Path, base_sha256: str) -> Adapter:
    """Read an adapter for a base.

    Parameters
    ----------
    path
        File that ``save_adapter`` wrote.
    base_sha256
        Of the forecaster it is to be put on.

    Raises
    ------
    AdapterFileError
        Where the file is missing, damaged or something else; it is named.
    AdapterBaseMismatchError
        Where the adapter was learned on another base.
    """
    if not path.is_file():
        raise AdapterFileError(f"adapter {path} is missing: materialize the lora_adapter of that step")
    damaged = f"adapter {path} is damaged: delete it and materialize the lora_adapter of that step again"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_ENTRY])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        sha256 = about.pop("sha256")
        adapter = Adapter(**about, tensors=tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AdapterFileError(f"{damaged} ({type(error).__name__}: {error})") from error
    if adapter.sha256 != sha256:
        raise AdapterFileError(f"{damaged} (its content is not what was written)")
    if adapter.base_sha256 != base_sha256:
        raise AdapterBaseMismatchError(
            f"adapter {path} was learned on base {adapter.base_sha256[:16]}, not on {base_sha256[:16]}: load the "
            "base it names, or start this base with an empty adapter"
        )
    return adapter


def merged(backbone: Network, adapter: Adapter) -> Network:
    """Copy the backbone with the adapter in its weights; the backbone itself stays as it is.

    Raises
    ------
    AdapterFileError
        Where the adapter names a module or a shape that the backbone does not have.
    """
    result = copy.deepcopy(backbone)
    names = {name.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") for name in adapter.tensors}
    modules = dict(result.named_modules())
    with torch.no_grad():
        for name in sorted(names):
            down, up = (adapter.tensors.get(f"{name}.lora_{side}.weight") for side in "AB")
            weight = getattr(modules.get(name), "weight", None)
            if down is None or up is None or weight is None or (up.shape[0], down.shape[1]) != weight.shape:
                raise AdapterFileError(f"the adapter's matrices of {name!r} do not fit the backbone")
            weight += (up @ down).mul_(adapter.alpha / adapter.rank).to(weight)
    return result


def attach(backbone: nn.Module, config: AdaptationSettings, adapter: Adapter, seed: int) -> nn.Module:
    """Copy the backbone with peft's LoRA layers on its attention projections; only these are trainable.

    Parameters
    ----------
    backbone
        Stays as it is.
    config
        Rank, alpha and dropout.
    adapter
        Continued from; the empty one begins with B = 0, which changes nothing until the first step.
    seed
        Of the initial A (Kaiming uniform) where the adapter is empty.

    Raises
    ------
    AdapterFileError
        Where the adapter to continue has another rank or alpha, or other modules.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(TARGETS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = inject_adapter_in_model(settings, copy.deepcopy(backbone))
    if adapter.tensors:
        if (adapter.rank, adapter.alpha) != (config.lora_rank, config.lora_alpha):
            raise AdapterFileError(
                f"the adapter has rank {adapter.rank} and alpha {adapter.alpha}, the configuration "
                f"{config.lora_rank} and {config.lora_alpha}: start with an empty adapter"
            )
        if adapter.tensors.keys() != extract(network).keys():
            raise AdapterFileError("the adapter's modules are not this backbone's attention projections")
        set_peft_model_state_dict(network, dict(adapter.tensors))
    return network


def extract(network: nn.Module) -> dict[str, Tensor]:
    """Copy the LoRA matrices out of a network from ``attach``, named as in ``Adapter.tensors``."""
    from peft import get_peft_model_state_dict

    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in get_peft_model_state_dict(network).items()
    }

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.backbone import Backbone
from atlas_pipeline.training.checkpoint import read_tensors, tensors_digest, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError

_REMEDY = "materialize the lora_adapter of that step again"
Network = TypeVar("Network", bound=nn.Module)


class AdapterBaseMismatchError(RuntimeError):
    """An adapter was to be loaded onto another base than the one it was learned on."""


class AdapterShapeError(RuntimeError):
    """An adapter's matrices do not fit the network or the configuration."""


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

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) over provenance, names, shapes and numbers: the adapter's identity."""
        provenance = json.dumps(self.provenance(), sort_keys=True)
        return hashlib.sha256(f"{provenance} {tensors_digest(self.tensors)}".encode()).hexdigest()

    def provenance(self) -> dict[str, str | int]:
        """All but the tensors, as JSON can hold it."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}

    def require_base(self, base_sha256: str) -> None:
        """Refuse another base than the one the adapter was learned on.

        Raises
        ------
        AdapterBaseMismatchError
            Naming both.
        """
        if self.base_sha256 != base_sha256:
            raise AdapterBaseMismatchError(
                f"adapter {self.sha256[:16]} was learned on base {self.base_sha256[:16]}, not on "
                f"{base_sha256[:16]}: load the base it names, or start this base with an empty adapter"
            )


def empty_adapter(base_sha256: str, policy_sha256: str, config: Config) -> Adapter:
    """Make the adapter that every base starts with: the identity."""
    return Adapter(base_sha256, policy_sha256, config.digest(), rank=config.lora_rank, alpha=config.lora_alpha)


def save_adapter(adapter: Adapter, path: Path) -> str:
    """Write one safetensors file, whole or not at all, and return the adapter's ``sha256``."""
    write_tensors(path, adapter.tensors, {**adapter.provenance(), "sha256": adapter.sha256})
    return adapter.sha256


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
    CorruptCheckpointError
        Where the file is missing, damaged or something else; it is named.
    AdapterBaseMismatchError
        Where the adapter was learned on another base.
    """
    tensors, record = read_tensors(path, _REMEDY)
    written = record.pop("sha256", None)
    if record.keys() != Adapter("", "", "").provenance().keys():
        raise CorruptCheckpointError(f"{path} is not an adapter: {_REMEDY}")
    adapter = Adapter(**record, tensors=tensors)
    if adapter.sha256 != written:
        raise CorruptCheckpointError(f"{path} names another origin than was written to it: {_REMEDY}")
    adapter.require_base(base_sha256)
    return adapter


def merged(backbone: Network, adapter: Adapter) -> Network:
    """Copy the backbone with the adapter in its weights; the backbone itself stays as it is.

    Raises
    ------
    AdapterShapeError
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
                raise AdapterShapeError(f"the adapter's matrices of {name!r} do not fit the backbone")
            weight += (up @ down).mul_(adapter.alpha / adapter.rank).to(weight)
    return result


def attach(backbone: Backbone, config: Config, adapter: Adapter, seed: int) -> nn.Module:
    """Copy the backbone with peft's LoRA layers on its ``lora_targets``; only these are trainable.

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
    AdapterShapeError
        Where the adapter to continue has another rank or alpha, or other modules.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(backbone.lora_targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = inject_adapter_in_model(settings, copy.deepcopy(backbone))
    if adapter.tensors:
        if (adapter.rank, adapter.alpha) != (config.lora_rank, config.lora_alpha):
            raise AdapterShapeError(
                f"the adapter has rank {adapter.rank} and alpha {adapter.alpha}, the configuration "
                f"{config.lora_rank} and {config.lora_alpha}: start with an empty adapter"
            )
        if adapter.tensors.keys() != extract(network).keys():
            raise AdapterShapeError(
                f"the adapter's modules are not this backbone's {', '.join(backbone.lora_targets)}: "
                "start with an empty adapter"
            )
        set_peft_model_state_dict(network, dict(adapter.tensors))
    return network


def extract(network: nn.Module) -> dict[str, Tensor]:
    """Copy the LoRA matrices out of a network from ``attach``, named as in ``Adapter.tensors``."""
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().float().cpu().clone() for name, tensor in get_peft_model_state_dict(network).items()}

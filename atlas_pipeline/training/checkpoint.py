"""Tensors with a JSON record in one safetensors file, written atomically and verified when read.

What is in a checkpoint is ``loop``'s concern, what is in a trained bundle is ``bundle``'s. Nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.whole_file import whole_file


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes of tensors with SHA-256 (hex), whatever their order and device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Write tensors and a JSON record to ``path`` and return the tensors' digest.

    The file appears whole or not at all: written beside it, flushed to disk, renamed.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = tensors_digest(content)
    with whole_file(path) as temporary:
        save_file(content, temporary, {"record": json.dumps(record), "sha256": digest})
    return digest


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify the tensors and the record that ``write_tensors`` wrote.

    Parameters
    ----------
    path
        The file.
    remedy
        What the user does where it is damaged; the end of the error's sentence.

    Raises
    ------
    CorruptCheckpointError
        Where the file cannot be read, or its tensors are not those that were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(about["record"])
        written = about["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CorruptCheckpointError(f"{path} cannot be read ({type(error).__name__}: {error}): {remedy}") from error
    if tensors_digest(tensors) != written:
        raise CorruptCheckpointError(f"{path} holds other tensors than were written to it: {remedy}")
    return tensors, record

"""Market paths on disk in one safetensors file: embeddings are computed once and mapped by whoever trades them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.training.checkpoint import read_tensors, tensors_digest, write_tensors

_ARRAYS = tuple(field.name for field in fields(MarketPath) if field.name != "symbol")


def paths_digest(paths: list[MarketPath]) -> str:
    """Return the SHA-256 (hex) of the arrays of market paths."""
    return tensors_digest(_tensors(paths))


def _tensors(paths: list[MarketPath]) -> dict[str, torch.Tensor]:
    return {f"{path.symbol}/{name}": torch.from_numpy(getattr(path, name).copy()) for path in paths for name in _ARRAYS}


def write_paths(paths: list[MarketPath], file: Path, base_hash: str) -> str:
    """Write market paths, whole or not at all.

    Parameters
    ----------
    paths
        One a symbol.
    file
        Where to; its folder must exist.
    base_hash
        The forecaster whose embeddings these are.

    Returns
    -------
    str
        SHA-256 (hex) of the arrays.
    """
    return write_tensors(file, _tensors(paths), {"symbols": [path.symbol for path in paths], "base_hash": base_hash})


def read_paths(file: Path) -> tuple[list[MarketPath], str]:
    """Read what ``write_paths`` wrote: the paths and the hash of their forecaster.

    Raises
    ------
    CorruptCheckpointError
        Where the file is missing or damaged.
    """
    tensors, about = read_tensors(file, "materialize the embeddings of that fold again")
    paths = [
        MarketPath(symbol=symbol, **{name: tensors[f"{symbol}/{name}"].numpy() for name in _ARRAYS})
        for symbol in about["symbols"]
    ]
    return paths, str(about["base_hash"])
